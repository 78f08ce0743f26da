"""Run a paper's experiments on a data set, and write its tables and figures.

OUT/cohort.csv         the slides, as `parfocal cohort` writes them
OUT/runs, ...          comparisons (see `parfocal.compare.run`), one per kind of experiment
OUT/figures            attention maps, MagNet's squares, its gray filter
OUT/table.md, .csv     the tables, rewritten after each comparison
OUT/page.html          the tables with the figures
"""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.compare import Candidate, compare
from parfocal.dataset import CohortSlide, read_cohort
from parfocal.dataset.readers import MadeCohort, make_cohort
from parfocal.distribute.shards import ShardEndedError
from parfocal.distribute.worklist import EVERYTHING_HERE, Distribution
from parfocal.files import whole_file, write_whole
from parfocal.printable import counted
from parfocal.reproduce.experiments import Kind, Reproduction
from parfocal.reproduce.figures import draw_figures
from parfocal.reproduce.page import fill_tables, to_csv, to_html, to_markdown
from parfocal.reproduce.values import ExperimentResult
from parfocal.settings import EncoderSettings
from parfocal.settings.encoders import load_encoders

logger = logging.getLogger(__name__)

NEGATIVE_STRATUM = "negative"  # slides without a lesion to outline


@dataclass(frozen=True)
class ReproductionResult:
    """Summary of a finished reproduction.

    Args:
        made: the cohort, with its missing and damaged slides.
        experiments: number of experiments.
        failed: reason by experiment that failed.
    """

    made: MadeCohort
    experiments: int
    failed: dict[str, str]


@dataclass(frozen=True)
class RunOptions:
    """Where and how experiments are run; see `reproduce`."""

    out: Path
    seeds: int
    cache: Path | None
    device: str
    timed: int
    distribution: Distribution = EVERYTHING_HERE


def reproduce(
    reproduction: Reproduction,
    data: Path,
    out: Path,
    *,
    seeds: int = 3,
    cache: Path | None = None,
    device: str = "auto",
    partial: bool = False,
    timed: int = 3,
    distribution: Distribution = EVERYTHING_HERE,
) -> ReproductionResult:
    """Train and evaluate all experiments of a paper's tables, and write the tables.

    If an experiment fails, its row has the reason and the others are still run. The same call
    resumes an interrupted reproduction.

    Args:
        reproduction: the tables.
        data: folder of the data set, as published.
        out: output folder.
        seeds: number of training runs of each experiment.
        cache: folder for the features of visited patches, for models that take pixels.
        device: device for training and evaluation.
        partial: whether to continue if more than 5% of the slides are missing or damaged.
        timed: number of test slides to time from file to prediction.
        distribution: how the trainings of each kind are divided among processes.

    Raises:
        CohortError: the folder is not the data set, or too many slides are missing.
        SettingsError: a setting is invalid.
        EncoderError: a network is not available.
        StoreError: features cannot be written, or were made with other settings.
        ShardEndedError: the trainings of the shard are done, but not yet those of the others.
    """
    candidates = reproduction.candidates()
    _load_encoders([candidate for members in candidates.values() for candidate in members])
    cohort = out / "cohort.csv"
    made = make_cohort(reproduction.data, data, cohort, partial=partial)
    options = RunOptions(out, seeds, cache, device, timed, distribution)
    results: dict[str, ExperimentResult] = {}
    notes = _data_notes(made)
    unfinished: ShardEndedError | None = None
    for kind, members in candidates.items():
        try:
            results |= _run_kind(options, kind, members, cohort)
        except ShardEndedError as ended:  # the shard has a part of the next kind, too
            unfinished = ended
            continue
        notes += _unreadable_slides(out / kind, cohort)
        filled = fill_tables(reproduction, results, notes)
        write_whole(out / "table.md", to_markdown(filled).encode())
        write_whole(out / "table.csv", to_csv(filled).encode())
    if unfinished is not None:
        raise unfinished
    figures = draw_figures(reproduction, results, read_cohort(cohort), out, device=device)
    write_whole(out / "page.html", to_html(filled, figures).encode())
    failed = {name: each.reason for name, each in results.items() if each.reason is not None}
    return ReproductionResult(made, len(results), failed)


def _load_encoders(candidates: Sequence[Candidate]) -> None:
    """Load each encoder once, so that a missing one is found before the training."""
    loaded: list[tuple[EncoderSettings, tuple[float, ...]]] = []
    for candidate in candidates:
        encoder, magnifications = (
            candidate.settings.encoder,
            candidate.settings.slide.magnifications,
        )
        if encoder is not None and (encoder, magnifications) not in loaded:
            load_encoders(encoder, magnifications)
            loaded.append((encoder, magnifications))


def _run_kind(
    options: RunOptions, kind: Kind, candidates: Sequence[Candidate], cohort: Path
) -> dict[str, ExperimentResult]:
    """Run all experiments of one kind on the same slides."""
    if kind == "outlined":
        cohort = write_outlined(cohort, cohort.with_name("cohort-outlined.csv"))
    seeds = 1 if kind == "timing" else options.seeds
    rows = compare(
        cohort,
        candidates,
        options.out / kind,
        seeds=seeds,
        cache=options.cache,
        device=options.device,
        timed=options.timed,
        distribution=options.distribution,
        skip_unreadable=True,  # footnotes of the tables count them
    )
    results = {}
    for row in rows:
        folder = options.out / kind / row.result.name
        runs = tuple(folder / f"seed-{seed}" for seed in range(seeds))
        results[row.result.name] = ExperimentResult(row, runs)
    return results


def _unreadable_slides(out: Path, cohort: Path) -> tuple[str, ...]:
    """Return a note on slides without features, whose files are damaged inside."""
    stored = {file.stem for file in out.glob("features/*/*.h5")}
    missing = [s.slide_id for s in read_cohort(cohort).slides if s.slide_id not in stored]
    if not stored or not missing:
        return ()
    return (
        f"left out, because their files are damaged: {counted(len(missing), 'slide')} "
        f"({', '.join(missing)})",
    )


def write_outlined(source: Path, path: Path) -> Path:
    """Write a cohort without training slides that have a lesion but no outlines.

    Args:
        source: CSV of the cohort.
        path: CSV to write.
    """
    cohort = read_cohort(source)
    kept = {slide.slide_id for slide in cohort.slides if _is_usable(slide)}
    with source.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kept_rows = [row for row in rows if row["slide_id"] in kept]
    left_out = len(rows) - len(kept_rows)
    logger.info("%s: %d slides are left out because they have no outlines", path, left_out)
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(kept_rows)
    return path


def _is_usable(slide: CohortSlide) -> bool:
    """Return whether a slide can be used by a model that is trained on outlines."""
    is_negative = slide.stratum == NEGATIVE_STRATUM
    return slide.split == "test" or is_negative or slide.outlines is not None


def _data_notes(made: MadeCohort) -> tuple[str, ...]:
    """Return notes on slides that are missing, damaged or left out."""
    notes = list(made.notes)
    if made.missing:
        names = ", ".join(made.missing)
        notes.append(f"{made.num_missing} slides of the data set are missing: {names}")
    notes += [f"{name} is damaged and left out: {why}" for name, why in made.damaged.items()]
    return tuple(notes)
