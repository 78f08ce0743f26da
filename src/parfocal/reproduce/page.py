"""A paper's tables with our numbers in them: as Markdown, as CSV, as a page with figures."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from parfocal.reproduce.experiments import Column, Number, PaperRow, PaperTable, Reproduction
from parfocal.reproduce.figures import Figure
from parfocal.reproduce.values import Outcome, Value, device_of, value_of

NONE = "–"


@dataclass(frozen=True)
class Line:
    """A row of a table, each cell as text, ours and the paper's.

    Args:
        label: of the row.
        marks: numbers of its footnotes.
        cells: text, one for ours and one for the paper's of each column.
        numbers: ours as a value, and the paper's, by column; as a table of numbers has them.
    """

    label: str
    marks: tuple[int, ...]
    cells: tuple[str, ...]
    numbers: tuple[tuple[Value | None, Number], ...]


@dataclass(frozen=True)
class Sheet:
    """A table with its cells filled."""

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Printed:
    """All tables of a paper, and what is said below them.

    Args:
        name: of the reproduction.
        paper: where the paper's numbers stand.
        sheets: the tables.
        footnotes: what departs from the paper, or failed, in single rows.
        general: what departs in all rows.
    """

    name: str
    paper: str
    sheets: tuple[Sheet, ...]
    footnotes: tuple[str, ...]
    general: tuple[str, ...]


class Footnotes:
    """Numbers texts in the order in which they are first mentioned."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> int:
        """Give the number of a text, counted from 1."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def print_tables(
    reproduction: Reproduction, tested: Mapping[str, Outcome], about_data: Sequence[str]
) -> Printed:
    """Fill in a paper's tables.

    Args:
        reproduction: the tables.
        tested: the experiments that were run, by name; others leave their cells empty.
        about_data: what is to be said of the slides.
    """
    footnotes = Footnotes()
    sheets = tuple(
        Sheet(
            table.title,
            table.columns,
            tuple(_line(table, row, tested, footnotes) for row in table.rows),
        )
        for table in reproduction.tables
    )
    by_hand = ", ".join(reproduction.by_hand)
    general = [f"Set by hand, not by the paper: {by_hand}."] if by_hand else []
    general += [*reproduction.notes, *(_sentence(note) for note in about_data), *_of_runs(tested)]
    return Printed(
        reproduction.name, reproduction.paper, sheets, tuple(footnotes.texts), tuple(general)
    )


def to_markdown(printed: Printed) -> str:
    """Give table.md."""
    parts = [f"# {printed.name}", f"The paper: {printed.paper}."]
    for sheet in printed.sheets:
        header = ["", *_headings(sheet)]
        lines = [header, ["---"] * len(header)]
        lines += [[line.label + _marked(line.marks), *line.cells] for line in sheet.lines]
        parts += [f"## {sheet.title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    parts.append("\n".join(f"[{n}] {text}  " for n, text in enumerate(printed.footnotes, 1)))
    parts += ["What departs from the paper, or is to be known, in every row:"]
    parts.append("\n".join(f"- {note}" for note in printed.general))
    return "\n\n".join(part for part in parts if part) + "\n"


def to_csv(printed: Printed) -> str:
    """Give table.csv: a row for each cell, numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("table", "row", "column", "ours", "ours_sd", "paper", "paper_sd", "notes"))
    for sheet in printed.sheets:
        for line in sheet.lines:
            for column, (ours, paper) in zip(sheet.columns, line.numbers, strict=True):
                theirs = paper if isinstance(paper, tuple) else (paper, None)
                told = (None, None) if ours is None else (ours.mean, ours.sd)
                notes = " ".join(printed.footnotes[mark - 1] for mark in line.marks)
                writer.writerow((sheet.title, line.label, column.label, *told, *theirs, notes))
    return text.getvalue()


def to_html(printed: Printed, figures: Sequence[Figure]) -> str:
    """Give page.html, which refers to pictures beside it."""
    pages = Environment(
        loader=ChoiceLoader(
            [
                PackageLoader("parfocal.reproduce", "."),
                PackageLoader("parfocal.explain.report", "."),  # for its style
            ]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"headings": _headings, "marked": _marked}
    return pages.get_template("page.html").render(
        printed=printed, figures=figures, version=version("parfocal")
    )


def _line(
    table: PaperTable, row: PaperRow, tested: Mapping[str, Outcome], footnotes: Footnotes
) -> Line:
    numbers: list[tuple[Value | None, Number]] = []
    cells, failed = [], dict[str, None]()
    for column, theirs in zip(table.columns, row.paper, strict=True):
        runs = {name: tested.get(name) for name in map(column.run.format, row.runs)}
        broken = [f"Failed ({n}): {run.reason}" for n, run in runs.items() if run and run.reason]
        ours = value_of(column, row, tested) if all(runs.values()) else None
        failed |= dict.fromkeys(broken)
        numbers.append((ours, theirs))
        cells += ["failed" if broken else _said(ours, column), _said_of(theirs, column)]
    notes = [*row.notes, *failed]
    marks = tuple(dict.fromkeys(footnotes.mark(_sentence(note)) for note in notes))
    return Line(row.label, marks, tuple(cells), tuple(numbers))


def _of_runs(tested: Mapping[str, Outcome]) -> list[str]:
    """Say which slides the runs had to do without, and where the seconds are from."""
    done = {name: each for name, each in tested.items() if each.reason is None}
    notes = [
        f"{name}: {each.row.result.failed} answers on test slides are missing, over all seeds."
        for name, each in done.items()
        if each.row.result.failed
    ]
    notes += [
        f"{name}: {each.learned_without} slides could not be learned from; see failed.csv in its "
        "runs."
        for name, each in done.items()
        if each.learned_without
    ]
    seeds = max((len(each.runs) for each in done.values()), default=0)
    notes.append(
        f"Ours are means over {seeds} seeds ± their standard deviation."
        if seeds > 1
        else "Ours are of one seed, so without a deviation."
    )
    devices = {device_of(each.row.result.seconds) for each in done.values()} - {None}
    if devices:
        notes.append(f"Seconds are of {', '.join(sorted(map(str, devices)))}.")
    return notes


def _headings(sheet: Sheet) -> list[str]:
    return [f"{column.label}, {whose}" for column in sheet.columns for whose in ("ours", "paper")]


def _marked(marks: Sequence[int]) -> str:
    return f" [{', '.join(map(str, marks))}]" if marks else ""


def _sentence(note: str) -> str:
    return f"{note[0].upper()}{note[1:].rstrip('.')}."


def _said(value: Value | None, column: Column) -> str:
    if value is None:
        return NONE
    return _said_of((value.mean, value.sd) if value.sd is not None else value.mean, column)


def _said_of(number: Number, column: Column) -> str:
    if number is None:
        return NONE
    if isinstance(number, tuple):
        return " ± ".join(f"{each:.{column.digits}f}" for each in number)
    return f"{number:.{column.digits}f}"
