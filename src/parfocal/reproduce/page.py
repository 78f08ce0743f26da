"""The tables of a paper with our numbers: as Markdown, as CSV, and as a page with figures."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from parfocal.explain.report.template import STYLED_PAGES
from parfocal.reproduce.experiments import (
    Column,
    PaperRow,
    PaperTable,
    PublishedNumber,
    Reproduction,
)
from parfocal.reproduce.figures import Figure
from parfocal.reproduce.values import ExperimentResult, Value, timed_device, value_of

MISSING = "–"


@dataclass(frozen=True)
class FilledRow:
    """A row of a table with our numbers.

    Args:
        label: row heading.
        marks: numbers of its footnotes.
        cells: formatted text, two per column: ours and the paper's.
        numbers: unrounded numbers of each column: ours and the paper's.
    """

    label: str
    marks: tuple[int, ...]
    cells: tuple[str, ...]
    numbers: tuple[tuple[Value | None, PublishedNumber], ...]


@dataclass(frozen=True)
class FilledTable:
    """A table with our numbers."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[FilledRow, ...]


@dataclass(frozen=True)
class FilledTables:
    """All tables of a paper, with notes.

    Args:
        name: name of the reproduction.
        paper: reference of the paper.
        tables: the tables.
        footnotes: deviations and failures of single rows.
        general_notes: deviations of all rows.
    """

    name: str
    paper: str
    tables: tuple[FilledTable, ...]
    footnotes: tuple[str, ...]
    general_notes: tuple[str, ...]


class Footnotes:
    """Number texts in the order in which they are first used."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number_of(self, text: str) -> int:
        """Return the number of a text, counted from 1."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def fill_tables(
    reproduction: Reproduction,
    results: Mapping[str, ExperimentResult],
    data_notes: Sequence[str],
) -> FilledTables:
    """Fill in the tables of a paper.

    Args:
        reproduction: the tables.
        results: finished experiments by name; the others leave their cells empty.
        data_notes: notes about the slides.
    """
    footnotes = Footnotes()
    tables = tuple(
        FilledTable(
            table.title,
            table.columns,
            tuple(_fill_row(table, row, results, footnotes) for row in table.rows),
        )
        for table in reproduction.tables
    )
    changes = ", ".join(reproduction.changes)
    notes = [f"Changed from the paper's settings by the user: {changes}."] if changes else []
    notes += [*reproduction.notes, *(_as_sentence(note) for note in data_notes)]
    notes += _run_notes(results)
    return FilledTables(
        reproduction.name, reproduction.paper, tables, tuple(footnotes.texts), tuple(notes)
    )


def to_markdown(filled: FilledTables) -> str:
    """Return table.md."""
    parts = [f"# {filled.name}", f"Paper: {filled.paper}."]
    for table in filled.tables:
        header = ["", *_headings(table)]
        lines = [header, ["---"] * len(header)]
        lines += [[row.label + _format_marks(row.marks), *row.cells] for row in table.rows]
        parts += [f"## {table.title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    parts.append("\n".join(f"[{n}] {text}  " for n, text in enumerate(filled.footnotes, 1)))
    parts += ["Notes on every row:"]
    parts.append("\n".join(f"- {note}" for note in filled.general_notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def to_csv(filled: FilledTables) -> str:
    """Return table.csv: one row per cell, numbers unrounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("table", "row", "column", "ours", "ours_sd", "paper", "paper_sd", "notes"))
    for table in filled.tables:
        for row in table.rows:
            for column, (ours, paper) in zip(table.columns, row.numbers, strict=True):
                our_cells = (None, None) if ours is None else (ours.mean, ours.sd)
                paper_cells = paper if isinstance(paper, tuple) else (paper, None)
                notes = " ".join(filled.footnotes[mark - 1] for mark in row.marks)
                cells = (*our_cells, *paper_cells, notes)
                writer.writerow((table.title, row.label, column.label, *cells))
    return text.getvalue()


def to_html(filled: FilledTables, figures: Sequence[Figure]) -> str:
    """Return page.html, which refers to pictures in its folder."""
    pages = Environment(
        loader=ChoiceLoader((PackageLoader("parfocal.reproduce", "."), *STYLED_PAGES)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"headings": _headings, "format_marks": _format_marks}
    return pages.get_template("page.html").render(
        filled=filled, figures=figures, version=version("parfocal")
    )


def _fill_row(
    table: PaperTable,
    row: PaperRow,
    results: Mapping[str, ExperimentResult],
    footnotes: Footnotes,
) -> FilledRow:
    numbers: list[tuple[Value | None, PublishedNumber]] = []
    cells, reasons = [], dict[str, None]()
    for column, published in zip(table.columns, row.paper, strict=True):
        runs = {name: results.get(name) for name in map(column.run.format, row.runs)}
        failed = [f"Failed ({n}): {run.reason}" for n, run in runs.items() if run and run.reason]
        ours = value_of(column, row, results) if all(runs.values()) else None
        reasons |= dict.fromkeys(failed)
        numbers.append((ours, published))
        our_text = "failed" if failed else _format_value(ours, column)
        cells += [our_text, _format_published(published, column)]
    notes = [*row.notes, *reasons]
    marks = tuple(dict.fromkeys(footnotes.number_of(_as_sentence(note)) for note in notes))
    return FilledRow(row.label, marks, tuple(cells), tuple(numbers))


def _run_notes(results: Mapping[str, ExperimentResult]) -> list[str]:
    """Return notes on missing predictions, skipped slides, seeds and the timed device."""
    done = {name: result for name, result in results.items() if result.reason is None}
    notes = [
        f"{name}: {result.row.result.failed} test predictions are missing, over all seeds."
        for name, result in done.items()
        if result.row.result.failed
    ]
    notes += [
        f"{name}: {result.skipped_training_slides} slides could not be used in training; see "
        "failed.csv in its runs."
        for name, result in done.items()
        if result.skipped_training_slides
    ]
    seeds = max((len(result.runs) for result in done.values()), default=0)
    notes.append(
        f"Our numbers are means over {seeds} seeds ± their standard deviation."
        if seeds > 1
        else "Our numbers are from one seed, so they have no standard deviation."
    )
    devices = {timed_device(result.row.result.seconds) for result in done.values()} - {None}
    if devices:
        notes.append(f"Our seconds are measured on: {', '.join(sorted(map(str, devices)))}.")
    return notes


def _headings(table: FilledTable) -> list[str]:
    return [f"{column.label}, {source}" for column in table.columns for source in ("ours", "paper")]


def _format_marks(marks: Sequence[int]) -> str:
    return f" [{', '.join(map(str, marks))}]" if marks else ""


def _as_sentence(note: str) -> str:
    return f"{note[0].upper()}{note[1:].rstrip('.')}."


def _format_value(value: Value | None, column: Column) -> str:
    if value is None:
        return MISSING
    return _format_published((value.mean, value.sd) if value.sd is not None else value.mean, column)


def _format_published(number: PublishedNumber, column: Column) -> str:
    if number is None:
        return MISSING
    if isinstance(number, tuple):
        return " ± ".join(f"{each:.{column.digits}f}" for each in number)
    return f"{number:.{column.digits}f}"
