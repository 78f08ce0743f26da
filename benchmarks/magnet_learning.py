"""MagNet on painted lesions, large and small, against the colour of the slide.

    parfocal synth /tmp/large --slides 320 --seed 0 --lesion-um 800
    parfocal synth /tmp/small --slides 320 --seed 1 --lesion-um 200
    python benchmarks/magnet_learning.py /tmp/{large,small}/cohort.csv --work /tmp/learned

Trains each model on each cohort, and prints its AUROC on the test slides, and what each is ahead of
the one before, with 95% intervals of a bootstrap in which all models are scored on the same
slides. `--set` changes settings of all models of pixels that have them, as `model.backbone=small`.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from parfocal.dataset import read_cohort
from parfocal.evaluate import evaluate
from parfocal.settings import load_settings
from parfocal.train import train

MODELS = ("meanrgb", "magnet-3", "magnet-4")
RESAMPLES = 2000


def learned(model: str, cohort: Path, work: Path, arguments: argparse.Namespace) -> Path:
    """Train and evaluate a model, unless that is done, and give its answers."""
    run, found = work / model, work / f"{model}-evaluation"
    overrides = arguments.set if model.startswith("magnet") else []
    if not (found / "predictions.csv").exists():
        settings = load_settings(model, overrides=overrides)
        cache = work / "cache" if arguments.cache else None
        train(
            read_cohort(cohort),
            settings,
            run,
            cache=cache,
            device=arguments.device,
            resume=run.exists(),
            progress=False,
        )
        evaluate(run, cohort, found, device=arguments.device)
    return found / "predictions.csv"


def read_answers(path: Path) -> dict[str, tuple[bool, float]]:
    """Give whether each slide has a lesion, and the probability that it has."""
    with path.open(newline="") as file:
        return {
            row["slide_id"]: (row["label"] == "tumor", float(row["prob_tumor"]))
            for row in csv.DictReader(file)
        }


def draws(truth: np.ndarray) -> list[np.ndarray]:
    """Draw slides with replacement, each class by itself, so that a score is always defined."""
    random = np.random.default_rng(0)
    classes = [np.flatnonzero(truth == value) for value in (False, True)]
    return [
        np.concatenate([random.choice(members, len(members)) for members in classes])
        for _ in range(RESAMPLES)
    ]


def compare(paths: dict[str, Path]) -> dict[str, dict[str, float]]:
    answers = {model: read_answers(path) for model, path in paths.items()}
    common = sorted(set.intersection(*(set(each) for each in answers.values())))
    truth = np.array([next(iter(answers.values()))[slide][0] for slide in common])
    scores = {model: np.array([each[s][1] for s in common]) for model, each in answers.items()}
    drawn = {
        model: np.array([roc_auc_score(truth[at], score[at]) for at in draws(truth)])
        for model, score in scores.items()
    }
    results: dict[str, dict[str, float]] = {}
    before = None
    for model, score in scores.items():
        low, high = np.percentile(drawn[model], [2.5, 97.5])
        results[model] = {"auroc": roc_auc_score(truth, score), "low": low, "high": high}
        if before is not None:
            ahead = drawn[model] - drawn[before]
            results[model] |= {
                "ahead": results[model]["auroc"] - results[before]["auroc"],
                "ahead_low": float(np.percentile(ahead, 2.5)),
                "ahead_high": float(np.percentile(ahead, 97.5)),
            }
        before = model
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cohorts", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--cache", action="store_true", help="keep regions that are read")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {}
    for cohort in arguments.cohorts:
        name = cohort.parent.name
        work = arguments.work / name
        found[name] = compare(
            {model: learned(model, cohort, work, arguments) for model in arguments.models}
        )
        print(name, json.dumps(found[name], indent=1), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
