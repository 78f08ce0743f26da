"""What budgets save: the stopping rule against the fixed K, 5% of the patches, and time to answer.

Takes trained runs of a model that zooms, such as those that `parfocal compare` has left, copies
them to `--work`, calibrates the stopping rule of each on its validation slides, or on the slides of
`--calibration`, and evaluates the test slides with the model's own K, with the rule, and at
`--share` of the patches. A row has the mean over the runs, with intervals over patients that all
rows share.

    python benchmarks/budgets.py COHORT RUN... --features DIR --work /tmp/budgets
    python benchmarks/budgets.py COHORT RUN... --features DIR --work /tmp/budgets --disagreement 0.1

With `--slide FILE`, the time from this slide file to the answer is measured, too: with the own K,
with the rule, and to encode every patch at the highest magnification, in turns; the median of
`--repeats`.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parfocal.bag import Bag
from parfocal.compare.read_predictions import read_all_predictions
from parfocal.evaluate.calibrate import calibrate_runs
from parfocal.evaluate.run import evaluate
from parfocal.metrics.paired import paired_scores
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.rounds import ROUND_PATCHES
from parfocal.models.visit import given_budget
from parfocal.predict import predict
from parfocal.slide import open_slide

METRIC = "auroc_macro"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--features", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--disagreement", type=float, default=0.1)
    parser.add_argument("--calibration", type=Path, help="table of slides that are not in the runs")
    parser.add_argument("--round-patches", type=int, default=ROUND_PATCHES)
    parser.add_argument("--share", type=float, default=5.0, help="in percent")
    parser.add_argument("--exhaustive", type=Path, nargs="*", default=[], help="runs to compare")
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def copy_run(run: Path, work: Path, number: int) -> Path:
    """Copy what a run needs, because calibration adds the rule to its checkpoint."""
    copy = work / f"{number}-{run.parent.name}-{run.name}"
    copy.mkdir(parents=True, exist_ok=True)
    for file in run.glob("*"):
        if file.is_file():
            shutil.copy(file, copy / file.name)
    return copy


def evaluate_runs(
    runs: Sequence[Path], arguments: argparse.Namespace, name: str, budget: str | None
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Evaluate all runs with a budget; return the folders and the contents of metrics.json."""
    folders, contents = [], []
    for run in runs:
        folder = run / f"evaluation-{name}"
        evaluate(
            run, arguments.cohort, folder, features=arguments.features, budget=budget, report=False
        )
        folders.append(folder)
        contents.append(json.loads((folder / "metrics.json").read_text()))
    return folders, contents


def mean_patches(contents: Sequence[dict[str, Any]]) -> float:
    """Return the mean number of patches per slide."""
    return statistics.fmean(
        sum(step["mean"] for step in each["cost"]["patches"]) for each in contents
    )


def compare_budgets(runs: Sequence[Path], arguments: argparse.Namespace) -> None:
    """Print the table of the test slides."""
    for run in runs:
        others = arguments.calibration
        (calibration,) = calibrate_runs(
            run,
            others or arguments.cohort,
            features=None if others else arguments.features,
            cache=arguments.work / "cache" if others else None,
            external=others is not None,
            max_disagreement=arguments.disagreement,
            round_patches=arguments.round_patches,
        )
        print(calibration.text)
    budgets = {"own K": None, "settled": "settled"}
    budgets[f"{arguments.share:g}% of the patches"] = f"share={arguments.share:g}%"
    results = {}
    for name, budget in budgets.items():
        label = "own" if budget is None else budget.replace("=", "-").removesuffix("%")
        results[name] = evaluate_runs(runs, arguments, label, budget)
    if arguments.exhaustive:
        copies = [copy_run(r, arguments.work, 100 + n) for n, r in enumerate(arguments.exhaustive)]
        results["exhaustive"] = evaluate_runs(copies, arguments, "own", None)
    predictions = {name: read_all_predictions(*each) for name, each in results.items()}
    scores = paired_scores(predictions, METRIC)
    own = mean_patches(results["own K"][1])
    print("\n| visited | patches | of own K | macro AUROC | gap to best |\n|---|---|---|---|---|")
    for name, (_, contents) in results.items():
        patches, gap = mean_patches(contents), scores[name].gap_to_best
        print(
            f"| {name} | {patches:.1f} | {patches / own:.2f} | {scores[name].scores[METRIC].text} "
            f"| {'best' if gap is None else gap.text} |"
        )
    lowest = statistics.fmean(each["cost"]["patches"][0]["mean"] for each in results["own K"][1])
    print(f"\nThe lowest magnification alone is {lowest:.1f} patches, {lowest / own:.2f} of own K.")
    for name, (_, contents) in results.items():
        for each in contents:
            if "budget" in each:
                print(f"{name}: {each['budget']['text']}")


def time_slide(run: Path, arguments: argparse.Namespace) -> None:
    """Print the seconds from a slide file to the answer."""
    trained = Checkpoint.load(run)
    encoders = trained.load_encoders()
    ways = {"own K": trained, "settled": given_budget(trained, "settled")}
    seconds: dict[str, list[float]] = {name: [] for name in (*ways, "every patch")}
    patches = {}
    for _ in range(arguments.repeats):
        for name, model in ways.items():
            record = predict(arguments.slide, model, encoder=encoders)
            seconds[name].append(record.cost.seconds["total"])
            patches[name] = sum(record.cost.patches)
        start = time.perf_counter()
        with open_slide(arguments.slide) as slide, trained.open(slide, encoder=encoders) as opened:
            bag = opened.model_input
            assert isinstance(bag, Bag)
            for _ in trained.magnifications[1:]:
                bag = bag.zoom(None)  # reads nothing
            bag.features()
            patches["every patch"] = sum(slide.cost_meter.total().patches)
        seconds["every patch"].append(time.perf_counter() - start)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    print("\n| visited | patches | seconds | speed-up |\n|---|---|---|---|")
    for name, median in medians.items():
        speed_up = medians["every patch"] / median
        print(f"| {name} | {patches[name]:,} | {median:.2f} | {speed_up:.1f} |")


def main() -> None:
    arguments = parse_arguments()
    runs = [copy_run(run, arguments.work, number) for number, run in enumerate(arguments.runs)]
    compare_budgets(runs, arguments)
    if arguments.slide is not None:
        time_slide(runs[0], arguments)


if __name__ == "__main__":
    main()
