"""Patients with several slides, of which one has the lesion: one bag per patient, or late fusion.

Stored features are drawn, so that the truth is known. A patient has 1 to 5 slides of 2 to 4 x 4
patches at 2.5x with 4 children each at 5x. Of a patient with a lesion, one patch at 2.5x of one
slide stands out, and the features of its children are those of the lesion; of a patient without,
one patch stands out as well, with other children. So a model has to find one patch among all
slides, and to zoom into it. The table has the AUROC over test patients, and the visited patches per
patient.

    python benchmarks/patients.py --patients 80 --epochs 40 --seeds 3
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np

from parfocal.dataset.cohort import Cohort, read_cohort
from parfocal.encoders.loading import load_encoder
from parfocal.evaluate.run import evaluate
from parfocal.features.header import Header, SlideSettings
from parfocal.features.store import feature_path
from parfocal.features.writer import create
from parfocal.grid import PatchGrid
from parfocal.settings import load_settings
from parfocal.train import train

SETTINGS = SlideSettings((2.5, 5.0), 16)
SIDE, CHILDREN = 4, 4
NOISE, SIGNAL = 0.3, 3.0


@dataclass(frozen=True)
class Way:
    """A way to predict patients."""

    name: str
    recipe: str
    magnifications: str
    fusion: str | None
    covariates: bool = False


WAYS = (
    Way("zoommil, one bag per patient", "zoommil-hindsight", "2.5,5", None),
    Way("zoommil, mean of slides", "zoommil-hindsight", "2.5,5", "mean"),
    Way("zoommil, max of slides", "zoommil-hindsight", "2.5,5", "max"),
    Way("zoommil, attention over slides", "zoommil-hindsight", "2.5,5", "attention"),
    Way("abmil, one bag per patient", "abmil", "5", None),
    Way("abmil, mean of slides", "abmil", "5", "mean"),
    Way("abmil, max of slides", "abmil", "5", "max"),
    Way("zoommil, one bag, with age", "zoommil-hindsight", "2.5,5", None, covariates=True),
    Way("age alone", "covariates", "5", None, covariates=True),
)


def draw_cohort(folder: Path, patients: int, seed: int) -> Cohort:
    """Draw the features of patients, and write their cohort."""
    rng = np.random.default_rng(seed)
    rows = [["slide_id", "path", "label", "patient_id", "age"]]
    for patient in range(patients):
        ill = patient % 2 == 1
        slides = int(rng.integers(1, 6))
        marked = int(rng.integers(slides))
        age = round(float(rng.normal(65 if ill else 60, 10)), 1)
        for number in range(slides):
            name = f"p{patient:03d}-{number}"
            sign = (1 if ill else -1) if number == marked else 0
            write_slide(folder / "features", name, rng, sign)
            label = "tumor" if ill else "normal"
            rows.append([name, f"{name}.svs", label, f"p{patient:03d}", str(age)])
    with (folder / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return read_cohort(folder / "cohort.csv", columns=("age",))


def write_slide(folder: Path, name: str, rng: np.random.Generator, sign: int) -> None:
    """Write the features of a slide; with a sign, one patch stands out and has other children."""
    columns = int(rng.integers(2, SIDE + 1))
    roots = np.array([[column, row] for row in range(SIDE) for column in range(columns)])
    size = (columns * 128, SIDE * 128)
    grid = PatchGrid((4.0, 2.0), 16, size, 0.5, roots, len(roots) * CHILDREN)
    encoder = load_encoder("tiny").spec
    low = rng.normal(0, NOISE, (len(roots), encoder.dim))
    high = rng.normal(0, NOISE, (len(roots) * CHILDREN, encoder.dim))
    if sign:
        place = int(rng.integers(len(roots)))
        low[place, 0] += SIGNAL
        high[place * CHILDREN : (place + 1) * CHILDREN, 1] += sign * SIGNAL / 2
    header = Header((encoder,) * 2, SETTINGS, grid, name, f"{name:0>32}", "given")
    with create(feature_path(folder, name), header) as writer:
        for step, table in enumerate((low, high)):
            writer.write(step, np.arange(len(table)), table.astype(np.float16))


def measure(way: Way, cohort: Cohort, out: Path, seed: int, epochs: int) -> tuple[float, float]:
    """Train and evaluate one way; return AUROC over patients, and visited patches per patient."""
    zooms = way.recipe.startswith("zoommil")
    overrides = [
        f"slide.magnifications=[{way.magnifications}]",
        "slide.patch_size=16",
        f"train.epochs={epochs}",
        f"train.patience={epochs}",
        f"train.seed={seed}",
        "train.per=patient",
        "train.test_fraction=0.4",
        "train.labels=[normal, tumor]",
        *([f"train.fusion={way.fusion}"] if way.fusion else []),
        *(["train.covariates=[age]"] if way.covariates else []),
        *(["model.k=1", "model.dim=32"] if zooms else []),
        *(["model.dim=32", "model.hidden_dim=16"] if way.recipe == "abmil" else []),
        *([] if way.recipe == "covariates" else ["encoder.name=tiny", "train.learning_rate=0.003"]),
    ]
    settings = load_settings(way.recipe, overrides=overrides)
    features = None if way.recipe == "covariates" else out.parent / "features"
    train(cohort, settings, out, features=features, progress=False)
    evaluate(out, cohort.source, out / "evaluation", features=features, resamples=10, report=False)
    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    auroc = metrics["slides"]["scores"]["auroc_macro"]["value"]
    return auroc, sum(step["mean"] for step in metrics["cost"]["patches"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", help="numbers of rows, such as 0,1; default: all")
    arguments = parser.parse_args()
    ways: Sequence[Way] = WAYS
    if arguments.ways:
        ways = [WAYS[int(number)] for number in arguments.ways.split(",")]
    results: dict[str, list[tuple[float, float]]] = {way.name: [] for way in ways}
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            cohort = draw_cohort(folder, arguments.patients, seed)
            for number, way in enumerate(ways):
                out = folder / f"run-{number}"
                results[way.name].append(measure(way, cohort, out, seed, arguments.epochs))
    print(f"| way | AUROC over patients, {arguments.seeds} cohorts | patches per patient |")
    print("|---|---|---|")
    for way_name, values in results.items():
        aurocs = [auroc for auroc, _ in values]
        listed = ", ".join(f"{auroc:.3f}" for auroc in aurocs)
        print(f"| {way_name} | {mean(aurocs):.3f} ({listed}) | {mean(p for _, p in values):.0f} |")


if __name__ == "__main__":
    main()
