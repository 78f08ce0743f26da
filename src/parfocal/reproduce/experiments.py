"""The tables of a paper and the experiments behind them: the YAML files in `tables/`."""

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
PublishedNumber = float | tuple[float, float] | None  # a value, or mean and standard deviation


@dataclass(frozen=True, config=STRICT)
class Experiment:
    """A model that is trained for a table.

    Args:
        recipe: name of the recipe.
        settings: single settings that override the recipe.
        kind: "runs" trains with every seed. "outlined" does so on slides with lesion outlines and
            on negative slides. "timing" trains with one seed, to measure time only.
    """

    recipe: str
    settings: tuple[str, ...] = ()
    kind: Kind = "runs"


@dataclass(frozen=True, config=STRICT)
class Column:
    """A column of a table.

    Args:
        label: heading, as in the paper.
        source: `macs`, `seconds`, `epoch_seconds`, or a path into metrics.json. `{index}` in the
            path stands for the row's index.
        run: pattern of the experiment's name; `{}` stands for each name in the row's `runs`.
        scale: factor for our numbers.
        digits: decimal places.
    """

    label: str
    source: str
    run: str = "{}"
    scale: float = 1.0
    digits: int = 0


@dataclass(frozen=True, config=STRICT)
class PaperRow:
    """A row of a table.

    Args:
        label: row heading, as in the paper.
        runs: names of the experiments of this row. Numbers of several experiments are summed; a
            row without experiments has only the paper's numbers.
        paper: the paper's number for each column; None if it has none.
        index: index into a list of metrics.json.
        notes: deviations from the paper in this row only.
    """

    label: str
    runs: tuple[str, ...]
    paper: tuple[PublishedNumber, ...]
    index: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, config=STRICT)
class PaperTable:
    """A table as the paper prints it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[PaperRow, ...]


@dataclass(frozen=True, config=STRICT)
class Figures:
    """The figures of a paper to draw.

    Args:
        curves: experiments whose ROC and precision-recall curves share a figure.
        maps: experiments whose visited patches are shown for a few test slides.
        gray_filter: whether to show these slides after the gray filter.
        cost: whether to plot score against cost.
    """

    curves: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    gray_filter: bool = False
    cost: bool = False


@dataclass(frozen=True, config=STRICT)
class PublishedPatches:
    """The paper's mean number of patches per slide, at a magnification."""

    magnification: float
    count: float


@dataclass(frozen=True, config=STRICT)
class ImageSize:
    """Size of the images of a data set that has no whole slides.

    Args:
        size: width and height, in pixels.
        mpp: microns per pixel.
    """

    size: tuple[int, int]
    mpp: float


@dataclass(frozen=True, config=STRICT)
class Reproduction:
    """The tables of a paper on one data set.

    Args:
        name: name on the command line.
        paper: reference of the paper.
        data: name of the data set's reader.
        experiments: experiments by name.
        tables: the tables, as printed in the paper.
        notes: deviations from the paper in all rows.
        encoder: patch encoder of the models that take features.
        settings: single settings for all experiments.
        patches: the paper's number of patches per slide.
        image: size of the images, if the data set has no whole slides.
        figures: figures to draw.
        overrides: user's settings for all experiments, as `train.patience=5`, or for one, as
            `zoommil:model.k=24`.
        epochs: maximum number of epochs; experiments of kind "timing" ignore it.
        changes: user's changes to the paper's settings, as text.
        trust_remote_code: whether to run code from the repository of an encoder.
    """

    name: str
    paper: str
    data: str
    experiments: dict[str, Experiment]
    tables: tuple[PaperTable, ...]
    notes: tuple[str, ...]
    encoder: str | None = None
    settings: tuple[str, ...] = ()
    patches: PublishedPatches | None = None
    image: ImageSize | None = None
    figures: Figures = field(default_factory=Figures)
    overrides: tuple[str, ...] = ()
    epochs: int | None = None
    changes: tuple[str, ...] = ()
    trust_remote_code: bool = False

    def candidates(self) -> dict[Kind, list[Candidate]]:
        """Load the settings of all experiments, before any of them is run.

        Raises:
            SettingsError: a key or value is invalid, or names no experiment.
            ComparisonError: experiments would get different slides or patches.
            EncoderError: a network is not available.
        """
        for override in self.overrides:
            self._refuse_unknown_experiment(override)
        by_kind: dict[Kind, list[Candidate]] = {}
        for name, experiment in self.experiments.items():
            candidate = load_candidate(
                name,
                experiment.recipe,
                overrides=[*self.settings, *experiment.settings, *self.overrides],
                epochs=None if experiment.kind == "timing" else self.epochs,
                encoder=self.encoder,
                trust_remote_code=self.trust_remote_code,
            )
            self._refuse_other_task(candidate)
            by_kind.setdefault(experiment.kind, []).append(candidate)
        for candidates in by_kind.values():
            refuse_unequal(candidates)
        return by_kind

    def label_of(self, experiment: str) -> str:
        """Return the label of the first row that shows this experiment alone."""
        rows = (row for table in self.tables for row in table.rows if row.runs == (experiment,))
        return next((row.label for row in rows), experiment)

    def _refuse_other_task(self, candidate: Candidate) -> None:
        """Refuse another task: the numbers of the paper are those of its classes."""
        train = candidate.settings.train
        if train.task != "classification" or train.target:
            raise SettingsError(
                f"train.task: the tables of {self.name} have scores of the paper's classes, "
                f"which cannot be compared with scores of task {train.task}; for other targets of "
                "the same slides, use parfocal compare --task with a cohort that has their columns."
            )

    def _refuse_unknown_experiment(self, override: str) -> None:
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
    trust_remote_code: bool = False,
) -> Reproduction:
    """Read one of `TABLES`.

    Args:
        name: name of the table.
        overrides: settings for all experiments or for one; see `Reproduction`.
        epochs: maximum number of epochs.
        encoder: patch encoder that replaces the paper's.
        trust_remote_code: whether to run code from the repository of an encoder.

    Raises:
        ValueError: there is no such table.
    """
    if name not in FILES:
        raise ValueError(f"unknown table {name!r}; use one of {', '.join(TABLES)}.")
    content = yaml.safe_load(FILES[name].read_text(encoding="utf-8"))
    changes = list(overrides) + ([] if epochs is None else [f"train.epochs at most {epochs}"])
    if encoder is not None and "encoder" in content:
        content["encoder"] = encoder
        changes.append(f"encoder {encoder}")
    added = {
        **{"name": name, "overrides": overrides, "epochs": epochs, "changes": changes},
        "trust_remote_code": trust_remote_code,
    }
    return TypeAdapter(Reproduction).validate_python({**content, **added})
