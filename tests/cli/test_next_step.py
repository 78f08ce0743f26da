"""Every command ends by saying what to do next."""

import inspect
import json
import shlex
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from command_result import CommandResult
from parfocal.cli import next_step
from parfocal.cli.program import app, cohort
from parfocal.dataset.split import has_test_slides
from parfocal.distribute.failures import FailedItem
from parfocal.distribute.status import RunningItem, WorkStatus
from small import TINY, write_table

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
        "Next: write cohort.csv with the columns slide_id, path and label, then parfocal train "
        "cohort.csv --magnifications 2.5,10 --out run"
    )
    mixed = parfocal("inspect", tmp_path / "none.svs", slide, "--magnifications", "2.5,10")
    assert "Next: to retry what failed, run the same command again; then write coh" in mixed.err
    assert mixed.err.endswith("parfocal train cohort.csv --magnifications 2.5,10 --out run\n")


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


def test_inspect_leads_to_training_on_a_table_or_to_other_magnifications(tmp_path: Path):
    def after(*slides: str, **options: Any) -> str:
        given: dict[str, Any] = {"picture": None, "unfit": False, **options}
        magnifications = given.pop("magnifications", (2.5, 5.0, 10.0))
        return next_step.after_inspect(slides, magnifications, given.pop("picture"), **given)

    table = write_table(tmp_path / "my cohort.csv", ("slide_id", "path", "label"), ("a", "b", "c"))
    name = shlex.quote(str(table))
    assert after(str(table)) == f"parfocal train {name} --out run"
    assert after(str(table), magnifications=(1.25, 10.0), tissue_method="gray") == (
        f"parfocal train {name} --magnifications 1.25,10 --set slide.tissue_method=gray --out run"
    )
    assert after(str(table), magnifications=(20.0,)) == (
        f"parfocal train {name} --model abmil --magnifications 20 --out run"
    )
    assert after(str(table), columns=["mpp"]).startswith(
        f"add mpp to {table}, then parfocal train "
    )
    bare = write_table(tmp_path / "bare.csv", ("slide_id", "path"), ("a", "b"))
    assert after(str(bare)).startswith(f"add label to {bare}, then parfocal train {bare} --out")
    assert after("a.svs", picture=Path("s.html")).startswith("look at s.html, then write cohort")
    assert after("a.svs", columns=["mpp"]) == (
        "write cohort.csv with the columns slide_id, path, mpp and label, then parfocal train "
        "cohort.csv --out run"
    )
    assert after("a.csv", unfit=True) == (
        "choose --magnifications that all slides have, instead of 2.5,5,10"
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
    options = {"--features": "2.5=A,10=B", "--cache": None, "--trust-remote-code": True}
    assert next_step.after_train(run, table, options, tested=True) == (
        "parfocal evaluate run c.csv --features 2.5=A,10=B --trust-remote-code --out evaluation"
    )
    untested = next_step.after_train(run, table, tested=False)
    assert untested.startswith("the run has no test slides, so evaluate it on another cohort")
    assert untested.endswith("parfocal predict run SLIDE... --out predictions")


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
    features = {"--features": "f"}
    assert next_step.after_calibrate(Path("run"), features, settles=True).endswith(
        "--out predictions --features f --budget settled"
    )
    assert "--budget share=10%" in next_step.after_calibrate(Path("run"), {}, settles=False)


def test_a_synthetic_cohort_leads_to_training_for_its_endpoint():
    def after(
        endpoint: str | None, side_um: float, mpp: float = 1.0, *, trains: bool = True
    ) -> str:
        path = Path("p/cohort.csv")
        return next_step.after_synth(path, endpoint, side_um=side_um, mpp=mpp, trains=trains)

    assert after("ordinal", 5120) == (
        "parfocal train p/cohort.csv --task ordinal --target grade --out run --cache cache"
    )
    small = "parfocal train p/cohort.csv --magnifications {} --out run --cache cache"
    assert after(None, 512) == small.format("5,10")
    assert after(None, 512, 0.25) == small.format("5,10,20")
    assert after(None, 2048, 2.0) == small.format("2.5,5")
    assert after(None, 512, trains=False).endswith(
        "parfocal inspect p/cohort.csv --magnifications 5,10 --picture sheet.html"
    )


def test_predictions_per_patient_need_a_table(tmp_path: Path):
    description = {"format": "parfocal checkpoint", "format_version": 2, "unit": {"per": "patient"}}
    (tmp_path / "checkpoint.json").write_text(json.dumps(description))
    assert next_step.predict_command(tmp_path).endswith("--out predictions --patients TABLE")
    (tmp_path / "checkpoint.json").write_text(json.dumps({**description, "unit": None}))
    assert next_step.predict_command(tmp_path).endswith("--out predictions")


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--slides", "2"), ("--slides", "6"), ("--mpp", "0.25")])
def test_what_synth_prints_can_be_pasted(
    parfocal: Callable[..., CommandResult],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: tuple[str, str],
):
    monkeypatch.chdir(tmp_path)
    given = {"--slides": "6", "--seed": "0", "--size": "1024", **dict([options])}
    text = parfocal("synth", "my slides", *chain.from_iterable(given.items())).err
    small = ("--epochs", "1", "--encoder", "tiny")
    text = paste(parfocal, text, *(small if "parfocal train" in text else ()))
    if given["--slides"] == "6":
        paste(parfocal, paste(parfocal, text), slides="my slides/slides")
        assert (tmp_path / "predictions" / "predictions.csv").exists()
    else:
        assert (tmp_path / "sheet.html").exists()


@pytest.mark.slow
def test_what_is_printed_about_features_can_be_pasted(
    parfocal: Callable[..., CommandResult],
    monkeypatch: pytest.MonkeyPatch,
    cohort: Path,
    tmp_path: Path,
):
    monkeypatch.chdir(tmp_path)
    others = ("--patch-size", "64", "--children", "all", "--min-tissue", "0.2")
    text = parfocal("extract", cohort, "--out", "my features", *TINY, *others).err
    few = ("--set", "model.k=2", "--epochs", "1")
    described = parfocal("features", "my features").err
    same = shlex.split(text.splitlines()[-1])
    assert set(shlex.split(described.splitlines()[-1])) - {"cohort.csv"} < set(same)
    text = paste(parfocal, text, *few)
    assert "--features 'my features'" in text.splitlines()[-1]
    text = paste(parfocal, text)
    assert "--features 'my features'" in text.splitlines()[-1]
    paste(parfocal, text, slides=str(cohort.parent / "000.tif"))
    text = parfocal("audit", "run", cohort, "--features", "my features", "--out", "audit").err
    paste(parfocal, text, slides=str(cohort.parent / "001.tif"))


def paste(parfocal: Callable[..., CommandResult], text: str, *more: str, slides: str = "") -> str:
    """Run the command at the end of what a command printed; return what it prints."""
    line = text.splitlines()[-1]
    words = shlex.split(line[line.index("parfocal ") :].replace("SLIDE...", shlex.quote(slides)))
    found = parfocal(*words[1:], *more)
    assert found.code == 0, f"{line}: {found.err}"
    return found.err
