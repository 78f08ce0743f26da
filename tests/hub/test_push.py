"""Pushing asks twice, shows what goes where, and writes only what was shown."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.hub.conftest import SECRETS, FakeHub

from command_result import CommandResult
from parfocal.hub.card import license_of
from parfocal.hub.repository import HubError, Repository, parse_repository, parse_target

Run = Callable[..., CommandResult]


class Terminal(io.StringIO):
    """Input that a person types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("text", ["hf:lab/model", "lab/model"])
def test_a_repository_is_named_with_or_without_hf(text: str):
    assert parse_target(text) == Repository("lab", "model")


def test_a_name_is_a_folder_if_its_first_part_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    assert parse_target("out/model") == Path("out/model")
    assert parse_target("hf:out/model") == Repository("out", "model")


@pytest.mark.parametrize("text", ["published", "./lab/model", "/tmp/lab/model", "a/b/c"])
def test_other_names_are_folders(text: str):
    assert parse_target(text) == Path(text)


def test_a_revision_is_a_part_of_the_name():
    assert parse_repository("hf:lab/model@v1") == Repository("lab", "model", "v1")
    assert Repository("lab", "model", "v1").text == "hf:lab/model@v1"


@pytest.mark.parametrize("text", ["hf:model", "hf:lab/model/x", "hf:../model", "hf:lab/mo del"])
def test_a_name_that_is_none_of_the_hub_is_refused(text: str):
    with pytest.raises(HubError, match="is not a repository; give hf:OWNER/NAME"):
        parse_repository(text)


def test_a_revision_cannot_be_pushed_to():
    with pytest.raises(HubError, match="leave out @REVISION"):
        parse_target("hf:lab/model@v1")


def test_a_folder_is_written_and_nothing_else(
    parfocal: Run, run: Path, hub: FakeHub, tmp_path: Path, slide: Path
):
    out = tmp_path / "published"
    result = parfocal("push", run, out)
    assert result.code == 0
    assert "README.md" in result.out
    assert "nothing was uploaded" in result.out
    assert hub.calls == 0
    again = parfocal("push", run, out)  # replaces its own files
    assert again.code == 0
    predicted = parfocal("predict", out, slide, "--out", tmp_path / "predictions")
    assert predicted.code == 0  # with the encoder of this machine, not with that of the training


