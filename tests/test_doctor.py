import json
import socket
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
