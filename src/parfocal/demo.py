"""A demonstration on painted slides: paint, extract, train, evaluate, predict.

Two models are trained on the same slides: ZoomMIL, and mean pooling over all patches of the highest
magnification. Features are extracted once for both. The predictions at the end read the test slide
files, and only the patches that ZoomMIL visits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
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

PAINTING = Painting(regions=4, lesions=4, splits=(0.5, 0.156, 0.344))
MAGNIFICATIONS = (2.5, 10.0)


@dataclass(frozen=True)
class Scale:
    """How large a demonstration is.

    Args:
        slides: number of slides.
        side: side of a slide in pixels, at 1 µm per pixel.
        encoder: name of the encoder.
        epochs: number of epochs.
    """

    slides: int
    side: int
    encoder: str = "efficientnet-lite0"
    epochs: int = 30


# 22 are test slides. Every conspicuous region of a tumor slide has a lesion, so that 32 training
# slides are enough.
FULL = Scale(slides=64, side=5632)
# A check that everything works: far too few slides and epochs to learn from.
QUICK = Scale(slides=16, side=2048, epochs=3)
QUICK_NOTE = (
    "This is a quick check of the installation: its slides are too few to train a useful model; "
    "`parfocal demo` without --quick trains one."
)


class DemoError(Exception):
    """The demonstration cannot start; the message gives the reason and what to do."""


def run_demo(out: Path, *, seed: int = 0, quick: bool = False) -> Iterator[str]:
    """Run the demonstration, and yield lines that describe each step and its result.

    Metrics are written to `out/evaluation`, predictions to `out/predictions`. Progress within a
    step is logged.

    Args:
        out: new output folder.
        seed: seed of the slides and the training.
        quick: whether to run all steps on slides that are too few to train a useful model.

    Yields:
        Lines of text.

    Raises:
        DemoError: `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DemoError(f"{out}: already exists and is not empty; delete it or set another --out.")
    scale = QUICK if quick else FULL
    if quick:
        yield QUICK_NOTE
    yield (
        f"1/5  painting {scale.slides} slides; half have lesions visible only at high magnification"
    )
    table = _paint(out / "cohort", seed, scale)
    cohort = read_cohort(table)
    yield f"2/5  extracting features with {scale.encoder}"
    _extract(cohort, out / "features", scale)
    yield "3/5  training ZoomMIL, and mean pooling over all patches at 10x"
    _train(cohort, out, seed, scale)
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
    if quick:
        yield QUICK_NOTE


def _paint(out: Path, seed: int, scale: Scale) -> Path:
    progress = Progress("painting", scale.slides)
    return paint_cohort(
        out,
        slides=scale.slides,
        seed=seed,
        size=scale.side,
        painting=PAINTING,
        progress=lambda done, total: progress.advance("painted") if done else None,
    )


def _extract(cohort: Cohort, out: Path, scale: Scale) -> None:
    extract_cohort(
        [(slide.slide_id, slide.path, slide.mpp) for slide in cohort.slides],
        out,
        encoder=load_encoder(scale.encoder),
        settings=SlideSettings(MAGNIFICATIONS),
    )


def _train(cohort: Cohort, out: Path, seed: int, scale: Scale) -> None:
    """Train ZoomMIL into `run`, and mean pooling into `run-mean`."""
    shared = {
        "encoder.name": scale.encoder,
        "train.epochs": scale.epochs,
        "train.learning_rate": 3e-4,
        "train.seed": seed,
    }
    for recipe, settings, run in (
        # Small slides have few patches, so k is smaller than for real slides.
        ("zoommil-hindsight", {"slide.magnifications": MAGNIFICATIONS, "model.k": 2}, "run"),
        ("mean", {"slide.magnifications": MAGNIFICATIONS[-1:]}, "run-mean"),
    ):
        train(
            cohort,
            load_settings(recipe, flags={**shared, **settings}),
            out / run,
            features=out / "features",
            progress=False,
        )


def _predict(cohort: Cohort, out: Path) -> Iterator[PredictionRecord]:
    paths = [slide.path for slide in cohort.slides if slide.split == "test"]
    for answer in predict_slides(paths, Checkpoint.load(out / "run"), out / "predictions"):
        assert not isinstance(answer, FailedSlide), answer
        yield answer
