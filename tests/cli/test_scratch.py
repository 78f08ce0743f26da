"""Commands that read slides copy them to --scratch, and read remote ones as the options say."""

import inspect

import pytest

from parfocal.cli import program
from parfocal.slide.staging import Stage

COMMANDS = ("inspect", "extract", "train", "calibrate", "evaluate", "compare", "audit", "predict")


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_read_slides_have_the_options_of_remote_and_copied_ones(name):
    found = set(inspect.signature(getattr(program, name)).parameters)
    assert {"remote_cache", "scratch", "scratch_gb", "allow_redirect"} <= found


def test_evaluate_reads_copies_and_removes_them(parfocal, cohort, run, tmp_path, monkeypatch):
    opened, usual = [], Stage.open

    def noted(stage, path):
        copied = usual(stage, path)
        opened.append((path.name, copied[0].is_relative_to(tmp_path / "scratch")))
        return copied

    monkeypatch.setattr(Stage, "open", noted)
    result = parfocal(
        *("evaluate", run, cohort, "--out", tmp_path / "out", "--scratch", tmp_path / "scratch")
    )
    assert result.code == 0, result.err
    assert opened == [(name, True) for name in ("006.tif", "007.tif")]
    assert list((tmp_path / "scratch").iterdir()) == []
