"""Convert tables of other tools into a cohort CSV: `parfocal cohort convert`."""

import csv
import io
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.dataset.cohort import CohortError, read_cohort, read_slides
from parfocal.dataset.foreign.cohort_table import cohort_table
from parfocal.dataset.foreign.files import FoundFile, SlideFiles
from parfocal.dataset.foreign.join import Described, Joined, JoinedSlide, join
from parfocal.dataset.foreign.label import Label, choose_label
from parfocal.dataset.foreign.names import listed
from parfocal.dataset.foreign.roles import (
    TITLES,
    Layout,
    find_columns,
    layout_of,
    require_column,
)
from parfocal.dataset.foreign.source import Sources, read_sources
from parfocal.dataset.foreign.splits import Fold, Member, read_folds
from parfocal.dataset.foreign.task import TaskConfig, read_task_config
from parfocal.files import write_whole
from parfocal.printable import counted, counts_of_each
from parfocal.slide.sources.url import is_url


@dataclass(frozen=True)
class Options:
    """How tables are converted.

    Args:
        layout: the tool; None to find out by the columns.
        slides: folders of the slides or of their features, which are searched at any depth.
        label: column of the class; None for `label`, or the only column that may be one.
        patient: column of patients; None for a usual name.
        slide: column of slides; None for a usual name.
        sheets: sheets of workbooks; none for all.
        splits: whether to use the splits of the tables.
        folds: number of folds to keep; None for all.
    """

    layout: Layout | None = None
    slides: tuple[Path, ...] = ()
    label: str | None = None
    patient: str | None = None
    slide: str | None = None
    sheets: tuple[str, ...] = ()
    splits: bool = True
    folds: int | None = None


@dataclass(frozen=True)
class Converted:
    """A cohort CSV that was written, and what was changed for it.

    Args:
        summary: slides, patients and classes, in one line.
        notes: what the tables are, and what was kept, renamed and dropped.
        missing: names of slides without a file in the folders that were given; left out.
        next_command: the command to go on with.
    """

    summary: str
    notes: tuple[str, ...]
    missing: tuple[str, ...]
    next_command: str


def convert_tables(paths: Sequence[Path], out: Path, options: Options | None = None) -> Converted:
    """Convert tables of STAMP, CLAM, Patho-Bench or a spreadsheet into a cohort CSV.

    Args:
        paths: tables, splits, and folders of them.
        out: the CSV to write; an existing file is replaced.
        options: how tables are converted; None for the defaults.

    Raises:
        CohortError: a table cannot be read, tables contradict each other, or the result is no
            cohort.
    """
    options = options or Options()
    sources = read_sources(paths, options.sheets)
    layout, joined, notes = _join(sources, options)
    task = read_task_config(sources.config) if sources.config else None
    label = choose_label(joined, task, options.label)
    notes += label.notes
    if kept := [name for name in joined.columns if name != label.column]:
        notes.append(f"kept: {', '.join(kept)}")
    slides = [slide for slide in joined.slides if slide.slide_id not in label.unlabeled]
    found, missing, more = _find_files(slides, options.slides)
    notes += more
    slides = [slide for slide in slides if slide.slide_id in found]
    folds: list[Fold] = []
    if options.splits:
        folds, more = _folds(sources, joined, options.folds)
        notes += more
        slides = _in_some_fold(slides, folds, notes)
    files = {slide.slide_id: _relative(found[slide.slide_id], out) for slide in slides}
    table, more = cohort_table(slides, files, label, folds, joined.columns)
    notes += more
    _write(out, table, labeled=label.column is not None)
    notes += _path_notes([found[slide.slide_id] for slide in slides])
    return Converted(
        _summary(slides, label, folds),
        (f"{_described(sources)}: {TITLES[layout]}", *notes),
        missing,
        _next_command(out, label, task),
    )


def _join(sources: Sources, options: Options) -> tuple[Layout, Joined, list[str]]:
    """Return the tool and its slides with what the tables say about them."""
    if not sources.tables:
        given = [table.name for table in sources.splits] + ["splits.json"] * bool(sources.folds)
        what = f"{listed(given)}: splits alone" if given else "no table"
        raise CohortError(
            f"{what}; give the table of slides, too (of CLAM, the one with case_id, slide_id and "
            "label)."
        )
    for option, name in (("--slide", options.slide), ("--patient", options.patient)):
        if name is not None:
            require_column(sources.tables, name, option)
    tables = [
        (table, find_columns(table, slide=options.slide, patient=options.patient))
        for table in sources.tables
    ]
    layout = layout_of(tables, has_splits=bool(sources.splits))
    if layout != "excel" and options.layout not in (None, "excel", layout):
        raise CohortError(
            f"{', '.join(table.name for table in sources.tables)}: these look like {TITLES[layout]}"
            f", not {TITLES[options.layout or layout]} (columns: "
            f"{', '.join(name for name in sources.tables[0].columns if name)}); omit --from, or "
            "give other tables."
        )
    joined = join(tables)
    renamed = _renamed(tables)
    return layout, joined, [*([renamed] if renamed else []), *joined.notes]


