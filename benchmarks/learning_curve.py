"""How many slides does it take? Test AUROC against the number of training slides.

Slides of 320 patches at 10x are composed of tissue tiles, with one sub-folder per class: of normal
tiles alone, or with 2 to 5 lesion tiles (0.6 to 1.6%) in one place. Only their features are stored:
squares of 4 x 4 tiles are composed and encoded at 2.5x, 5x and 10x, and a slide is 20 squares.
Tiles are parted into training, validation and test before squares are composed, so no tile is in
two parts; how often each tile is used is printed. All tiles get the same mean color and contrast.

Training slides are nested: those of 50 contain those of 25. All sizes have the same validation and
test slides. Every run has the same learning rate and number of steps (`--steps`, at most 50
epochs), so that 800 slides do not take 32 times as long as 25. Each finished row is added to
rows.csv; the same command goes on with the others, one seed after the other.

    python benchmarks/learning_curve.py TILES --work /tmp/curve
    python benchmarks/learning_curve.py TILES --work /tmp/curve --sizes 25,50 --seeds 1

`--models zoommil-hindsight:model.start_share=0.3` changes a setting of a model. The first call
composes the slides, so its `--sizes` have to include the largest; later calls may have any models,
also side by side.

`--dry-run` needs no tiles and no weights: squares are noise, encoded by the encoder `tiny`.
"""

import argparse
import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from parfocal.dataset import read_cohort
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.loading import load_encoder
from parfocal.evaluate.run import evaluate
from parfocal.features.header import Header, SlideSettings
from parfocal.features.store import feature_path
from parfocal.features.writer import create
from parfocal.files import whole_file
from parfocal.grid import PatchGrid
from parfocal.settings import RunSettings, load_settings
from parfocal.train import train

MAGNIFICATIONS = (2.5, 5.0, 10.0)
TILES_PER_SIDE, ROOTS = 4, (5, 4)  # tiles in a square, squares in a slide
LESION_TILES = (2, 5)
PARTS = {"train": 0.5, "val": 0.1, "test": 0.4}
MODELS = ("zoommil", "zoommil-scalefree", "zoommil-hindsight", "abmil")
MAX_EPOCHS = 50
GAIN = (0.6, 1.7)  # range of factors by which a tile's contrast is changed


@dataclass(frozen=True)
class Square:
    """A square of tiles: its features at each magnification, by row and column, and its tiles."""

    features: tuple[Float[np.ndarray, "s s d"], ...]
    tiles: tuple[str, ...]


@dataclass(frozen=True)
class Tiles:
    """Pixels of tiles by name, all with the same mean color and contrast."""

    pixels: dict[str, UInt8[np.ndarray, "h w 3"]]
    normal: tuple[str, ...]
    lesion: tuple[str, ...]


def read_tiles(arguments: argparse.Namespace, part: str) -> Tiles:
    """Read the tiles of a part; the parts of a class are disjoint."""
    side = arguments.patch_size
    chosen, pixels = {}, {}
    for kind in ("normal", "lesion"):
        if arguments.dry_run:
            names = [f"{kind}-{number}" for number in range(60)]
        else:
            folder = arguments.tiles / getattr(arguments, kind)
            names = sorted(str(path) for path in folder.iterdir())
        order = np.random.default_rng(0).permutation(len(names))
        ends = np.rint(np.cumsum(list(PARTS.values())) * len(names)).astype(int)
        parts = dict(zip(PARTS, np.split(order, ends[:-1]), strict=True))
        chosen[kind] = tuple(names[index] for index in parts[part])
        for name in chosen[kind]:
            pixels[name] = _noise(name, side) if arguments.dry_run else _read(name, side)
    return Tiles(pixels, chosen["normal"], chosen["lesion"])


def _read(path: str, side: int) -> UInt8[np.ndarray, "h w 3"]:
    with Image.open(path) as image:
        tile = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
    return match_color(tile.astype(np.float32))


