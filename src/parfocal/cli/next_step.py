"""What to do next: the last line of every command.

It goes to standard error, so that standard output has the results only, and is left out with
`--json`. A command comes last in the line, so that it can be copied; it has all options that
continue the work. Words in capitals, such as SLIDE, are for the user to fill in.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from parfocal.distribute.status import WorkStatus

TABLES = (".csv", ".tsv", ".xlsx", ".xlsm")
# Options that train on a cohort of `synth --endpoint`.
ENDPOINT_OPTIONS = {
    "survival": "--task survival --time os_months --event os_event",
    "regression": "--task regression --target lesion_mm2",
    "ordinal": "--task ordinal --target grade",
    "multilabel": "--task multilabel --target hollow,ringed",
}
# The values in the default recipe of `train`, which need no option.
MAGNIFICATIONS, ENCODER, PATCH_SIZE = (2.5, 5.0, 10.0), "efficientnet-lite0", 256
OTHERS = (20.0, 40.0)  # for slides that are too small for the lowest ones


def say_next(text: str) -> None:
    """Print what to do next."""
    typer.echo(f"Next: {text}", err=True)


def quoted(path: object) -> str:
    """Return a path as a shell needs it."""
    return shlex.quote(str(path))


def options_text(given: Mapping[str, object]) -> str:
    """Return options as text, each after a space; those that were not given are left out.

    >>> options_text({"--features": "my features", "--again": True, "--cache": None})
    " --features 'my features' --again"

    Args:
        given: value of each option; True for an option without a value, several values for an
            option that is repeated.
    """
    texts = []
    for name, value in given.items():
        for each in value if isinstance(value, list | tuple) else (value,):
            if each is True:
                texts.append(f" {name}")
            elif each is not None and each is not False:
                texts.append(f" {name} {quoted(each)}")
    return "".join(texts)


def training_options(
    *,
    magnifications: Sequence[float] = MAGNIFICATIONS,
    encoder: str | None = None,
    settings: Mapping[str, object] | None = None,
) -> str:
    """Return the options of `train` for slides or features of these magnifications.

    Args:
        magnifications: magnifications, lowest first; a single one needs a model that does not zoom.
        encoder: encoder, or encoders by magnification; None for that of the recipe.
        settings: values of other settings, by key; None for the value of the recipe.
    """
    listed = ",".join(f"{each:g}" for each in magnifications)
    return options_text(
        {
            "--model": "abmil" if len(magnifications) == 1 else None,
            "--encoder": None if encoder == ENCODER else encoder,
            "--magnifications": None if tuple(magnifications) == MAGNIFICATIONS else listed,
            "--set": [f"{k}={v}" for k, v in (settings or {}).items() if v is not None],
        }
    )


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
    slides: Sequence[str],
    magnifications: Sequence[float],
    picture: Path | None,
    *,
    unfit: bool,
    columns: Sequence[str] = (),
    tissue_method: str = "otsu",
) -> str:
    """Return what to do after `inspect`.

    Args:
        slides: slides and tables that were inspected.
        magnifications: magnifications that the patches were counted at.
        picture: sheet that was drawn; None if none was.
        unfit: whether a slide has no patches at the magnifications.
        columns: columns that a table needs in place of options, such as mpp.
        tissue_method: how tissue was found.
    """
    look = "" if picture is None else f"look at {picture}, then "
    if unfit:
        found = ",".join(f"{each:g}" for each in magnifications)
        return f"{look}choose --magnifications that all slides have, instead of {found}"
    method = {"slide.tissue_method": None if tissue_method == "otsu" else tissue_method}
    options = training_options(magnifications=magnifications, settings=method)
    table = next((each for each in slides if each.lower().endswith(TABLES)), None)
    if table is None:
        needed = f"{', '.join(('slide_id', 'path', *columns))} and label"
        write = f"write cohort.csv with the columns {needed}, then "
        return f"{look}{write}parfocal train cohort.csv{options} --out run"
    missing = [column for column in (*columns, "label") if column not in _header(Path(table))]
    return f"{look}{_add(missing, table)}parfocal train {quoted(table)}{options} --out run"


def _add(columns: Sequence[str], table: object) -> str:
    """Return the advice to add columns before the next command; empty without columns."""
    return f"add {' and '.join(columns)} to {table}, then " if columns else ""


def _header(table: Path) -> list[str]:
    """Return the columns of a table, with `label` only if a row has one."""
    from parfocal.dataset.table import TableError, read_cells

    try:
        (_, header), *rows = read_cells(table)
    except (TableError, ValueError):
        return ["label"]  # not known; the next command says what is wrong
    if "label" not in header or any(len(r) > header.index("label") for _, r in rows):
        return header
    return [name for name in header if name != "label"]


def after_synth(
    cohort: Path, endpoint: str | None, *, side_um: float, mpp: float, trains: bool
) -> str:
    """Return what to do with a synthetic cohort.

    Args:
        cohort: table of the cohort.
        endpoint: endpoint of `synth`; None for classes.
        side_um: side of a slide, in µm.
        mpp: microns per pixel of a slide.
        trains: whether the slides suffice to train on.
    """
    # A slide has to be as large as a patch, and a scan as sharp as its pixels.
    fitting = [
        each
        for each in (*MAGNIFICATIONS, *OTHERS)
        if PATCH_SIZE * 10 / each <= side_um and 10 / each >= mpp * 0.95
    ]
    chosen = fitting[:3] or [80.0]
    if not trains:
        listed = ",".join(f"{each:g}" for each in chosen)
        option = {"--magnifications": None if tuple(chosen) == MAGNIFICATIONS else listed}
        return (
            "generate more --slides, because these are not enough to train on; to inspect them, "
            f"parfocal inspect {quoted(cohort)}{options_text(option)} --picture sheet.html"
        )
    options = "" if endpoint is None else f" {ENDPOINT_OPTIONS[endpoint]}"
    options += training_options(magnifications=chosen)
    return f"parfocal train {quoted(cohort)}{options} --out run --cache cache"


def can_train(cohort: Path, endpoint: str | None) -> bool:
    """Return whether a model can be trained on a synthetic cohort; many endpoints need 20 slides.

    Args:
        cohort: table of the cohort.
        endpoint: endpoint of `synth`; None for classes.
    """
    from parfocal.dataset.errors import CohortError
    from parfocal.dataset.split import split_cohort
    from parfocal.tasks import build_task, read_task_cohort

    words = shlex.split(ENDPOINT_OPTIONS.get(endpoint or "", ""))
    given = {
        key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=True)
    }
    try:
        task = build_task(
            given.get("task", "classification"),
            target=tuple(filter(None, given.get("target", "").split(","))),
            time=given.get("time"),
            event=given.get("event"),
        )
        found = read_task_cohort(cohort, task)
        task.prepared(found.slides).fitted(split_cohort(found).train)
    except CohortError:
        return False
    return True


def after_features(
    cohort: str,
    folder: str,
    *,
    settings: Mapping[str, object] | None = None,
    trust_remote_code: bool = False,
    labeled: bool = True,
) -> str:
    """Return what to do with stored features.

    Args:
        cohort: table of the cohort, quoted for a shell.
        folder: folder of the features, or one per magnification.
        settings: settings that they were extracted with, by key; None for the defaults.
        trust_remote_code: whether the encoder runs code from its repository.
        labeled: whether the cohort has labels.
    """
    from parfocal.cli.parsing import parse_features
    from parfocal.encoders.per_magnification import encoder_text
    from parfocal.features.folder import OWN_TOOL
    from parfocal.features.open_folder import open_features

    found = parse_features(folder)
    assert found is not None
    facts = open_features(found).facts
    given: dict[str, object] = {"--features": folder, "--trust-remote-code": trust_remote_code}
    if facts.tool == OWN_TOOL:
        size = None if facts.patch_size == PATCH_SIZE else facts.patch_size
        encoder = encoder_text([each.name for each in facts.encoders], facts.magnifications)
        options = training_options(
            magnifications=facts.magnifications,
            encoder=encoder,
            settings={"slide.patch_size": size, **(settings or {})},
        )
    else:  # the settings follow from the features
        options = " --model abmil" if len(facts.magnifications) == 1 else ""
    add = "" if labeled else f"add label to {cohort}, then "
    return f"{add}parfocal train {cohort}{options_text(given)}{options} --out run"


def after_train(
    run: Path, cohort: Path, options: Mapping[str, object] | None = None, *, tested: bool
) -> str:
    """Return what to do with a trained model.

    Args:
        run: run folder.
        cohort: cohort that it was trained on.
        options: options of `evaluate`, such as the features that it was trained on.
        tested: whether the run has test slides.
    """
    if not tested:
        return (
            "the run has no test slides, so evaluate it on another cohort, with --external, or "
            f"{predict_command(run)}"
        )
    text = options_text(options or {})
    return f"parfocal evaluate {quoted(run)} {quoted(cohort)}{text} --out evaluation"


def predict_command(run: Path, options: Mapping[str, object] | None = None) -> str:
    """Return the command that predicts new slides.

    Args:
        run: run folder, or a name of the Hub.
        options: options of `predict`.
    """
    given = {"--patients": "TABLE" if needs_table(run) else None, **(options or {})}
    return f"parfocal predict {quoted(run)} SLIDE... --out predictions{options_text(given)}"


def needs_table(run: Path) -> bool:
    """Return whether a model predicts per patient or from covariates, which a table has."""
    from parfocal.models.description import CheckpointError, read_description
    from parfocal.models.ensemble import fold_folders
    from parfocal.models.unit import parse_unit

    try:
        folder = next(iter(fold_folders(run)), run) if run.is_dir() else run
        unit = parse_unit(read_description(folder).get("unit"))
    except (CheckpointError, OSError, ValueError):
        return False
    return unit.per == "patient" or bool(unit.columns)


def after_predict(out: Path, *, patients: bool) -> str:
    """Return what to do with predictions, of slides or of patients."""
    pages = ""
    if patients:
        pages = (
            f"for a page per patient, parfocal report {quoted(out)} --patients pages; to browse, "
        )
    return f"{pages}parfocal view {quoted(out)}"


def after_calibrate(run: Path, options: Mapping[str, object], *, settles: bool) -> str:
    """Return what to do after `calibrate`.

    Args:
        run: run folder.
        options: other options of `predict`.
        settles: whether the answer can settle for at least one class.
    """
    return predict_command(run, {**options, "--budget": "settled" if settles else "share=10%"})


def after_evaluate(run: Path, page: Path, options: Mapping[str, object] | None = None) -> str:
    """Return what to do after `evaluate`; without a report, to predict.

    Args:
        run: run folder.
        page: report of the evaluation.
        options: options of `predict` that match those of `evaluate`.
    """
    look = f"{open_in_browser(page)}, then " if page.exists() else ""
    return f"{look}{predict_command(run, options)}"


def after_audit(
    run: Path, agreement: float | None, options: Mapping[str, object] | None = None
) -> str:
    """Return what to do after `audit`.

    Args:
        run: run folder.
        agreement: share of the slides with the same label; None if the task has no classes.
        options: options of `predict` that match those of `audit`.
    """
    if agreement is None or agreement == 1:
        return predict_command(run, options)
    more = {**(options or {}), "--budget": "share=20%"}
    return (
        f"on {1 - agreement:.1%} of the slides, the label depends on patches that were not "
        f"visited; to visit more, {predict_command(run, more)}"
    )


def after_status(statuses: "Sequence[WorkStatus]") -> str:
    """Return what to do about the work in a folder."""
    if any(status.running for status in statuses):
        return "wait; or start the same command on another machine, to share the work"
    if any(status.failed or status.waiting for status in statuses):
        return "run the same command again, to process what failed or is waiting"
    return f"{statuses[0].out} is complete; the last line of its command said how to use it"