def test_a_folder_with_other_files_is_refused(parfocal: Run, run: Path, tmp_path: Path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("P-KRAMER")
    result = parfocal("push", run, out)
    assert (result.code, "holds other files, such as notes.txt" in result.err) == (1, True)


def test_a_dry_run_prints_the_card_and_contacts_nobody(parfocal: Run, run: Path, hub: FakeHub):
    result = parfocal("push", run, "lab/model", "--dry-run")
    assert result.code == 0
    assert "to the repository lab/model of the Hub (if new, private):" in result.out
    assert "config.json" in result.out
    assert "# zoommil: normal, tumor" in result.out
    assert result.out.endswith("nothing was written\n")
    assert hub.calls == 0
    assert not any(secret in result.out for secret in SECRETS)


def test_without_a_terminal_nothing_is_pushed(parfocal: Run, run: Path, hub: FakeHub):
    result = parfocal("push", run, "lab/model")
    assert result.code == 1
    assert "nothing was pushed to lab/model: there is no terminal to confirm in; add --yes" in (
        result.err
    )
    assert not hub.folder.exists()


@pytest.mark.parametrize("answer", ["y\n", "n\n", "\n"])
def test_a_person_confirms_what_is_pushed(
    parfocal: Run, run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, answer: str
):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    result = parfocal("push", run, "lab/model")
    assert "to the repository lab/model of https://hub.test (if new, private):" in result.out
    assert "Upload these files to lab/model?" in result.out
    assert hub.folder.exists() == (answer == "y\n")
    assert ("nothing was pushed" in result.out) == (answer != "y\n")


def test_a_new_repository_is_private_unless_it_is_asked_to_be_public(
    parfocal: Run, run: Path, hub: FakeHub
):
    assert parfocal("push", run, "hf:lab/one", "--yes").code == 0
    assert parfocal("push", run, "hf:lab/two", "--yes", "--public").code == 0
    assert "private" in hub.files("lab/one")
    assert "private" not in hub.files("lab/two")


def test_the_state_of_a_repository_that_exists_is_shown(parfocal: Run, run: Path, hub: FakeHub):
    (hub.folder / "lab" / "model").mkdir(parents=True)
    result = parfocal("push", run, "lab/model", "--yes")
    assert "(exists, public)" in result.out
    assert "https://hub.test/lab/model/commit/1: pushed" in result.out


def test_what_is_uploaded_names_nobody(parfocal: Run, run: Path, evaluation: Path, hub: FakeHub):
    parfocal("push", run, "hf:lab/model", "--yes", "--evaluation", evaluation)
    files = hub.files("lab/model")
    assert set(files) == {
        *("README.md", "config.json", "model.safetensors", "settings.yaml", "private")
    }
    for content in files.values():
        assert not any(secret.encode() in content for secret in SECRETS)


class RepositoryNotFoundError(Exception):
    pass


class GatedRepoError(RepositoryNotFoundError):
    pass


class OfflineModeIsEnabled(ConnectionError):  # noqa: N818 (the name it has)
    pass


for kind in (RepositoryNotFoundError, GatedRepoError, OfflineModeIsEnabled):
    kind.__module__ = "huggingface_hub.errors"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RepositoryNotFoundError("404"), "no such repository, or it is private; check the name"),
        (GatedRepoError("403"), "access to it has to be requested on its page"),
        (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set, and it is not in the cache"),
        (ConnectionError("no route\nto host"), r"the Hub cannot be used \(no route to host\)"),
    ],
)
def test_errors_of_the_hub_are_one_line(
    parfocal: Run, run: Path, hub: FakeHub, error: Exception, reason: str
):
    hub.fail = error
    for command in (
        ("push", run, "hf:lab/model", "--yes"),
        ("evaluate", "hf:lab/model", "a.csv", "--out", run.parent / "out"),
    ):
        result = parfocal(*command)
        assert result.code == 1
        (line,) = result.err.splitlines()
        assert "predict" not in line
        with pytest.raises(AssertionError, match=f"hf:lab/model: {reason}"):
            raise AssertionError(line)


def test_without_the_package_the_message_says_how_to_install_it(
    parfocal: Run, run: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    result = parfocal("push", run, "hf:lab/model", "--yes")
    assert "pip install 'parfocal[hub]'" in result.err
    assert "predict" not in result.err


@pytest.mark.slow
def test_the_license_of_an_earlier_push_is_kept(
    parfocal: Run, run: Path, hub: FakeHub, tmp_path: Path
):
    for target in (tmp_path / "published", "hf:lab/model"):
        assert parfocal("push", run, target, "--license", "apache-2.0", "--yes").code == 0
        again = parfocal("push", run, target, "--yes")
        assert again.out.startswith("license: apache-2.0, as on the card that is there now\n")
        other = parfocal("push", run, target, "--yes", "--license", "mit")
        assert "apache-2.0" not in other.out
    assert "license: mit" in (tmp_path / "published" / "README.md").read_text()
    assert b"license: mit" in hub.files("lab/model")["README.md"]


def test_the_card_is_titled_by_the_recipe_and_links_to_no_registry(
    parfocal: Run, run: Path, tmp_path: Path
):
    settings = run / "settings.yaml"
    settings.write_text(settings.read_text().replace("k: 2", "k: 2, hindsight: true"))
    text = parfocal("push", run, tmp_path / "published", "--dry-run").out
    assert "# zoommil-hindsight: normal, tumor" in text
    assert "https://pypi" not in text


@pytest.mark.parametrize("card", ["", "---\n", "---\n: [\n---\n", "---\nlicense: 3\n---\n"])
def test_a_card_without_a_license_has_none(card: str):
    assert license_of(card) is None
