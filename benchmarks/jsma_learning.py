"""Find the magnification that tells: joint attention on composed tissue whose class lives at one.

An image is laid of normal tiles, and the detail of one scale is replaced: by that of other normal
tiles, or, in the other class, by that of lesion tiles. Detail of a scale averages to nothing at
the next lower magnification, and so does the class.

    fine      what averages to 0 over 4 x 4 pixels: it shows at 20x, and at no lower magnification
    middle    what is even over these and averages to 0 over 16 x 16: it shows at 5x, and not at
              1.25x; at 20x it stands behind fine detail, of either tissue in both classes

No tile is in two of train, validation and test. Trains one model on all magnifications and one on
each, and prints test accuracy, the share of attention of each magnification, and then what
the first does with other numbers of patches. What is done already is not done again.

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
GAIN = 1.5  # of the detail that tells
LABELS = ("normal", "lesion")
SETTLED, MOST_PATCHES = (0.2, 0.1), 20

Picture = UInt8[np.ndarray, "h w 3"]


def averaged(picture: Picture, side: int) -> Float32[np.ndarray, "h w 3"]:
    """Give each square of `side` pixels its mean color."""
    small = Image.fromarray(picture).reduce(side)
    return np.asarray(small.resize(picture.shape[1::-1], Image.Resampling.NEAREST), np.float32)


def detail(picture: Picture, above: int, below: int) -> Float32[np.ndarray, "h w 3"]:
    """Give what is even over squares of `above` pixels, and averages to 0 over those of `below`."""
    return averaged(picture, above) - averaged(picture, below)


def laid(files: tuple[Path, ...], rng: np.random.Generator) -> Picture:
    """Lay tiles side by side."""
    tile = np.asarray(Image.open(files[0])).shape[0]
    count = -(-SIDE // tile)
    chosen = rng.choice(len(files), (count, count))
    rows = [[np.asarray(Image.open(files[at]).convert("RGB")) for at in row] for row in chosen]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])[:SIDE, :SIDE]


def composed(files: TileFiles, label: str, band: str, rng: np.random.Generator) -> Picture:
    """Compose an image of a class."""
    above, below = SCALES[band]
    telling = laid(files.lesion if label == "lesion" else files.normal, rng)
    image = averaged(laid(files.normal, rng), below) + GAIN * detail(telling, above, below)
    if band == "middle":
        image += detail(laid(files.normal + files.lesion, rng), 1, above)
    return np.rint(image.clip(0, 255)).astype(np.uint8)


def write(path: Path, picture: Picture) -> None:
    """Write an image as a pyramid with a level for each magnification."""
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
    """Compose the cohort, unless it is there."""
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
    """Train a model, unless it is there."""
    name = "multi" if len(magnifications) > 1 else f"{magnifications[0]:g}x"
    run = options.work / f"{name}{options.tag}"
    flags = {
        "slide.magnifications": magnifications,
        "slide.patch_size": PATCH,
        "slide.tissue": "all",
        "model.thumbnail_px": PATCH,
        "model.frozen": True,
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


def tested(cohort: Cohort, run: Path, name: str, **changed: object) -> dict:
    """Evaluate a run on the test images, with settings changed, and give the metrics."""
    out = run / name
    evaluate(run, cohort.source, out, changed=changed)
    return json.loads((out / "metrics.json").read_text())


def told(name: str, metrics: dict) -> str:
    """Say in a line what a model reached, and where it looked."""
    score, cost = metrics["slides"]["scores"]["accuracy"], metrics["cost"]
    shares = " ".join(
        f"{each['magnification']:g}x {each['mean']:.1%}" for each in metrics["probability"]
    )
    patches = sum(step["mean"] for step in cost["patches"])
    interval = f"{score['low']:.3f} to {score['high']:.3f}"
    return f"{name:28}{score['value']:>8.3f}{interval:>18}{patches:>9.1f}  {shares}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tiles", type=Path, help="folder of tiles, one sub-folder a class")
    parser.add_argument("--normal", default=None)
    parser.add_argument("--lesion", default=None)
    parser.add_argument("--band", choices=list(SCALES), required=True, help="where the class lives")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--images", default="64,24,80", help="train, val, test")
    parser.add_argument("--seed", type=int, default=0, help="of the images")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tag", default="", help="keeps runs of other settings apart")
    options = parser.parse_args()
    cohort = cohort_of(options)
    cells = lay_cells((SIDE, SIDE), MPP, magnifications=MAGNIFICATIONS, patch_size=PATCH)
    print("cells:", ", ".join(f"{20 * MPP / m.mpp:g}x {len(m.boxes)}" for m in cells.maps))
    print(f"{'model':28}{'accuracy':>8}{'95% interval':>18}{'patches':>9}  share of attention")
    joint = trained(cohort, MAGNIFICATIONS, options)
    print(told(joint.name, tested(cohort, joint, "evaluation")), flush=True)
    for k in (2, 3, 10):
        print(told(f"{joint.name}, k={k}", tested(cohort, joint, f"k-{k}", k=k)), flush=True)
    for ci_half_width in SETTLED:
        drawn_on = {"k": 2, "ci_half_width": ci_half_width, "max_patches": MOST_PATCHES}
        metrics = tested(cohort, joint, f"ci_half_width-{ci_half_width}", **drawn_on)
        print(told(f"{joint.name}, ci_half_width={ci_half_width}", metrics), flush=True)
    for magnification in MAGNIFICATIONS:
        run = trained(cohort, (magnification,), options)
        print(told(run.name, tested(cohort, run, "evaluation")), flush=True)


if __name__ == "__main__":
    main()
