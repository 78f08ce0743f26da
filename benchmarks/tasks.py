"""Train on painted cohorts whose endpoints follow from the lesions, and compare with the truth.

    python benchmarks/tasks.py --out DIR [--slides 200] [--size 2048] [--epochs 40] [--seed 0]

Each cohort is painted, its features are extracted once, and every model is trained on them and
evaluated on the test slides. "of the truth" is the score of the true area of the lesions, which no
model can be expected to exceed: its concordance C gives (C of the model - 0.5) / (C - 0.5).
Nothing is painted, extracted or trained again that is in DIR already.
"""

import argparse
import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parfocal.metrics import SurvivalPredictions, concordance

PATCHES = ("--set", "slide.patch_size=128")
ZOOM = (*PATCHES, "--magnifications", "2.5,10", "--set", "model.k=4")
MODELS = {"zoommil-hindsight": ZOOM, "abmil": PATCHES}


@dataclass(frozen=True)
class Experiment:
    """A task on a painted cohort: its endpoint, its options and the score to report."""

    name: str
    endpoint: str
    options: tuple[str, ...]
    score: str


SURVIVAL = ("--time", "os_months", "--event", "os_event")
EXPERIMENTS = (
    Experiment("survival", "survival", ("--task", "survival", *SURVIVAL), "concordance"),
    Experiment("hazards", "survival", ("--task", "hazards", *SURVIVAL), "concordance"),
    Experiment("regression", "survival", ("--task", "regression", "--target", "lesion_mm2"), "r2"),
    Experiment(
        "ordinal", "survival", ("--task", "ordinal", "--target", "grade"), "quadratic_kappa"
    ),
    Experiment(
        "multilabel",
        "multilabel",
        ("--task", "multilabel", "--target", "hollow,ringed"),
        "auroc_macro",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", default=",".join(each.name for each in EXPERIMENTS))
    options = parser.parse_args()
    print("| task | model | score | value | of the truth | share of it | patches |")
    print("|---|---|---|---|---|---|---|")
    for experiment in EXPERIMENTS:
        if experiment.name in options.tasks.split(","):
            measure(experiment, options)


def measure(experiment: Experiment, options: argparse.Namespace) -> None:
    """Print a line for each model, and one for covariates alone."""
    cohort = prepare(experiment.endpoint, options)
    truth = true_score(experiment, cohort)
    for model, settings in MODELS.items():
        features = ("--features", str(cohort / "features"))
        arguments = (*settings, *features)
        print_row(experiment, model, train(experiment, model, cohort, arguments, options), truth)
    if experiment.name == "survival":
        arguments = ("--covariates", "age,sex:category")
        metrics = train(experiment, "covariates", cohort, arguments, options)
        print_row(experiment, "covariates", metrics, truth)


def prepare(endpoint: str, options: argparse.Namespace) -> Path:
    """Paint a cohort and extract its features."""
    cohort: Path = options.out / endpoint
    if not (cohort / "cohort.csv").exists():
        size = ("--slides", str(options.slides), "--size", str(options.size))
        seed = ("--seed", str(options.seed))
        run("synth", cohort, *size, *seed, "--endpoint", endpoint)
    extract = ("--magnifications", "2.5,10", "--patch-size", "128", "--out", cohort / "features")
    run("extract", cohort / "cohort.csv", *extract)
    return cohort


def train(
    experiment: Experiment,
    model: str,
    cohort: Path,
    arguments: tuple[str, ...],
    options: argparse.Namespace,
) -> dict:
    """Train and evaluate a model; return the content of metrics.json."""
    folder = options.out / experiment.name / model
    table, features = cohort / "cohort.csv", arguments[-2:] if model != "covariates" else ()
    if not (folder / "run" / "checkpoint.json").exists():
        own = (*experiment.options, *arguments, "--seed", str(options.seed))
        epochs = () if model == "covariates" else ("--epochs", str(options.epochs))
        run("train", table, "--model", model, "--out", folder / "run", *own, *epochs)
    run("evaluate", folder / "run", table, "--out", folder / "evaluation", *features)
    return json.loads((folder / "evaluation" / "metrics.json").read_text())


def true_score(experiment: Experiment, cohort: Path) -> float:
    """Return the score of the true area of the lesions on the test slides."""
    if experiment.score != "concordance":
        return 1.0
    with (cohort / "cohort.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    area, months, event = (
        np.array([float(row[column]) for row in rows])
        for column in ("lesion_mm2", "os_months", "os_event")
    )
    names = tuple(row["slide_id"] for row in rows)
    found = concordance(SurvivalPredictions(area, months, event == 1, names))
    assert found is not None
    return found


def print_row(experiment: Experiment, model: str, metrics: dict, truth: float) -> None:
    score = metrics["slides"]["scores"][experiment.score]
    value, zero = score["value"], 0.5 if experiment.score == "concordance" else 0.0
    interval = f" ({score['low']:.3f} to {score['high']:.3f})" if score["low"] is not None else ""
    patches = metrics["cost"]["share_patches"]
    share = "" if patches is None else f"{patches['mean']:.0%}"
    cells = (
        *(experiment.name, model, experiment.score, f"{value:.3f}{interval}", f"{truth:.3f}"),
        *(f"{(value - zero) / (truth - zero):.2f}", share),
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def run(*arguments: object) -> None:
    """Run a command of parfocal, and show its output if it fails."""
    command = [sys.executable, "-m", "parfocal.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
