"""Train MagNet on painted lesions, large and small, and compare it with mean RGB.

    python benchmarks/magnet_learning.py /tmp/learned
    python benchmarks/magnet_learning.py /tmp/composed --tiles TILES --slides 80 --models magnet-4 \
        --set "slide.magnifications=[5]"

The script paints slides of 512 µm, half of them with a lesion of 180 or 60 µm that is visible only
at high magnification, inside a conspicuous region that is on every slide. It trains the networks
on the slides with large lesions first (`until-large`), then on all (`until-small`). It prints the
AUROC of each model for each lesion size against all slides without a lesion and the differences
between models, with 95% intervals from a paired bootstrap, and how much of the leaves lies on
lesions. With `--tiles`, slides of 2.5 mm are composed of these tiles, with one lesion of 800 µm.

The networks are small (`LIGHT`): pictures of 16 px, leaves of 64 px, the first five blocks of
EfficientNet-Lite0. `--set` changes settings of the networks. Finished runs are kept.

`--objectives hindsight,published` also trains the networks without hindsight, with the two
auxiliary classifiers of the paper. `--seeds 3` trains each with three seeds. `--second-rate 0.0005`
and `--second-random 0.2` are the learning rate and the share of random squares of the second stage.

    python benchmarks/magnet_learning.py /tmp/learned --models magnet-3 magnet-4 --seeds 3 \
        --objectives hindsight,published --second-rate 0.0005 --second-random 0.2
"""

import argparse
import csv
import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from parfocal.dataset import read_cohort
from parfocal.evaluate.run import evaluate
from parfocal.settings import load_settings
from parfocal.slide.synthetic.cohort import paint_cohort
from parfocal.slide.synthetic.painting import Painting
from parfocal.train import train

MODELS = ("meanrgb", "magnet-3", "magnet-4")
LIGHT = (
    *("model.picture_px=16", "model.leaf_px=64", "model.hidden_dim=64"),
    "model.backbone=efficientnet-lite0-stem",
    *("train.epochs=7", "train.batch_size=4", "train.learning_rate=0.0015"),
)
OBJECTIVES = {
    "hindsight": ("model.auxiliary_backbone=null", "model.hindsight=0.35"),
    "published": ("model.auxiliary_backbone=efficientnet-lite0-stem", "model.hindsight=0"),
}
MEANRGB = ("train.epochs=20",)
SPLITS = (0.46, 0.08, 0.46)
RESAMPLES = 2000


@dataclass(frozen=True)
class Design:
    """Sizes of lesions, largest first, and the size of the slides."""

    lesions_um: dict[str, float]
    size: int
    mpp: float


PAINTED = Design({"large": 180.0, "small": 60.0}, size=512, mpp=1.0)
COMPOSED = Design({"large": 800.0}, size=2048, mpp=1.2)


def paint(work: Path, design: Design, *, slides: int, tiles: Path | None) -> list[Path]:
    """Paint slides with each size of lesions; return a table up to each size."""
    tables, rows = [], []
    for seed, (name, lesion_um) in enumerate(design.lesions_um.items(), start=21):
        painting = Painting(
            regions=1, lesions=1, lesion_um=lesion_um, tissue_share=0.6, splits=SPLITS
        )
        painted = work / name / "cohort.csv"
        if not painted.exists():
            paint_cohort(
                painted.parent,
                slides=slides,
                seed=seed,
                size=design.size,
                mpp=design.mpp,
                tiles=tiles,
                painting=painting,
            )
        with painted.open(newline="") as file:
            rows += [_renamed(row, name) for row in csv.DictReader(file)]
        tables.append(_write(work / f"until-{name}.csv", rows))
    return tables


def _write(table: Path, rows: list[dict[str, str]]) -> Path:
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table


def _renamed(row: dict[str, str], folder: str) -> dict[str, str]:
    """Prefix ids and paths with the folder, so that they are unique."""
    names = {key: f"{folder}-{row[key]}" for key in ("slide_id", "patient_id")}
    files = {key: row[key] and f"{folder}/{row[key]}" for key in ("path", "outlines")}
    return {**row, **names, **files, "stratum": folder if row["label"] == "tumor" else "negative"}


@dataclass(frozen=True)
class Variant:
    """A model, its objective and its seed."""

    model: str
    objective: str
    seed: int

    @property
    def name(self) -> str:
        """The model alone for the first seed with hindsight, as in earlier calls."""
        parts = [self.model]
        if self.objective != "hindsight":
            parts.append(self.objective)
        if self.seed:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)


