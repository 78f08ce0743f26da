"""What a paper's tables hold, and the runs that fill them: the YAML files in `tables/`."""

import re
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Literal

import yaml
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from parfocal.compare import Candidate, load_candidate, refuse_unequal
from parfocal.settings import STRICT, SettingsError

FILES = {path.stem: path for path in sorted((Path(__file__).parent / "tables").glob("*.yaml"))}
TABLES = tuple(FILES)

Kind = Literal["runs", "outlined", "timing"]
Number = float | tuple[float, float] | None  # a value, or a mean and a deviation


@dataclass(frozen=True, config=STRICT)
class Experiment:
    """A model that is trained for a table.

    Args:
        recipe: it starts from.
        settings: single values over the recipe's.
        kind: "outlined" is taught by outlines, so by the slides that have them alone; "timing" is
            run for its times, with one seed.
    """

    recipe: str
    settings: tuple[str, ...] = ()
    kind: Kind = "runs"


@dataclass(frozen=True, config=STRICT)
class Column:
    """A number of each row.

    Args:
        label: as in the paper.
        of: `macs`, `seconds`, `epoch_seconds`, or a path into metrics.json, in which `{at}` is the
            row's.
        run: of which run, for the name of each of the row's.
        scale: it is multiplied with.
        digits: after the point.
    """

    label: str
    of: str
    run: str = "{}"
    scale: float = 1.0
    digits: int = 0


@dataclass(frozen=True, config=STRICT)
class PaperRow:
    """A row of a paper's table.

    Args:
        label: as in the paper.
        runs: whose numbers it has; of several, the sum; none where the paper quotes others.
        paper: its numbers, one a column; None where it has none.
        at: place in a list of metrics.json.
        notes: what departs from the paper in this row alone.
    """

    label: str
    runs: tuple[str, ...]
    paper: tuple[Number, ...]
    at: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, config=STRICT)
class PaperTable:
    """A table as the paper prints it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[PaperRow, ...]


@dataclass(frozen=True, config=STRICT)
class Figures:
    """Which of the paper's figures are drawn.

    Args:
        curves: runs whose ROC and precision-recall curves stand in one figure.
        maps: runs whose attention, or way down, is shown on a few test slides.
        filtered: show what the gray filter leaves of them.
        cost: show score against cost.
    """

    curves: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    filtered: bool = False
    cost: bool = False


@dataclass(frozen=True, config=STRICT)
class Patches:
    """How many patches a slide of the paper has, at a magnification."""

    magnification: float
    count: float


@dataclass(frozen=True, config=STRICT)
class Picture:
    """How large an image of the set is."""

    size: tuple[int, int]
    mpp: float


@dataclass(frozen=True, config=STRICT)
class Reproduction:
    """The tables of a paper on one data set.

    Args:
        name: what the command takes.
        paper: where the numbers stand.
        data: name of the data set's reader.
        experiments: by name.
        tables: as the paper prints them.
        notes: what departs from the paper in every row.
        encoder: of the patches, for models that are given features.
        settings: over the recipes of all experiments.
        patches: of a slide, where none can be counted.
        image: of the set, where these are not whole slides.
        figures: of the paper.
        overrides: single values over all experiments, as `train.patience=5`, or over one, as
            `zoommil:model.k=24`.
        epochs: at most; what is run for its times keeps its own.
        by_hand: what the last two and another encoder than the paper's change.
    """

    name: str
    paper: str
    data: str
    experiments: dict[str, Experiment]
    tables: tuple[PaperTable, ...]
    notes: tuple[str, ...]
    encoder: str | None = None
    settings: tuple[str, ...] = ()
    patches: Patches | None = None
    image: Picture | None = None
    figures: Figures = field(default_factory=Figures)
    overrides: tuple[str, ...] = ()
    epochs: int | None = None
    by_hand: tuple[str, ...] = ()

    def candidates(self) -> dict[Kind, list[Candidate]]:
        """Load the settings of all experiments, before any is run.

        Raises:
            SettingsError: a key or value is wrong, or of no experiment.
            ComparisonError: the models would not get the same slides and patches.
            EncoderError: a network cannot be had.
        """
        for override in self.overrides:
            self._refuse_stranger(override)
        by_kind: dict[Kind, list[Candidate]] = {}
        for name, experiment in self.experiments.items():
            candidate = load_candidate(
                name,
                experiment.recipe,
                overrides=[*self.settings, *experiment.settings, *self.overrides],
                epochs=None if experiment.kind == "timing" else self.epochs,
                encoder=self.encoder,
            )
            by_kind.setdefault(experiment.kind, []).append(candidate)
        for candidates in by_kind.values():
            refuse_unequal(candidates)
        return by_kind

    def label_of(self, run: str) -> str:
        """Give the label of the first row with numbers of a run."""
        rows = (row for table in self.tables for row in table.rows if row.runs == (run,))
        return next((row.label for row in rows), run)

    def _refuse_stranger(self, override: str) -> None:
        named = re.match(r"([^=:]*):", override)
        if named and named[1] not in self.experiments:
            raise SettingsError(
                f"{override}: {self.name} has no experiment {named[1]!r}; it has "
                f"{', '.join(self.experiments)}."
            )


def read_table(
    name: str,
    *,
    overrides: Sequence[str] = (),
    epochs: int | None = None,
    encoder: str | None = None,
) -> Reproduction:
    """Read one of `TABLES`.

    Args:
        name: of the table.
        overrides: see `Reproduction`.
        epochs: likewise.
        encoder: in place of the paper's, where models are given features.

    Raises:
        ValueError: there is no such table.
    """
    if name not in FILES:
        raise ValueError(f"unknown table {name!r}; use one of {', '.join(TABLES)}.")
    content = yaml.safe_load(FILES[name].read_text(encoding="utf-8"))
    by_hand = list(overrides) + ([] if epochs is None else [f"train.epochs at most {epochs}"])
    if encoder is not None and "encoder" in content:
        content["encoder"] = encoder
        by_hand.append(f"encoder {encoder}")
    given = {"name": name, "overrides": overrides, "epochs": epochs, "by_hand": by_hand}
    return TypeAdapter(Reproduction).validate_python({**content, **given})