def _renamed(tables: Sequence[Described]) -> str:
    """Return the columns that have another name in a cohort, as text."""
    names: dict[str, str] = {}
    for _, columns in tables:
        ours = {"slide_id": columns.slide, "path": columns.path, "patient_id": columns.patient}
        names |= {name: our for our, name in ours.items() if name is not None and name != our}
    return f"renamed: {', '.join(f'{a} = {b}' for a, b in names.items())}" if names else ""


def _described(sources: Sources) -> str:
    names = [table.name for table in sources.tables]
    if sources.splits:
        names.append(counted(len(sources.splits), "split"))
    if sources.folds is not None:
        names.append(sources.folds[0].name)
    return ", ".join([*names, *([sources.config.name] if sources.config else [])])


def _find_files(
    slides: Sequence[JoinedSlide], folders: Sequence[Path]
) -> tuple[dict[str, FoundFile], tuple[str, ...], list[str]]:
    """Return the file of each slide by id, the names without one, and notes on other spellings."""
    files = SlideFiles(folders)
    found, missing = {}, []
    for slide in slides:
        file = files.find(slide.name, slide.table.path)
        if file is None:
            missing.append(slide.name)
        else:
            found[slide.slide_id] = file
    if not found:
        raise CohortError(
            f"{', '.join(map(str, folders))}: no file of any slide of the tables "
            f"({listed(missing)}); correct --slides."
        )
    return found, tuple(missing), files.notes


def _folds(sources: Sources, joined: Joined, wanted: int | None) -> tuple[list[Fold], list[str]]:
    """Return the folds that the tables give, or the first of them, and notes."""
    members = [Member(s.name, s.slide_id, s.patient, s.parts) for s in joined.slides]
    folds, notes = read_folds(sources, members, joined.folds)
    if wanted is None:
        return folds, notes
    if wanted > len(folds):
        raise CohortError(f"--folds {wanted}: the tables have {len(folds)} folds; use fewer.")
    return folds[:wanted], [*notes, f"kept {wanted} of {len(folds)} folds"]


def _in_some_fold(
    slides: list[JoinedSlide], folds: Sequence[Fold], notes: list[str]
) -> list[JoinedSlide]:
    if not folds:
        return slides
    outside = [s.slide_id for s in slides if all(s.slide_id not in fold.parts for fold in folds)]
    if outside:
        notes.append(f"dropped {len(outside)} slides that are in no split: {listed(outside)}")
    return [slide for slide in slides if slide.slide_id not in set(outside)]


def _relative(file: FoundFile, out: Path) -> str:
    """Return a path relative to the folder of the CSV if it is inside; else the absolute path."""
    if not file.exists or is_url(file.path):
        return file.path
    path, base = Path(file.path), out.parent.absolute()
    return str(path.relative_to(base) if path.is_relative_to(base) else path)


def _write(out: Path, rows: Sequence[Sequence[str]], *, labeled: bool) -> None:
    """Write the CSV; if it is no valid cohort, the file is as it was before.

    Raises:
        CohortError: it is no valid cohort.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    before = out.read_bytes() if out.exists() else None
    write_whole(out, text.getvalue().encode())
    try:
        (read_cohort if labeled else read_slides)(out)
    except CohortError:
        if before is None:
            out.unlink()
        else:
            write_whole(out, before)
        raise


def _summary(slides: Sequence[JoinedSlide], label: Label, folds: Sequence[Fold]) -> str:
    patients = len({slide.patient for slide in slides})
    text = f"{counted(len(slides), 'slide')} of {counted(patients, 'patient')}"
    if label.column:
        counts = Counter(label.values[slide.slide_id] for slide in slides)
        text += f": {counts_of_each(dict(sorted(counts.items())))}"
    if len(folds) == 1:
        parts = Counter(folds[0].parts[slide.slide_id] for slide in slides)
        text += f"; {', '.join(f'{part} {count}' for part, count in sorted(parts.items()))}"
    return text + (f"; {len(folds)} folds" if len(folds) > 1 else "")


def _path_notes(files: Sequence[FoundFile]) -> list[str]:
    """Return what the paths are of slides whose files were not found."""
    features = sum(file.has_features for file in files)
    unknown = sum(not file.exists for file in files) - features
    notes = []
    if features:
        notes.append(
            f"{features} slides have features only, and their id as path; use --features DIR with "
            "train and evaluate"
        )
    if unknown:
        notes.append(
            f"{unknown} paths are names from the tables; name the folder of the slides with "
            "--slides DIR, or train with --features DIR"
        )
    return notes


def _next_command(out: Path, label: Label, task: TaskConfig | None) -> str:
    command = f"parfocal train {shlex.quote(str(out))}"
    if task is not None and task.time and task.event:
        time, event = shlex.quote(task.time), shlex.quote(task.event)
        command += f" --task survival --time {time} --event {event}"
    elif label.column is None:
        command += " --task TASK --target COLUMN"
    return f"{command} --out run"
