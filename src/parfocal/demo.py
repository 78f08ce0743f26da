"""A demonstration on painted slides: paint, extract, train, evaluate, predict.

Two models are trained on the same slides: ZoomMIL, and mean pooling over all patches of the highest
magnification. Features are extracted once for both. The predictions at the end read the test slide
files, and only the patches that ZoomMIL visits.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from statistics import median

from parfocal.dataset.cohort import Cohort, read_cohort
from parfocal.encoders.loading import load_encoder
from parfocal.evaluate.run import evaluate
from parfocal.explain.record import PredictionRecord
from parfocal.explain.report import write_report
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.folder import FailedSlide, predict_slides
from parfocal.progress import Progress
from parfocal.settings import load_settings
from parfocal.slide.synthetic.cohort import paint_cohort
from parfocal.slide.synthetic.painting import Painting
from parfocal.train import train

SLIDES = 64  # of which 22 are test slides
SIDE = 5632  # pixels, at 1 µm per pixel
ENCODER = "efficientnet-lite0"
# Every conspicuous region of a tumor slide has a lesion, so that 32 training slides are enough.
PAINTING = Painting(regions=4, lesions=4, splits=(0.5, 0.156, 0.344))
# Small slides have few patches, so k is smaller than for real slides.
ZOOM_SETTINGS = {
    "slide.magnifications": (2.5, 10.0),
    "model.k": 2,
    "train.epochs": 30,
    "train.learning_rate": 3e-4,
}
EXHAUSTIVE_SETTINGS = {
    "slide.magnifications": (10.0,),
    "train.epochs": ZOOM_SETTINGS["train.epochs"],
    "train.learning_rate": ZOOM_SETTINGS["train.learning_rate"],
}


class DemoError(Exception):
    """The demonstration cannot start; the message gives the reason and what to do."""


def run_demo(out: Path, *, seed: int = 0) -> Iterator[str]:
    """Run the demonstration, and yield lines that describe each step and its result.

    Metrics are written to `out/evaluation`, predictions to `out/predictions`. Progress within a
    step is logged.

    Args:
        out: new output folder.
        seed: seed of the slides and the training.

    Yields:
        Lines of text.

    Raises:
        DemoError: `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DemoError(f"{out}: already exists and is not empty; delete it or set another --out.")
    yield f"1/5  painting {SLIDES} slides; half have lesions visible only at high magnification"
    table = _paint(out / "cohort", seed)
    cohort = read_cohort(table)
    yield f"2/5  extracting features with {ENCODER}"
    _extract(cohort, out / "features")
    yield "3/5  training ZoomMIL, and mean pooling over all patches at 10x"
    for recipe, settings, run in (
        ("zoommil-hindsight", ZOOM_SETTINGS, "run"),
        ("mean", EXHAUSTIVE_SETTINGS, "run-mean"),
    ):
        flags = {**settings, "train.seed": seed, "encoder.name": ENCODER}
        train(
            cohort,
            load_settings(recipe, flags=flags),
            out / run,
            features=out / "features",
            progress=False,
        )
    yield "4/5  evaluating both on the test slides"
    zoommil, mean = (
        evaluate(out / run, table, out / folder, features=out / "features")
        for run, folder in (("run", "evaluation"), ("run-mean", "evaluation-mean"))
    )
    yield "5/5  predicting the test slides from their files; only visited patches are read"
    shares = []
    for record in _predict(cohort, out):
        yield f"     {record.summary}"
        shares.append(record.cost.share_patches or 0.0)
    write_report((out,), out / "report.html")
    yield ""
    yield f"ZoomMIL       {zoommil.summary}; visited {median(shares):.0%} of the patches"
    yield f"mean pooling  {mean.summary}; visited all patches"
    yield f"metrics       {out / 'evaluation' / 'metrics.json'}"
    yield f"predictions   {out / 'predictions'}: a JSON file and a picture per slide"
    yield f"report        {out / 'report.html'}: open it in a browser"
    yield f"viewer        {_command()} view {out}"


def _command() -> str:
    """Return the command that starts parfocal; its environment may not be activated."""
    return "parfocal" if which("parfocal") else str(Path(sys.executable).with_name("parfocal"))


def _paint(out: Path, seed: int) -> Path:
    progress = Progress("painting", SLIDES)
    return paint_cohort(
        out,
        slides=SLIDES,
        seed=seed,
        size=SIDE,
        painting=PAINTING,
        progress=lambda done, total: progress.advance("painted"),
    )


def _extract(cohort: Cohort, out: Path) -> None:
    magnifications = ZOOM_SETTINGS["slide.magnifications"]
    assert isinstance(magnifications, tuple)
    extract_cohort(
        [(slide.slide_id, slide.path, slide.mpp) for slide in cohort.slides],
        out,
        encoder=load_encoder(ENCODER),
        settings=SlideSettings(magnifications),
    )


def _predict(cohort: Cohort, out: Path) -> Iterator[PredictionRecord]:
    paths = [slide.path for slide in cohort.slides if slide.split == "test"]
    for answer in predict_slides(paths, Checkpoint.load(out / "run"), out / "predictions"):
        assert not isinstance(answer, FailedSlide), answer
        yield answer
