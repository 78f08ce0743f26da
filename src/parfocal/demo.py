"""The whole road on painted slides: paint, extract, train, evaluate, predict.

Two models learn from the same training slides: ZoomMIL, and the mean of all patches at the sharpest
magnification, which has to look everywhere. Features are extracted once for both; the predictions
at the end read the test slides anew, and only where ZoomMIL asks.
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
from parfocal.settings import load_settings
from parfocal.slide.synthetic.cohort import paint_cohort
from parfocal.slide.synthetic.painting import Painting
from parfocal.train import train

SLIDES = 64  # of which 22 are for testing, painted from seeds of their own
SIDE = 5632  # pixels, at 1 um per pixel: more than five millimeters
ENCODER = "efficientnet-lite0"
# On a tumor slide every region that catches the eye has a lesion inside, so that 32 slides are
# enough to learn from.
PAINTING = Painting(regions=4, lesions=4, splits=(0.5, 0.156, 0.344))
# Small slides have few patches, so fewer are zoomed into than on real ones.
ZOOMING = {
    "slide.magnifications": (2.5, 10.0),
    "model.k": 2,
    "train.epochs": 30,
    "train.learning_rate": 3e-4,
}
EVERYWHERE = {
    "slide.magnifications": (10.0,),
    "train.epochs": ZOOMING["train.epochs"],
    "train.learning_rate": ZOOMING["train.learning_rate"],
}


class DemoError(Exception):
    """A demonstration that cannot be given; the message says why and what to do."""


def run_demo(out: Path, *, seed: int = 0) -> Iterator[str]:
    """Take painted slides from pixels to predictions, telling what is done as it is done.

    Args:
        out: a new folder; metrics are in `evaluation`, predictions in `predictions` afterwards.
        seed: of the slides and of the training.

    Yields:
        Lines for a reader.

    Raises:
        DemoError: `out` is there and not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DemoError(f"{out}: there already, and not empty; remove it, or give another --out.")
    yield f"1/5  painting {SLIDES} slides; half of them have lesions that show only when sharp"
    table = paint_cohort(out / "cohort", slides=SLIDES, seed=seed, size=SIDE, painting=PAINTING)
    cohort = read_cohort(table)
    yield f"2/5  extracting features with {ENCODER}, for the training"
    _extract(cohort, out / "features")
    yield "3/5  training: ZoomMIL, and mean pooling over every patch at 10x"
    for recipe, settings, run in (
        ("zoommil-hindsight", ZOOMING, "run"),
        ("mean", EVERYWHERE, "run-mean"),
    ):
        flags = {**settings, "train.seed": seed, "encoder.name": ENCODER}
        train(
            cohort,
            load_settings(recipe, flags=flags),
            out / run,
            features=out / "features",
            progress=False,
        )
    yield "4/5  evaluating on the test slides"
    zooming = evaluate(out / "run", table, out / "evaluation", features=out / "features")
    everywhere = evaluate(
        out / "run-mean", table, out / "evaluation-mean", features=out / "features"
    )
    yield "5/5  predicting the test slides from their files, reading only what is asked for"
    shares = []
    for record in _predict(cohort, out):
        yield f"     {record.summary}"
        shares.append(record.cost.share_patches or 0.0)
    yield ""
    yield f"ZoomMIL       {zooming.summary}, having looked at {median(shares):.0%} of the patches"
    yield f"mean pooling  {everywhere.summary}, having looked at all of them"
    yield f"metrics       {out / 'evaluation' / 'metrics.json'}"
    yield f"predictions   {out / 'predictions'}: a JSON and a picture a slide"
    write_report((out,), out / "report.html")
    yield f"report        {out / 'report.html'}: open it in a browser"
    yield f"the slides    {_command()} view {out}"


def _command() -> str:
    """Give what to type for `parfocal` here: its environment may not be activated."""
    return "parfocal" if which("parfocal") else str(Path(sys.executable).with_name("parfocal"))


def _extract(cohort: Cohort, out: Path) -> None:
    magnifications = ZOOMING["slide.magnifications"]
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
