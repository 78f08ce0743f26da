"""Compare zooming with exhaustive mean pooling for small lesions in real tissue.

Slides are composed from a folder of tissue tiles with one sub-folder per class: of normal tiles
alone, or with at most 2% of the tissue from lesion tiles. Test slides contain no tile of a training
slide, and colors are matched. For each training seed, the script prints the test AUROC with its
interval for ZoomMIL and for mean pooling over all patches at 10x, and the share of the patches that
each encodes. Completed steps are skipped.

    python benchmarks/colon_tiles.py TILES --normal H --lesion AC --work /tmp/colon

`--more-val N` only paints N more slides with the tiles of the validation set, for a stopping rule
that needs many (`parfocal calibrate --external`), and lists them in cohort-val.csv beside the
cohort.
"""

import argparse
import csv
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from parfocal.dataset import Cohort, read_cohort
from parfocal.encoders.loading import load_encoder
from parfocal.evaluate.run import evaluate
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings
from parfocal.settings import load_settings
from parfocal.slide import Box, find_tissue, open_slide
from parfocal.slide.synthetic.cohort import paint_cohort, plan_cohort
from parfocal.slide.synthetic.painting import TILE_PAINTING, Painting, paint_slide
from parfocal.train import train

MAGNIFICATIONS = (2.5, 5.0, 10.0)
SPLITS = (0.465, 0.14, 0.395)
SIZE = 9216  # side of a slide in pixels of 1 µm


def painting(arguments: argparse.Namespace) -> Painting:
    return replace(
        TILE_PAINTING,
        tissue_share=0.68,
        splits=SPLITS,
        normal_class=arguments.normal,
        lesion_class=arguments.lesion,
    )


def paint(arguments: argparse.Namespace) -> Cohort:
    table = arguments.work / "cohort" / "cohort.csv"
    if not table.exists():
        paint_cohort(
            table.parent,
            slides=arguments.slides,
            seed=arguments.seed,
            size=SIZE,
            tiles=arguments.tiles,
            painting=painting(arguments),
            progress=lambda done, of: print(f"\rpainted {done}/{of}", end="", flush=True),
        )
    cohort = read_cohort(table)
    limits = {"train": arguments.train, "val": arguments.val, "test": None}
    kept = [
        slide
        for split, limit in limits.items()
        for slide in [s for s in cohort.slides if s.split == split][:limit]
    ]
    return replace(cohort, slides=tuple(kept))


def paint_validation(arguments: argparse.Namespace) -> Path:
    """Paint slides with the tiles of the validation set, and return their table."""
    cohort = arguments.work / "cohort"
    with (cohort / "cohort.csv").open(newline="") as file:
        known = sum(row["split"] == "val" for row in csv.DictReader(file))
    share = SPLITS[1] / 2  # more than enough slides of every split are planned; nothing is painted
    plans = plan_cohort(
        slides=round((known + arguments.more_val) / share),
        seed=arguments.seed,
        size=SIZE,
        tiles=arguments.tiles,
        painting=painting(arguments),
    )
    more = [plan for split, plan in plans if split == "val"][known : known + arguments.more_val]

    def paint_one(number: int) -> dict[str, str]:
        name = f"slide-val-{number:04d}"
        paint_slide(cohort / "slides" / f"{name}.tif", more[number])
        label = "tumor" if more[number].lesion else "normal"
        return {"slide_id": name, "path": f"slides/{name}.tif", "label": label, "mpp": "1.0"}

    table = cohort / "cohort-val.csv"
    with ThreadPoolExecutor(2) as pool, table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["slide_id", "path", "label", "mpp"])
        writer.writeheader()
        for row in pool.map(paint_one, range(len(more))):
            writer.writerow(row)
            print(f"\rpainted {row['slide_id']}", end="", flush=True)
    return table


def color_auroc(cohort: Cohort) -> float:
    """Return the test AUROC of a classifier of mean tissue colors, fitted on the other slides."""
    colors = []
    for slide in cohort.slides:
        with open_slide(slide.path, mpp=slide.mpp) as opened:
            tissue = find_tissue(opened)
            whole = opened.read(Box(0, 0, *opened.size), tissue.mask_mpp)
        rows, columns = (min(a, b) for a, b in zip(whole.shape, tissue.mask.shape, strict=False))
        colors.append(whole[:rows, :columns][tissue.mask[:rows, :columns]].mean(axis=0) / 255)
    truth = np.array([slide.label == "tumor" for slide in cohort.slides])
    test = np.array([slide.split == "test" for slide in cohort.slides])
    model = LogisticRegression(C=10.0).fit(np.array(colors)[~test], truth[~test])
    return float(roc_auc_score(truth[test], model.predict_proba(np.array(colors)[test])[:, 1]))


def train_and_evaluate(cohort: Cohort, name: str, seed: int, arguments: argparse.Namespace) -> dict:
    magnifications = MAGNIFICATIONS if name.startswith("zoommil") else (10.0,)
    flags = {"slide.magnifications": magnifications, "train.seed": seed}
    if name.startswith("zoommil"):
        flags["model.k"] = arguments.k
    flags |= dict(item.split("=", 1) for item in arguments.set)
    run = arguments.work / f"{name}{arguments.tag}-{seed}"
    features = arguments.work / "features"
    if not (run / "checkpoint.json").exists():
        settings = load_settings(name, flags=flags)
        train(cohort, settings, run, features=features, resume=run.exists())
    out = run / "evaluation"
    if not (out / "metrics.json").exists():
        evaluate(
            run, cohort.source, out, features=features
        )  # evaluate uses the slides of the run's test split
    return json.loads((out / "metrics.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tiles", type=Path)
    parser.add_argument("--normal", default=None)
    parser.add_argument("--lesion", default=None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=112)
    parser.add_argument("--train", type=int, help="number of training slides to use")
    parser.add_argument("--val", type=int, help="number of validation slides to use")
    parser.add_argument("--more-val", type=int, default=0, help="number of slides to add")
    parser.add_argument("--seed", type=int, default=7, help="seed of the slides")
    parser.add_argument("--seeds", type=int, default=3, help="number of training seeds")
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--models", default="zoommil,mean")
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tag", default="", help="suffix of the run folders, to separate settings")
    arguments = parser.parse_args()
    cohort = paint(arguments)
    if arguments.more_val:
        print(f"\n{paint_validation(arguments)}")
        return
    print(f"\nmean color alone: AUROC {color_auroc(cohort):.2f}")
    extract_cohort(
        [(slide.slide_id, slide.path, slide.mpp) for slide in cohort.slides],
        arguments.work / "features",
        encoder=load_encoder(arguments.encoder),
        settings=SlideSettings(MAGNIFICATIONS),
    )
    print(f"{'model':22}{'seed':>5}{'AUROC':>8}{'95% interval':>18}{'patches':>9}{'share':>8}")
    for name in arguments.models.split(","):
        for seed in range(arguments.seeds):
            metrics = train_and_evaluate(cohort, name, seed, arguments)
            score, cost = metrics["slides"]["scores"]["auroc_macro"], metrics["cost"]
            patches = sum(step["mean"] for step in cost["patches"])
            share = cost["share_patches"]["mean"] if cost["share_patches"] else float("nan")
            interval = f"{score['low']:.3f} to {score['high']:.3f}"
            print(
                f"{name + arguments.tag:22}{seed:>5}{score['value']:>8.3f}{interval:>18}"
                f"{patches:>9.0f}{share:>8.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
