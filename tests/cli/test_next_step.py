"""Every command ends by saying what to do next."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from command_result import CommandResult
from parfocal.cli import next_step
from parfocal.cli.program import app, cohort
from parfocal.dataset.split import has_test_slides
from parfocal.distribute.failures import FailedItem
from parfocal.distribute.status import RunningItem, WorkStatus
from small import write_table

SERVERS = {"view", "serve_encoder"}  # they run until Ctrl-C, and say so
COMMANDS = [command.callback for group in (app, cohort) for command in group.registered_commands]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_a_command_says_what_to_do_next(command: Callable[..., None]):
    source = inspect.getsource(inspect.unwrap(command))
    if command.__name__ in SERVERS:
        assert "press Ctrl-C to stop" in source
    else:
        assert "say_next(" in source or "then=" in source or "_print_patients(" in source


def test_the_next_step_goes_to_standard_error(
    parfocal: Callable[..., CommandResult], slide: Path, tmp_path: Path
):
    found = parfocal("inspect", slide, "--magnifications", "2.5,10")
    assert "Next:" not in found.out
    assert found.err.splitlines()[-1] == (
        "Next: write cohort.csv with the columns slide_id, path and label, and run parfocal train "
        "cohort.csv --out run"
    )
    mixed = parfocal("inspect", tmp_path / "none.svs", slide, "--magnifications", "2.5,10")
    assert mixed.err.endswith("--out run; to retry what failed, run the same command again\n")


def test_json_has_no_next_step(parfocal: Callable[..., CommandResult], slide: Path):
    assert "Next:" not in parfocal("inspect", slide, "--json").err
    assert "Next:" not in parfocal("encoders", "tiny", "--json").err
    assert parfocal("encoders", "tiny").err == (
        "Next: parfocal train cohort.csv --encoder tiny --out run\n"
    )
    # It was not made for the low magnifications of the default recipe.
    assert parfocal("encoders", "uni2-h").err == (
        "Next: parfocal probe cohort.csv --encoders efficientnet-lite0,uni2-h --out probe\n"
    )


def test_nothing_is_said_if_everything_failed(
    parfocal: Callable[..., CommandResult], tmp_path: Path
):
    assert "Next:" not in parfocal("inspect", tmp_path / "none.svs").err


def test_inspect_leads_to_training_on_a_table_or_to_other_magnifications():
    def after(*slides: str, picture: Path | None = None, unfit: bool = False) -> str:
        return next_step.after_inspect(slides, "1.25,10", picture, unfit=unfit)

    assert after("my cohort.csv") == "parfocal train 'my cohort.csv' --out run"
    assert after("a.svs", picture=Path("s.html")).startswith("look at s.html, then write cohort")
    assert after("a.csv", unfit=True) == (
        "choose --magnifications that all slides have, instead of 1.25,10"
    )


def write_split(path: Path, *parts: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [(str(number), "", "a", part) for number, part in enumerate(parts)]
    write_table(path, ("slide_id", "patient_id", "label", "split"), *rows)


def test_training_leads_to_evaluation_only_if_there_are_test_slides(tmp_path: Path):
    write_split(tmp_path / "run" / "split.csv", "train", "val")
    write_split(tmp_path / "folds" / "fold-0" / "split.csv", "train", "val", "test")
    assert [has_test_slides(tmp_path / name) for name in ("run", "folds")] == [False, True]
    run, table = Path("run"), Path("c.csv")
    assert next_step.after_train(run, table, "2.5=A,10=B", tested=True) == (
        "parfocal evaluate run c.csv --features 2.5=A,10=B --out evaluation"
    )
    untested = next_step.after_train(run, table, None, tested=False)
    assert untested.startswith("parfocal predict run SLIDE... --out predictions (the run has no ")


def status(**counts: int) -> WorkStatus:
    """Return the status of a folder with these numbers of items."""
    running = RunningItem("x", 1, "host", "", 0.0, 0.0)
    failed = FailedItem("x", "damaged", "host", 0.0, "k")
    return WorkStatus(
        out=Path("features"),
        task="extracting",
        unit="slides",
        total=sum(counts.values()),
        done=("x",) * counts.get("done", 0),
        running=(running,) * counts.get("running", 0),
        failed=(failed,) * counts.get("failed", 0),
        waiting=("x",) * counts.get("waiting", 0),
        processes=1,
        per_minute=None,
    )


@pytest.mark.parametrize(
    ("counts", "advice"),
    [
        ({"running": 1, "failed": 1}, "wait; or start the same command on another machine"),
        ({"done": 1, "failed": 1}, "run the same command again"),
        ({"done": 1, "waiting": 1}, "run the same command again"),
        ({"done": 2}, "features is complete"),
    ],
)
def test_the_advice_of_status_depends_on_the_work(counts: dict[str, int], advice: str):
    assert next_step.after_status([status(**counts)]).startswith(advice)


def test_an_audit_with_other_labels_leads_to_more_patches():
    assert "--budget share=20%" in next_step.after_audit(Path("run"), 0.9)
    assert next_step.after_audit(Path("run"), 1.0) == next_step.predict_command(Path("run"))
    assert next_step.after_audit(Path("run"), None) == next_step.predict_command(Path("run"))


def test_a_rule_that_never_settles_leads_to_a_fixed_budget():
    assert "--budget settled" in next_step.after_calibrate(Path("run"), settles=True)
    assert "--budget share=10%" in next_step.after_calibrate(Path("run"), settles=False)


def test_a_synthetic_cohort_leads_to_training_for_its_endpoint():
    assert next_step.after_synth(Path("p/cohort.csv"), "ordinal") == (
        "parfocal train p/cohort.csv --task ordinal --target grade --out run --cache cache"
    )