def variants(arguments: argparse.Namespace) -> list[Variant]:
    """Return what to train; mean RGB has one objective."""
    return [
        Variant(model, objective, seed)
        for model in arguments.models
        for objective in (arguments.objectives if model.startswith("magnet") else ["hindsight"])
        for seed in range(arguments.seeds)
    ]


def train_and_evaluate(
    variant: Variant, tables: list[Path], arguments: argparse.Namespace
) -> list[Path]:
    """Train a model on one table after the other, and evaluate it after each."""
    networks = variant.model.startswith("magnet")
    overrides = [*LIGHT, *OBJECTIVES[variant.objective], *arguments.set] if networks else [*MEANRGB]
    overrides.append(f"train.seed={variant.seed}")
    runs = []
    for table in tables if networks else tables[-1:]:
        run = table.with_name(f"{variant.name}-{table.stem}{arguments.tag if runs else ''}")
        train_model(variant.model, table, run, overrides, arguments.device)
        overrides = [*overrides, f"train.init_from={run}"]
        if arguments.second_rate is not None:
            overrides.append(f"train.learning_rate={arguments.second_rate}")
        if arguments.second_random is not None and variant.objective == "hindsight":
            overrides.append(f"model.random_share={arguments.second_random}")
        if not (run / "evaluation" / "predictions.csv").exists():
            evaluate(run, tables[-1], run / "evaluation", device=arguments.device)
        runs.append(run)
    return runs


def train_model(model: str, cohort: Path, out: Path, overrides: list[str], device: str) -> None:
    """Train a model, or resume its training."""
    train(
        read_cohort(cohort),
        load_settings(model, overrides=overrides),
        out,
        cache=None
        if model.startswith("magnet")
        else out.with_name("cache"),  # which reads the same regions in every epoch
        device=device,
        resume=out.exists(),
        progress=False,
    )


def read_probabilities(folder: Path) -> dict[str, float]:
    """Read the predicted probability of a lesion on each slide."""
    with (folder / "predictions.csv").open(newline="") as file:
        return {row["slide_id"]: float(row["prob_tumor"]) for row in csv.DictReader(file)}


def compare(
    probabilities: dict[str, dict[str, float]], strata: dict[str, str], stratum: str
) -> dict[str, dict[str, float]]:
    """Score a stratum against the negatives, with the same resamples for all models."""
    slides = [slide for slide in next(iter(probabilities.values())) if slide in strata]
    slides = [slide for slide in slides if strata[slide] in (stratum, "negative")]
    truth = np.array([strata[slide] == stratum for slide in slides])
    random = np.random.default_rng(0)
    classes = [np.flatnonzero(truth == value) for value in (False, True)]
    resamples = [
        np.concatenate([random.choice(members, len(members)) for members in classes])
        for _ in range(RESAMPLES)
    ]
    scores, resampled = {}, {}
    for model, by_slide in probabilities.items():
        score = np.array([by_slide[slide] for slide in slides])
        scores[model] = roc_auc_score(truth, score)
        resampled[model] = np.array([roc_auc_score(truth[at], score[at]) for at in resamples])
    results = {model: _interval(scores[model], resampled[model]) for model in probabilities}
    for one, other in combinations(probabilities, 2):
        difference = scores[other] - scores[one]
        results[f"{other} over {one}"] = _interval(difference, resampled[other] - resampled[one])
    return results


def _interval(value: float, resampled: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"value": round(value, 3), "low": round(low, 3), "high": round(high, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--tiles", type=Path, help="Compose slides of the tiles in this folder.")
    parser.add_argument(
        "--slides", type=int, default=300, help="Number of slides for each size of lesions."
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--objectives", default="hindsight", help="hindsight, published or both")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--second-rate", type=float, help="learning rate of the second stage")
    parser.add_argument(
        "--second-random", type=float, help="share of random squares of the second stage"
    )
    parser.add_argument("--tag", default="", help="suffix of the runs of the second stage")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.objectives = arguments.objectives.split(",")
    design = PAINTED if arguments.tiles is None else COMPOSED
    tables = paint(arguments.work, design, slides=arguments.slides, tiles=arguments.tiles)
    runs = [
        run for each in variants(arguments) for run in train_and_evaluate(each, tables, arguments)
    ]
    folders = {run.name: run / "evaluation" for run in runs}
    probabilities = {name: read_probabilities(path) for name, path in folders.items()}
    strata = {slide.slide_id: str(slide.stratum) for slide in read_cohort(tables[-1]).slides}
    results: dict[str, object] = {
        each: compare(probabilities, strata, each) for each in design.lesions_um
    }
    for name, folder in folders.items():
        metrics = json.loads((folder / "metrics.json").read_text())
        if name.startswith("magnet"):
            results[f"leaves of {name}"] = metrics["localization"][-1]
    text = json.dumps(results, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()
