import json
import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parfocal import doctor
from parfocal.cli.program import app


@pytest.fixture(scope="module")
def checks() -> list[doctor.Check]:
    return list(doctor.diagnose())


def test_this_installation_is_healthy(checks: list[doctor.Check]):
    assert [check for check in checks if check.state == "failed"] == []
    assert {check.topic for check in checks} >= {
        *("version", "device", "reader", "codec", "folder", "network", "slide")
    }


def test_a_tiny_slide_goes_the_whole_path(checks: list[doctor.Check]):
    assert checks[-1].text.startswith("read, encoded, stored and classified in ")
    assert checks[-1].text.endswith(" patches visited)")


def test_what_is_missing_fails_and_the_exit_code_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def broken(*_: object, **__: object) -> object:
        raise OSError("the library is damaged")

    monkeypatch.setattr(doctor, "write_pyramid", broken)
    result = CliRunner().invoke(app, ["doctor", str(tmp_path / "missing")])
    assert result.exit_code == 1
    assert (
        "failed  slide    whole path: unexpected OSError: the library is damaged" in result.output
    )
    assert f"failed  folder   {tmp_path / 'missing'}: cannot be written (No such" in result.output


def test_the_checks_are_printed_as_json(
    monkeypatch: pytest.MonkeyPatch, checks: list[doctor.Check]
):
    monkeypatch.setattr(doctor, "diagnose", lambda folders: iter(checks))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.output)[0]["name"] == "python"


def test_what_is_installed_is_printed_with_the_version():
    result = CliRunner().invoke(app, ["--version", "--verbose"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].startswith("parfocal ")
    named = {line.split()[1].rstrip(":") for line in lines[1:]}
    assert named >= {"python", "torch", "openslide-python", "openslide", "cpu", "timm"}
    assert CliRunner().invoke(app, ["--verbose", "--version"]).output.count("\n") == len(lines)


def test_cores_and_threads_are_counted_in_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "thread_count", lambda most: 1)
    monkeypatch.setattr(doctor.torch, "get_num_threads", lambda: 1)
    assert next(doctor._devices()).text == "1 core, 1 thread of torch"


def test_a_module_of_another_package_has_its_version(monkeypatch: pytest.MonkeyPatch):
    def version(name: str) -> str:
        if name == "onnxruntime":
            raise PackageNotFoundError
        return "1.2"

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(
        doctor, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]}
    )
    assert doctor._version_of_module("onnxruntime") == "1.2 (onnxruntime-gpu)"
    monkeypatch.setattr(doctor, "packages_distributions", dict)
    assert doctor._version_of_module("onnxruntime") == "unknown version"


def test_a_ray_cluster_is_reachable_if_it_accepts_connections():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert doctor.ray_check(address).state == "ok"
    check = doctor.ray_check(address)
    assert check.state == "failed"
    assert check.text.startswith("cannot be reached (Connection refused); start it, or correct")


def test_passwords_are_not_printed():
    text = [c.text for c in doctor._network({"https_proxy": "http://me:secret@proxy:80"})][-1]
    assert "secret" not in text
    assert "proxy" in text


def test_a_codec_that_decodes_wrongly_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("imagecodecs.lzw_decode", lambda content: b"other")
    check = doctor._attempt("codec", "lzw", lambda: doctor._round_trip("lzw"), "advice")
    assert check.state == "failed"
    assert "decodes to other pixels; advice" in check.text