def _noise(name: str, side: int) -> UInt8[np.ndarray, "h w 3"]:
    generator = np.random.default_rng(list(name.encode()))
    spread = 60.0 if name.startswith("lesion") else 20.0
    return np.clip(generator.normal(160, spread, (side, side, 3)), 0, 255).astype(np.uint8)


def match_color(tile: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Give a tile a fixed mean color and contrast, so that color does not predict the class."""
    mean, spread = tile.mean(axis=(0, 1)), tile.std(axis=(0, 1)).clip(1)
    gain = np.clip(np.array([35.0, 42.0, 30.0]) / spread, *GAIN)
    matched = (tile - mean) * gain + np.array([180.0, 130.0, 170.0])
    return np.rint(matched).clip(0, 255).astype(np.uint8)


def compose(
    tiles: Tiles, lesions: int, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w 3"], list[str]]:
    """Return the pixels of a square and the names of its tiles, row by row."""
    names = rng.choice(tiles.normal, TILES_PER_SIDE**2).tolist()
    if lesions:  # in one place: the first of a spiral around the middle
        middle = [5, 6, 10, 9, 8, 4][:lesions]
        for place, name in zip(middle, rng.choice(tiles.lesion, lesions), strict=True):
            names[place] = str(name)
    rows = [names[row : row + TILES_PER_SIDE] for row in range(0, len(names), TILES_PER_SIDE)]
    picture = np.concatenate(
        [np.concatenate([tiles.pixels[name] for name in row], axis=1) for row in rows]
    )
    return picture, names


def shrink(picture: UInt8[np.ndarray, "h w 3"], factor: int) -> UInt8[np.ndarray, "h w 3"]:
    """Average squares of pixels."""
    height, width, _ = picture.shape
    blocks = picture.reshape(height // factor, factor, width // factor, factor, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


class SquareMaker:
    """Composes and encodes squares of one part; a tile is encoded once at 10x."""

    def __init__(self, tiles: Tiles, encoder: Encoder, seed: int) -> None:
        self.tiles, self.encoder = tiles, encoder
        self.rng = np.random.default_rng(seed)
        self.encoded: dict[str, np.ndarray] = {}

    def make(self, lesions: int) -> Square:
        """Return a square with some lesion tiles."""
        picture, names = compose(self.tiles, lesions, self.rng)
        side = len(picture) // TILES_PER_SIDE
        middle = shrink(picture, 2)
        quarters = [
            middle[row : row + side, column : column + side]
            for row in (0, side)
            for column in (0, side)
        ]
        new = [name for name in dict.fromkeys(names) if name not in self.encoded]
        patches = [shrink(picture, 4), *quarters, *(self.tiles.pixels[name] for name in new)]
        features = self.encoder(np.stack(patches)).cpu().numpy()
        self.encoded.update(zip(new, features[5:], strict=True))
        high = np.stack([self.encoded[name] for name in names])
        dim = features.shape[1]
        return Square(
            (
                features[:1].reshape(1, 1, dim),
                features[1:5].reshape(2, 2, dim),
                high.reshape(TILES_PER_SIDE, TILES_PER_SIDE, dim),
            ),
            tuple(names),
        )


@cache
def slide_grid(patch_size: int) -> PatchGrid:
    """Return the grid of every slide."""
    columns, rows = ROOTS
    side = TILES_PER_SIDE * patch_size
    return PatchGrid(
        mpps=tuple(10 / magnification for magnification in MAGNIFICATIONS),
        patch_size=patch_size,
        slide_size=(columns * side, rows * side),
        slide_mpp=1.0,
        roots=np.array([[column, row] for column in range(columns) for row in range(rows)]),
        sharpest_patches=columns * rows * TILES_PER_SIDE**2,
    )


def write_slide(
    folder: Path, name: str, squares: Sequence[Square], encoder: Encoder, patch_size: int
) -> None:
    """Write the feature file of a slide."""
    spec, grid = encoder.spec, slide_grid(patch_size)
    settings = SlideSettings(MAGNIFICATIONS, patch_size)
    header = Header((spec,) * len(MAGNIFICATIONS), settings, grid, name, f"{name:0>32}", "composed")
    with create(feature_path(folder, name), header) as writer:
        for step in range(len(MAGNIFICATIONS)):
            rows = np.arange(grid.counts[step])
            per_square = len(rows) // len(squares)
            inside = grid.cells(step, rows) % 2**step  # column and row within the square
            table = np.stack(
                [
                    squares[number // per_square].features[step][row, column]
                    for number, (column, row) in enumerate(inside)
                ]
            )
            writer.write(step, rows, table.astype(np.float16))


def compose_cohort(arguments: argparse.Namespace) -> Path:
    """Write the features of all slides and the cohort; print how often tiles are used."""
    table, folder = arguments.work / "cohort.csv", arguments.work / "features"
    if table.exists():
        return table
    name = "tiny" if arguments.dry_run else arguments.encoder
    encoder = load_encoder(name)
    rows = [("slide_id", "path", "label", "split")]
    counts = {"train": max(arguments.sizes), "val": arguments.val, "test": arguments.test}
    for number, (part, slides) in enumerate(counts.items()):
        tiles = read_tiles(arguments, part)
        maker, rng = SquareMaker(tiles, encoder, number), np.random.default_rng(100 + number)
        # A slide with a lesion has one square of its own; normal squares are used several times.
        squares = slides * ROOTS[0] * ROOTS[1] // arguments.reuse
        normal = [maker.make(0) for _ in range(max(30, squares))]
        used: Counter[str] = Counter()
        for index in range(slides):
            label = ("normal", "tumor")[index % 2]
            chosen = [normal[each] for each in rng.choice(len(normal), ROOTS[0] * ROOTS[1], False)]
            if label == "tumor":
                lesions = int(rng.integers(LESION_TILES[0], LESION_TILES[1] + 1))
                chosen[int(rng.integers(len(chosen)))] = maker.make(lesions)
            used.update(tile for square in chosen for tile in square.tiles)
            slide = f"{part}-{index:04d}"
            write_slide(folder, slide, chosen, encoder, arguments.patch_size)
            rows.append((slide, f"{slide}.tif", label, part))
        for kind, names in (("normal", tiles.normal), ("lesion", tiles.lesion)):
            uses = [used[tile] for tile in names]
            print(
                f"{part}: {slides} slides, {len(names)} {kind} tiles, each used "
                f"{np.mean(uses):.1f} times on average, {max(uses)} at most",
                flush=True,
            )
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return table


def settings_for(model: str, size: int, seed: int, arguments: argparse.Namespace) -> RunSettings:
    """Return the settings of one run; the epochs are limited by the number of steps."""
    recipe, *overrides = model.split(":")
    epochs = min(MAX_EPOCHS, max(1, arguments.steps // size))
    flags: dict[str, object] = {
        "slide.magnifications": (10.0,) if recipe == "abmil" else MAGNIFICATIONS,
        "train.seed": seed,
        "train.learning_rate": arguments.learning_rate,
        "train.epochs": epochs,
        "train.patience": epochs,
    }
    if recipe != "abmil":
        flags["model.k"] = arguments.k
    if arguments.dry_run:
        flags |= {"slide.patch_size": 16, "encoder.name": "tiny", "train.epochs": 1}
    elif arguments.encoder != "efficientnet-lite0":
        flags["encoder.name"] = arguments.encoder
    return load_settings(recipe, flags=flags, overrides=overrides)


def first_slides(cohort: Path, size: int) -> Path:
    """Return the table of the first training slides and all others; write it if it is missing."""
    few = cohort.with_name(f"cohort-{size}.csv")
    if few.exists():
        return few
    with cohort.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [row for row in rows if row["split"] != "train"]
    kept += [row for row in rows if row["split"] == "train"][:size]
    # Whole, because calls with other models may run side by side.
    with whole_file(few) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(kept)
    return few


def run(model: str, size: int, seed: int, cohort: Path, arguments: argparse.Namespace) -> dict:
    """Train on the first slides, evaluate on all test slides, and return the row."""
    few = first_slides(cohort, size)
    name = model.replace(":", "-").replace("=", "-")
    out, features = arguments.work / f"{name}-{size}-{seed}", arguments.work / "features"
    settings = settings_for(model, size, seed, arguments)
    summary = train(
        read_cohort(few), settings, out, features=features, resume=out.exists(), progress=False
    )
    evaluate(out, few, out / "evaluation", features=features, report=False)
    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    score = metrics["slides"]["scores"]["auroc_macro"]
    if not arguments.keep:
        shutil.rmtree(out)  # 35 MB each
    return {
        "model": model,
        "slides": size,
        "seed": seed,
        "auroc": score["value"],
        "low": score["low"],
        "high": score["high"],
        "patches": sum(step["mean"] for step in metrics["cost"]["patches"]),
        "epochs": settings.train.epochs,
        "seconds": summary.seconds,
        "zoom": (summary.zoom or {}).get("warning") or "",
    }


def finished(table: Path) -> dict[tuple[str, int, int], dict]:
    """Return the rows of an earlier call."""
    if not table.exists():
        return {}
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["model"], int(row["slides"]), int(row["seed"])): row for row in rows}


def measure(cohort: Path, arguments: argparse.Namespace) -> Iterator[dict]:
    """Yield the rows, seed by seed and smallest sizes first; finished ones are not run again."""
    table = arguments.work / "rows.csv"
    done = finished(table)
    for seed in range(arguments.seeds):
        for size in arguments.sizes:
            for model in arguments.models:
                row = done.get((model, size, seed))
                if row is None:
                    row = run(model, size, seed, cohort, arguments)
                    new = not table.exists()
                    with table.open("a", newline="") as file:
                        writer = csv.DictWriter(file, row)
                        if new:
                            writer.writeheader()
                        writer.writerow(row)
                yield row


def print_row(row: dict) -> None:
    """Print a row of the table."""
    ends = [row["low"], row["high"]]
    known = all(end not in (None, "") for end in ends)
    interval = f"{float(ends[0]):.3f} to {float(ends[1]):.3f}" if known else ""
    print(
        f"| {row['model']} | {row['slides']} | {row['seed']} | {float(row['auroc']):.3f} | "
        f"{interval} | {float(row['patches']):.0f} | {row['epochs']} | "
        f"{float(row['seconds']):.0f} |",
        flush=True,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tiles", type=Path, nargs="?", help="folder of tiles, by class")
    parser.add_argument("--normal", default="H")
    parser.add_argument("--lesion", default="AC")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", default="25,50,100,200,400,800")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seeds", type=int, default=3, help="number of training seeds")
    parser.add_argument("--val", type=int, default=40, help="number of validation slides")
    parser.add_argument("--test", type=int, default=200, help="number of test slides")
    parser.add_argument("--steps", type=int, default=10_000, help="training steps of a run")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--reuse", type=int, default=5, help="mean uses of a normal square")
    parser.add_argument("--keep", action="store_true", help="keep the run folders, 35 MB each")
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--dry-run", action="store_true", help="noise and the encoder tiny")
    arguments = parser.parse_args()
    if arguments.tiles is None and not arguments.dry_run:
        parser.error("give the folder of tiles, or --dry-run")
    for name in () if arguments.dry_run else (arguments.normal, arguments.lesion):
        if not (arguments.tiles / name).is_dir():
            parser.error(f"{arguments.tiles} has no folder {name}; give --normal and --lesion")
    arguments.sizes = sorted(int(size) for size in arguments.sizes.split(","))
    arguments.models = arguments.models.split(",")
    arguments.patch_size = 16 if arguments.dry_run else 256
    return arguments


def main() -> None:
    arguments = parse()
    arguments.work.mkdir(parents=True, exist_ok=True)
    cohort = compose_cohort(arguments)
    print("| model | slides | seed | AUROC | 95% interval | patches | epochs | s |")
    print("|---|---|---|---|---|---|---|---|")
    for row in measure(cohort, arguments):
        print_row(row)


if __name__ == "__main__":
    main()
