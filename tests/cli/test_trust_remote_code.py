"""Every command that loads an encoder takes --trust-remote-code, and hands it on."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.main import get_command

from command_result import CommandResult
from parfocal.cli.program import app
from parfocal.compare.candidate import load_candidate
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.weights import EncoderError
from parfocal.models.checkpoint import Checkpoint
from parfocal.reproduce import read_table
from parfocal.settings import load_settings
from small import write_table

Command = Callable[..., CommandResult]
FLAG = "--trust-remote-code"
LOADING = {
    *("extract", "train", "calibrate", "evaluate", "probe", "compare", "reproduce", "audit"),
    *("predict", "serve-encoder"),
}
# Where each command hands the permission on, and its arguments.
HANDED_ON = {
    "calibrate": ("parfocal.evaluate.calibrate.calibrate_runs", ("RUN", "cohort.csv")),
    "evaluate": ("parfocal.evaluate.run.evaluate", ("RUN", "cohort.csv", "--out", "OUT")),
    "audit": ("parfocal.audit.audit", ("RUN", "cohort.csv", "--out", "OUT")),
    "predict": ("parfocal.models.ensemble.load_trained", ("RUN", "a.svs", "--out", "OUT")),
    "probe": ("parfocal.probe.probe", ("cohort.csv", "--encoders", "hibou-b", "--out", "OUT")),
    "serve-encoder": ("parfocal.encoders.loading.load_encoder", ("hibou-b",)),
    "compare": (
        "parfocal.compare.load_candidates",
        ("cohort.csv", "--models", "abmil", "--out", "OUT"),
    ),
    "reproduce": (
        "parfocal.reproduce.read_table",
        ("jsma-bach", "--data", "OUT", "--out", "OUT"),
    ),
    "extract": (
        "parfocal.settings.encoders.encoder_settings",
        ("COHORT", "--magnifications", "20", "--encoder", "hibou-b", "--out", "OUT"),
    ),
    "train": ("parfocal.settings.load_settings", ("cohort.csv", "--out", "OUT")),
}


class StopError(Exception):
    """Raised where the permission has arrived."""


def test_all_commands_that_load_an_encoder_have_the_option():
    commands = get_command(app).commands.items()
    assert {
        name for name, command in commands if any(FLAG in each.opts for each in command.params)
    } == LOADING
    assert set(HANDED_ON) == LOADING
    named = {
        name
        for name, command in commands
        if any("--encoder" in each.opts for each in command.params)
    }
    assert named <= LOADING


@pytest.mark.parametrize("name", HANDED_ON)
def test_the_permission_reaches_the_library(
    parfocal: Command, monkeypatch, tmp_path: Path, untrained: Checkpoint, name: str
):
    place, arguments = HANDED_ON[name]
    untrained.save(tmp_path / "run")
    cohort = write_table(tmp_path / "cohort.csv", ("slide_id", "path"), ("1", "a.tif"))
    (tmp_path / "a.tif").touch()
    words = {"RUN": tmp_path / "run", "OUT": tmp_path / "out", "COHORT": cohort}
    found: list[object] = []

    def record(*given: object, **settings: object) -> None:
        flags = given[3] if name == "train" and len(given) > 3 else settings
        assert isinstance(flags, dict)
        found.append(flags.get("encoder.trust_remote_code", flags.get("trust_remote_code")))
        raise StopError("here")

    monkeypatch.setattr(place, record)
    given = [words.get(word, word) for word in arguments]
    for flags in ((), (FLAG,)):
        assert "here" in parfocal(name, *given, *flags).err
    assert found in ([False, True], [None, True])


def trusted(settings: Sequence[str], **given: bool) -> bool:
    return load_candidate("m", "abmil", overrides=settings, **given).trust_remote_code


def test_a_comparison_trusts_the_repositories_that_its_settings_or_its_option_name():
    assert not trusted([])
    assert trusted([], trust_remote_code=True)
    assert trusted(["encoder.trust_remote_code=true"])
    assert not load_candidate("m", "meanrgb", trust_remote_code=True).trust_remote_code
    assert read_table("zoommil-camelyon16", trust_remote_code=True).trust_remote_code
    candidates = read_table("zoommil-camelyon16", trust_remote_code=True).candidates()
    assert all(
        each.trust_remote_code
        for members in candidates.values()
        for each in members
        if each.settings.encoder is not None
    )
    assert replace(load_settings("abmil")).encoder.trust_remote_code is False


def test_the_message_of_an_untrusted_repository_names_the_option():
    with pytest.raises(EncoderError, match=r"allow it: --trust-remote-code\.$"):
        load_encoder("hibou-b")
