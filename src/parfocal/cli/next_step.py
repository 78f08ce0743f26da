"""What to do next: the last line of every command.

It goes to standard error, so that standard output has the results only, and is left out with
`--json`. Words in capitals, such as SLIDE, are for the user to fill in.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from parfocal.distribute.status import WorkStatus

TABLES = (".csv", ".tsv", ".xlsx")
# Options that train on a cohort of `synth --endpoint`.
ENDPOINT_OPTIONS = {
    "survival": "--task survival --time os_months --event os_event",
    "regression": "--task regression --target lesion_mm2",
    "ordinal": "--task ordinal --target grade",
    "multilabel": "--task multilabel --target hollow,ringed",
}


def say_next(text: str) -> None:
    """Print what to do next."""
    typer.echo(f"Next: {text}", err=True)


def quoted(path: object) -> str:
    """Return a path as a shell needs it."""
    return shlex.quote(str(path))


def open_in_browser(*pages: Path) -> str:
    """Return the advice to open pages."""
    return f"open {' and '.join(map(str, pages))} in a browser"


def after_encoders(name: str | None, *, any_mpp: bool = True) -> str:
    """Return what to do after `encoders`, which lists all encoders or describes one.

    Args:
        name: name of the encoder; None after the list.
        any_mpp: whether it can be used at every magnification of the default recipe.
    """
    if name is None:
        return "parfocal encoders NAME, for what an encoder needs and how to get its weights"
    if not any_mpp:
        names = f"efficientnet-lite0,{name}"
        return f"parfocal probe cohort.csv --encoders {quoted(names)} --out probe"
    return f"parfocal train cohort.csv --encoder {quoted(name)} --out run"


def after_inspect(
    slides: Sequence[str], magnifications: str, picture: Path | None, *, unfit: bool
) -> str:
    """Return what to do after `inspect`.

    Args:
        slides: slides and tables that were inspected.
        magnifications: magnifications that the patches were counted at.
        picture: sheet that was drawn; None if none was.
        unfit: whether a slide has no patches at the magnifications.
    """
    look = "" if picture is None else f"look at {picture}, then "
    if unfit:
        return f"{look}choose --magnifications that all slides have, instead of {magnifications}"
    table = next((each for each in slides if each.lower().endswith(TABLES)), None)
    if table is not None:
        return f"{look}parfocal train {quoted(table)} --out run"
    return (
        f"{look}write cohort.csv with the columns slide_id, path and label, and run parfocal train "
        "cohort.csv --out run"
    )


def after_synth(cohort: Path, endpoint: str | None) -> str:
    """Return what to do with a synthetic cohort."""
    options = "" if endpoint is None else f" {ENDPOINT_OPTIONS[endpoint]}"
    return f"parfocal train {quoted(cohort)}{options} --out run --cache cache"


def after_train(run: Path, cohort: Path, features: str | None, *, tested: bool) -> str:
    """Return what to do with a trained model.

    Args:
        run: run folder.
        cohort: cohort that it was trained on.
        features: features that it was trained on; None for slide files.
        tested: whether the run has test slides.
    """
    if not tested:
        return (
            f"{predict_command(run)} (the run has no test slides; to evaluate it, give parfocal "
            f"evaluate {quoted(run)} another cohort, with --external)"
        )
    option = "" if features is None else f" --features {quoted(features)}"
    return f"parfocal evaluate {quoted(run)} {quoted(cohort)}{option} --out evaluation"


def predict_command(run: Path, options: str = "") -> str:
    """Return the command that predicts new slides."""
    return f"parfocal predict {quoted(run)} SLIDE... --out predictions{options}"


def after_predict(out: Path, *, patients: bool) -> str:
    """Return what to do with predictions, of slides or of patients."""
    pages = f", or parfocal report {quoted(out)} --patients pages" if patients else ""
    return f"parfocal view {quoted(out)}{pages}"


def after_calibrate(run: Path, *, settles: bool) -> str:
    """Return what to do after `calibrate`.

    Args:
        run: run folder.
        settles: whether the answer can settle for at least one class.
    """
    return predict_command(run, f" --budget {'settled' if settles else 'share=10%'}")


def after_evaluate(run: Path, page: Path) -> str:
    """Return what to do after `evaluate`; without a report, to predict."""
    look = f"{open_in_browser(page)}, then " if page.exists() else ""
    return f"{look}{predict_command(run)}"


def after_audit(run: Path, agreement: float | None) -> str:
    """Return what to do after `audit`.

    Args:
        run: run folder.
        agreement: share of the slides with the same label; None if the task has no classes.
    """
    if agreement is not None and agreement < 1:
        return (
            f"{predict_command(run, ' --budget share=20%')}, to visit more patches; on the "
            f"other {1 - agreement:.1%} of the slides the label depends on patches not visited"
        )
    return predict_command(run)


def after_status(statuses: "Sequence[WorkStatus]") -> str:
    """Return what to do about the work in a folder."""
    if any(status.running for status in statuses):
        return "wait; or start the same command on another machine, to share the work"
    if any(status.failed or status.waiting for status in statuses):
        return "run the same command again, to process what failed or is waiting"
    return f"{statuses[0].out} is complete; the last line of its command said how to use it"
