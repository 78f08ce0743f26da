"""Describe what a folder of features holds, and what cannot be used of it."""

from dataclasses import asdict, dataclass

import numpy as np

from parfocal.features.folder import OwnFolder
from parfocal.features.foreign.encoder_names import encoder_problems
from parfocal.features.foreign.folder import ForeignFolder
from parfocal.features.open_folder import Features, open_features
from parfocal.progress import Progress
from parfocal.slide.failure import catch_failure

FIRST_ROW = np.zeros(1, dtype=np.int64)


@dataclass(frozen=True)
class MagnificationReport:
    """The features of one magnification.

    Args:
        magnification: nominal magnification.
        encoder: name of the encoder.
        dim: features per patch.
        dtypes: types of the stored numbers.
        patches: number of stored patches of all slides.
    """

    magnification: float
    encoder: str
    dim: int
    dtypes: tuple[str, ...]
    patches: int


@dataclass(frozen=True)
class FeaturesReport:
    """What a folder of features holds.

    Args:
        folder: the folder, or folders.
        tool: tool that extracted the features.
        slides: number of slides that can be used.
        patch_size: side of a patch in pixels.
        magnifications: what there is of each magnification, lowest first.
        placed: whether the places of the patches on the slides are stored in pixels; if not, maps
            need the slide files, or cannot be drawn.
        problems: why a slide cannot be used, by its name.
        encoder_problems: why slide files cannot be encoded as these features were.
    """

    folder: str
    tool: str
    slides: int
    patch_size: int
    magnifications: tuple[MagnificationReport, ...]
    placed: bool
    problems: dict[str, str]
    encoder_problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the report as a dictionary for `json.dump`."""
        return asdict(self)

    def lines(self) -> str:
        """Return the report as text for a terminal, without the problems."""
        unusable = f", {len(self.problems)} cannot be used" if self.problems else ""
        lines = [
            f"{self.folder}: features by {self.tool}",
            f"  slides      {self.slides:,}{unusable}",
            f"  patch size  {self.patch_size} px",
        ]
        for each in self.magnifications:
            lines.append(
                f"  {f'{each.magnification:g}x':<10}  {each.patches:,} patches, encoder "
                f"{each.encoder}, {each.dim} features, {' and '.join(each.dtypes) or 'unknown'}"
            )
        lines += [
            f"  encoder     {problem}; slide files cannot be encoded so"
            for problem in self.encoder_problems
        ]
        if not self.placed:
            lines.append("  positions   not in pixels: maps need the slide files, if at all")
        return "\n".join(lines)


@dataclass(frozen=True)
class SlideSummary:
    """What is stored of one slide.

    Args:
        patches: number of stored patches at each magnification.
        dtypes: type of the stored numbers at each magnification.
        placed: whether places are stored in pixels.
    """

    patches: tuple[int, ...]
    dtypes: tuple[str, ...]
    placed: bool


def describe_features(features: Features, *, values: bool = False) -> FeaturesReport:
    """Describe the features in a folder, after checking each slide by itself.

    Args:
        features: a folder, or folders by magnification.
        values: whether to read all features too, to find those that are not finite.

    Raises:
        StoreError: the folder cannot be opened, or no slide of it can be used.
    """
    folder = open_features(features)
    assert isinstance(folder, OwnFolder | ForeignFolder)
    summaries: list[SlideSummary] = []
    problems: dict[str, str] = {}
    progress = Progress("checking", len(folder.names))
    for name in folder.names:
        with catch_failure(name) as attempt:
            summaries.append(_summarize(folder, name, values=values))
            progress.advance(name)
        if attempt.reason is not None:
            problems[name] = attempt.reason
            progress.fail(name)
    facts = folder.facts
    magnifications = tuple(
        MagnificationReport(
            magnification,
            encoder.name,
            encoder.dim,
            tuple(sorted({each.dtypes[step] for each in summaries})),
            sum(each.patches[step] for each in summaries),
        )
        for step, (magnification, encoder) in enumerate(
            zip(facts.magnifications, facts.encoders, strict=True)
        )
    )
    return FeaturesReport(
        str(folder),
        facts.tool,
        len(summaries),
        facts.patch_size,
        magnifications,
        all(each.placed for each in summaries),
        problems,
        tuple(encoder_problems(facts)),
    )


def _summarize(folder: OwnFolder | ForeignFolder, name: str, *, values: bool) -> SlideSummary:
    """Describe one slide.

    Raises:
        StoreError: it cannot be used.
    """
    magnifications = folder.facts.magnifications
    opened = folder.open_named(name)
    grid = opened.select(magnifications).grid
    tables = opened.tables(magnifications)
    if values:
        for table in tables:
            table.all()
    return SlideSummary(
        tuple(int(np.count_nonzero(grid.valid(step))) for step in range(len(magnifications))),
        tuple(str(table.reader.read(FIRST_ROW).dtype) for table in tables),
        opened.placed,
    )
