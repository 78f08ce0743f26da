"""A data set's folder -> a paper's tables and figures, our numbers beside the paper's.

OUT/cohort.csv         the slides, as `parfocal cohort` writes it
OUT/runs, ...          comparisons (see `parfocal.compare.run`), one for each kind of experiment
OUT/figures            attention maps, MagNet's way down, its gray filter
OUT/table.md, .csv     the tables, written anew after each comparison
OUT/page.html          the tables with the figures
"""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.compare import Candidate, compare
from parfocal.dataset import CohortSlide, read_cohort
from parfocal.dataset.readers import Made, make_cohort
from parfocal.encoders.encoder import load_encoder
from parfocal.files import whole_file, write_whole
from parfocal.reproduce.experiments import Kind, Reproduction
from parfocal.reproduce.figures import draw_figures
from parfocal.reproduce.page import print_tables, to_csv, to_html, to_markdown
from parfocal.reproduce.values import Outcome

logger = logging.getLogger(__name__)

UNOUTLINED = "negative"  # the stratum of slides that have no lesion to outline


@dataclass(frozen=True)
class Reproduced:
    """What became of a table.

    Args:
        made: the cohort, with what is missing or damaged.
        experiments: how many there were.
        failed: why each experiment that has no numbers has none.
    """

    made: Made
    experiments: int
    failed: dict[str, str]


@dataclass(frozen=True)
class Place:
    """Where and how experiments are run; see `reproduce`."""

    out: Path
    seeds: int
    cache: Path | None
    device: str
    timed: int


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
) -> Reproduced:
    """Train and test every row of a paper's tables, and print them as the paper does.

    A row that fails is told with the reason, and the others go on. The same call goes on with
    what is in `out`.

    Args:
        reproduction: the tables.
        data: folder of their data set, as its owners publish it.
        out: folder to write to.
        seeds: runs of each experiment.
        cache: folder that keeps what models of pixels read.
        device: where models are trained and tested.
        partial: go on when more than a twentieth of the slides is missing or damaged.
        timed: test slides that are read from their files for the seconds.

    Raises:
        CohortError: the folder does not hold the data set, or too little of it.
        SettingsError: what is given makes no run.
        EncoderError: a network cannot be had.
        StoreError: features cannot be written, or do not fit.
    """
    candidates = reproduction.candidates()
    _load_encoders([candidate for members in candidates.values() for candidate in members])
    cohort = out / "cohort.csv"
    made = make_cohort(reproduction.data, data, cohort, partial=partial)
    place = Place(out, seeds, cache, device, timed)
    tested: dict[str, Outcome] = {}
    told = _told_of(made)
    for kind, members in candidates.items():
        tested |= _run(place, kind, members, cohort)
        told += _unread(out / kind, cohort)
        printed = print_tables(reproduction, tested, told)
        write_whole(out / "table.md", to_markdown(printed).encode())
        write_whole(out / "table.csv", to_csv(printed).encode())
    figures = draw_figures(reproduction, tested, read_cohort(cohort), out, device=device)
    write_whole(out / "page.html", to_html(printed, figures).encode())
    failed = {name: each.reason for name, each in tested.items() if each.reason is not None}
    return Reproduced(made, len(tested), failed)


def _load_encoders(candidates: Sequence[Candidate]) -> None:
    """Find out that an encoder cannot be had before days of training, not after."""
    for settings in {e.settings.encoder for e in candidates if e.settings.encoder is not None}:
        load_encoder(
            settings.name, device="cpu", weights=settings.weights, runtime=settings.runtime
        )


def _run(
    place: Place, kind: Kind, candidates: Sequence[Candidate], cohort: Path
) -> dict[str, Outcome]:
    """Run the experiments of a kind on the same slides."""
    if kind == "outlined":
        cohort = write_outlined(cohort, cohort.with_name("cohort-outlined.csv"))
    seeds = 1 if kind == "timing" else place.seeds
    rows = compare(
        cohort,
        candidates,
        place.out / kind,
        seeds=seeds,
        cache=place.cache,
        device=place.device,
        timed=place.timed,
    )
    names = [row.result.name for row in rows]
    folders = [
        tuple(place.out / kind / name / f"seed-{seed}" for seed in range(seeds)) for name in names
    ]
    return {name: Outcome(row, runs) for name, row, runs in zip(names, rows, folders, strict=True)}


def _unread(out: Path, cohort: Path) -> tuple[str, ...]:
    """Name the slides that no features could be made of, though their files looked whole."""
    stored = {file.stem for file in out.glob("features/*/*.h5")}
    unread = [s.slide_id for s in read_cohort(cohort).slides if s.slide_id not in stored]
    if not stored or not unread:
        return ()
    return (
        f"not readable to the end, and so without a part where features are stored: "
        f"{', '.join(unread)} ({len(unread)} of the slides)",
    )


def write_outlined(source: Path, path: Path) -> Path:
    """Write a cohort without the slides that cannot teach by outlines; all are tested on."""
    cohort = read_cohort(source)
    kept = {slide.slide_id for slide in cohort.slides if _teaches(slide)}
    with source.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    left = [row for row in rows if row["slide_id"] in kept]
    logger.info("%s: %d slides are left out, as they have no outlines", path, len(rows) - len(left))
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(left)
    return path


def _teaches(slide: CohortSlide) -> bool:
    return slide.split == "test" or slide.stratum == UNOUTLINED or slide.outlines is not None


def _told_of(made: Made) -> tuple[str, ...]:
    """Say of the data what was left out, or chosen."""
    notes = list(made.notes)
    if made.missing:
        notes.append(f"{made.gone} slides of the set are not here: {', '.join(made.missing)}")
    notes += [f"{name} is damaged and left out: {why}" for name, why in made.damaged.items()]
    return tuple(notes)
