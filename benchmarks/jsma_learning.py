"""Train joint attention on composed tissue whose class is visible at one magnification only.

An image is composed of normal tiles. Its detail at one scale is replaced by the detail of other
normal tiles or, in the other class, of lesion tiles. Detail of a scale averages out at the next
lower magnification, and so does the class.

    fine      detail that averages to 0 over 4 x 4 pixels: visible at 20x, at no lower magnification
    middle    detail that is constant over 4 x 4 pixels and averages to 0 over 16 x 16: visible at
              5x, not at 1.25x; at 20x, fine detail of random tissue covers it in both classes

Train, validation and test share no tile. One model is trained on all magnifications, and one on
each. The script prints test accuracy and the share of attention of each magnification, then the
results of the first model for other numbers of patches. Finished runs are kept.

    python benchmarks/jsma_learning.py TILES --normal H --lesion AC --band middle --work /tmp/jsma
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from parfocal.cells import lay_cells
from parfocal.dataset import Cohort, read_cohort
from parfocal.evaluate.run import evaluate
from parfocal.settings import load_settings
from parfocal.slide.synthetic.tissue_tiles import TileFiles, find_tiles
from parfocal.slide.write import write_pyramid
from parfocal.train import train

MAGNIFICATIONS = (1.25, 5.0, 20.0)
MPP, SIDE, PATCH = 0.5, 1536, 96
PARTS, SHARES = ("train", "val", "test"), (0.5, 0.2, 0.3)
SCALES = {"fine": (1, 4), "middle": (4, 16)}
GAIN = 1.5  # factor of the detail of the class
LABELS = ("normal", "lesion")
CI_HALF_WIDTHS, MAX_PATCHES = (0.2, 0.1), 20

Picture = UInt8[np.ndarray, "h w 3"]


def averaged(picture: Picture, side: int) -> Float32[np.ndarray, "h w 3"]:
    """Replace each square of `side` pixels by its mean color."""
    small = Image.fromarray(picture).reduce(side)
    return np.asarray(small.resize(picture.shape[1::-1], Image.Resampling.NEAREST), np.float32)


def detail(picture: Picture, above: int, below: int) -> Float32[np.ndarray, "h w 3"]:
    """Return detail constant over squares of `above` pixels, with mean 0 over those of `below`."""
    return averaged(picture, above) - averaged(picture, below)


def mosaic(files: tuple[Path, ...], rng: np.random.Generator) -> Picture:
    """Arrange random tiles side by side."""
    tile = np.asarray(Image.open(files[0])).shape[0]
    count = -(-SIDE // tile)
    chosen = rng.choice(len(files), (count, count))
    rows = [[np.asarray(Image.open(files[at]).convert("RGB")) for at in row] for row in chosen]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])[:SIDE, :SIDE]


def composed(files: TileFiles, label: str, band: str, rng: np.random.Generator) -> Picture:
    """Compose an image of a class."""
    above, below = SCALES[band]
    class_tiles = mosaic(files.lesion if label == "lesion" else files.normal, rng)
    image = averaged(mosaic(files.normal, rng), below) + GAIN * detail(class_tiles, above, below)
    if band == "middle":
        image += detail(mosaic(files.normal + files.lesion, rng), 1, above)
    return np.rint(image.clip(0, 255)).astype(np.uint8)


def write(path: Path, picture: Picture) -> None:
    """Write an image as a pyramid with one level per magnification."""
    write_pyramid(
        path,
        lambda column, row: picture[row * 256 :, column * 256 :][:256, :256],
        (SIDE, SIDE),
        mpp=MPP,
        downsamples=(1, 4, 16),
        quality=95,
        subsampling="4:4:4",
    )


def cohort_of(options: argparse.Namespace) -> Cohort:
    """Read the cohort; compose it first if it does not exist."""
    table = options.work / "cohort" / "cohort.csv"
    if not table.exists():
        table.parent.mkdir(parents=True)
        files = find_tiles(
            options.tiles, mpp=MPP, normal_class=options.normal, lesion_class=options.lesion
        )
        rng, rows = np.random.default_rng(options.seed), []
        counts = map(int, options.images.split(","))
        for part, count, share in zip(PARTS, counts, files.shares(SHARES, 0), strict=True):
            for number in range(count):
                name, label = f"{part}-{number}", LABELS[number % 2]
                write(table.parent / f"{name}.tif", composed(share, label, options.band, rng))
                rows.append((name, f"{name}.tif", label, part))
        with table.open("w", newline="") as opened:
            csv.writer(opened).writerows([("slide_id", "path", "label", "split"), *rows])
    return read_cohort(table)


def trained(cohort: Cohort, magnifications: tuple[float, ...], options: argparse.Namespace) -> Path:
    """Train a model if it does not exist, and return its run folder."""
    name = "multi" if len(magnifications) > 1 else f"{magnifications[0]:g}x"
    run = options.work / f"{name}{options.tag}"
    flags = {
        "slide.magnifications": magnifications,
        "slide.patch_size": PATCH,
        "slide.tissue_method": "all",
        "model.thumbnail_px": PATCH,
        "model.freeze_backbone": True,
        "model.dropout": 0.2,
        "train.augment": False,
        "train.batch_size": 8,
        "train.epochs": 40,
        "train.learning_rate": 3e-4,
    } | dict(item.split("=", 1) for item in options.set)
    if not (run / "checkpoint.json").exists():
        settings = load_settings("jsma", flags=flags)
        train(cohort, settings, run, cache=options.work / "cache", resume=run.exists())
    return run


def test_metrics(cohort: Cohort, run: Path, name: str, **overrides: object) -> dict:
    """Evaluate a run on the test images with some settings overridden, and return the metrics."""
    out = run / name
    evaluate(run, cohort.source, out, overrides=overrides)
    return json.loads((out / "metrics.json").read_text())


def table_row(name: str, metrics: dict) -> str:
    """Return accuracy, number of patches and share of each magnification as a line of text."""
    score, cost = metrics["slides"]["scores"]["accuracy"], metrics["cost"]
    shares = " ".join(
        f"{each['magnification']:g}x {each['mean']:.1%}" for each in metrics["probability"]
    )
    patches = sum(step["mean"] for step in cost["patches"])
    interval = f"{score['low']:.3f} to {score['high']:.3f}"
    return f"{name:28}{score['value']:>8.3f}{interval:>18}{patches:>9.1f}  {shares}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tiles", type=Path, help="folder of tiles, with one subfolder per class")
    parser.add_argument("--normal", default=None)
    parser.add_argument("--lesion", default=None)
    parser.add_argument(
        "--band", choices=list(SCALES), required=True, help="scale at which the class is visible"
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--images", default="64,24,80", help="number of train, val and test images")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the images")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tag", default="", help="suffix of the run folders")
    options = parser.parse_args()
    cohort = cohort_of(options)
    cells = lay_cells((SIDE, SIDE), MPP, magnifications=MAGNIFICATIONS, patch_size=PATCH)
    print("cells:", ", ".join(f"{20 * MPP / m.mpp:g}x {len(m.boxes)}" for m in cells.maps))
    print(f"{'model':28}{'accuracy':>8}{'95% interval':>18}{'patches':>9}  share of attention")
    joint = trained(cohort, MAGNIFICATIONS, options)
    print(table_row(joint.name, test_metrics(cohort, joint, "evaluation")), flush=True)
    for k in (2, 3, 10):
        print(
            table_row(f"{joint.name}, k={k}", test_metrics(cohort, joint, f"k-{k}", k=k)),
            flush=True,
        )
    for ci_half_width in CI_HALF_WIDTHS:
        adaptive = {"k": 2, "ci_half_width": ci_half_width, "max_patches": MAX_PATCHES}
        metrics = test_metrics(cohort, joint, f"ci_half_width-{ci_half_width}", **adaptive)
        print(table_row(f"{joint.name}, ci_half_width={ci_half_width}", metrics), flush=True)
    for magnification in MAGNIFICATIONS:
        run = trained(cohort, (magnification,), options)
        print(table_row(run.name, test_metrics(cohort, run, "evaluation")), flush=True)


if __name__ == "__main__":
    main()
