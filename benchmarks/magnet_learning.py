"""MagNet on painted lesions, large and small, against the colour of the slide.

    python benchmarks/magnet_learning.py /tmp/learned
    python benchmarks/magnet_learning.py /tmp/as-published --set model.hindsight=0

Paints slides of 512 µm, half of them with a lesion of 180 or of 70 µm that shows only when sharp,
inside a region that catches the eye on every slide; trains each model on all of them; and prints
the AUROC of each size against the slides without, and what a model is ahead of the others,
with 95% intervals of a bootstrap in which all models are scored on the same slides.

The networks are light (`LIGHT`): pictures of 16 px, leaves of 64, the first five blocks of
EfficientNet-Lite0. `--set` changes settings of the networks. What is done already is kept.
"""

import argparse
import csv
import json
from itertools import combinations
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from parfocal.dataset import read_cohort
from parfocal.evaluate import evaluate
from parfocal.settings import load_settings
from parfocal.slide.painting import Painting
from parfocal.slide.synthetic import paint_cohort
from parfocal.train import train

LESIONS_UM = {"large": 180.0, "small": 70.0}
MODELS = ("meanrgb", "magnet-3", "magnet-4")
LIGHT = (
    *("model.side=16", "model.leaf_side=64", "model.hidden_dim=64"),
    *("model.backbone=efficientnet-lite0-stem", "model.auxiliary=null", "model.hindsight=0.35"),
    *("train.epochs=9", "train.batch=4", "train.learning_rate=0.0015"),
)
RESAMPLES = 2000


def paint(work: Path, slides: int) -> Path:
    """Paint so many slides with each size of lesions, and put them into one table."""
    table = work / "cohort.csv"
    if table.exists():
        return table
    rows = []
    for seed, (name, lesion_um) in enumerate(LESIONS_UM.items(), start=21):
        painting = Painting(
            regions=1,
            lesions=1,
            lesion_um=lesion_um,
            tissue_share=0.5,
            splits=(0.5, 0.06, 0.44),
        )
        painted = paint_cohort(
            work / name, slides=slides, seed=seed, size=512, mpp=1.0, painting=painting
        )
        with painted.open(newline="") as file:
            rows += [_renamed(row, name) for row in csv.DictReader(file)]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table


def _renamed(row: dict[str, str], folder: str) -> dict[str, str]:
    """Tell slides of one folder from those of the other."""
    names = {key: f"{folder}-{row[key]}" for key in ("slide_id", "patient_id")}
    files = {key: row[key] and f"{folder}/{row[key]}" for key in ("path", "outlines")}
    return {**row, **names, **files, "stratum": folder if row["label"] == "tumor" else "negative"}


def learned(model: str, cohort: Path, arguments: argparse.Namespace) -> Path:
    """Train and evaluate a model, unless that is done, and give the folder of its answers."""
    run, found = arguments.work / model, arguments.work / f"{model}-evaluation"
    if not (found / "predictions.csv").exists():
        zooms = model.startswith("magnet")
        overrides = [*LIGHT, *arguments.set] if zooms else []
        train(
            read_cohort(cohort),
            load_settings(model, overrides=overrides),
            run,
            cache=None if zooms else arguments.work / "cache",  # of places looked at again
            device=arguments.device,
            resume=run.exists(),
            progress=False,
        )
        evaluate(run, cohort, found, device=arguments.device)
    return found


def read_answers(found: Path) -> dict[str, float]:
    """Give the probability of a lesion on each slide."""
    with (found / "predictions.csv").open(newline="") as file:
        return {row["slide_id"]: float(row["prob_tumor"]) for row in csv.DictReader(file)}


def compare(
    answers: dict[str, dict[str, float]], strata: dict[str, str], stratum: str
) -> dict[str, dict[str, float]]:
    """Score the slides of a stratum against the negatives, of all models on the same draws."""
    slides = [slide for slide in next(iter(answers.values())) if slide in strata]
    slides = [slide for slide in slides if strata[slide] in (stratum, "negative")]
    truth = np.array([strata[slide] == stratum for slide in slides])
    random = np.random.default_rng(0)
    classes = [np.flatnonzero(truth == value) for value in (False, True)]
    draws = [
        np.concatenate([random.choice(members, len(members)) for members in classes])
        for _ in range(RESAMPLES)
    ]
    scores, drawn = {}, {}
    for model, said in answers.items():
        score = np.array([said[slide] for slide in slides])
        scores[model] = roc_auc_score(truth, score)
        drawn[model] = np.array([roc_auc_score(truth[at], score[at]) for at in draws])
    told = {model: _told(scores[model], drawn[model]) for model in answers}
    for one, other in combinations(answers, 2):
        ahead = _told(scores[other] - scores[one], drawn[other] - drawn[one])
        told[f"{other} over {one}"] = ahead
    return told


def _told(value: float, drawn: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": round(value, 3), "low": round(low, 3), "high": round(high, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--slides", type=int, default=130, help="Of each size of lesions.")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cohort = paint(arguments.work, arguments.slides)
    folders = {model: learned(model, cohort, arguments) for model in arguments.models}
    answers = {model: read_answers(found) for model, found in folders.items()}
    strata = {slide.slide_id: str(slide.stratum) for slide in read_cohort(cohort).slides}
    results: dict[str, object] = {each: compare(answers, strata, each) for each in LESIONS_UM}
    for model, found in folders.items():
        metrics = json.loads((found / "metrics.json").read_text())
        if metrics["localisation"]:
            results[f"leaves of {model}"] = metrics["localisation"][-1]
    text = json.dumps(results, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()
