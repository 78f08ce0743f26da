"""Megapixel MNIST: attention sampling on large canvases with a few small digits.

Source: Katharopoulos & Fleuret, "Processing Megapixel Images with Deep Attention-Sampling Models",
    ICML 2019: five digits, three of one class, which is the label, on a canvas of 1500 x 1500 with
    50 patterns of noise; a thumbnail of 180 x 180, patches of 50 x 50, ten of them sampled.

Digits are read from the IDX files of MNIST:

    python examples/megapixel_mnist.py DIGITS --out errors.csv --epochs 20 --train 500 --test 100

DIGITS contains train-images-idx3-ubyte, train-labels-idx1-ubyte and the two t10k- files, plain or
as .gz. Each estimator is trained from the same seed; a row of the CSV file has the error after an
epoch. A large canvas is mostly empty, so few patches contain a digit before attention has learned
to find them. Training is faster on a smaller canvas (--side, with less --noise).
"""

import argparse
import csv
import gzip
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from parfocal.features.pixels import SlidePixels
from parfocal.models import AttentionSampling
from parfocal.slide.slide import slide_from_array
from parfocal.slide.tissue import find_tissue

DIGITS, SAME = 5, 3  # digits on a canvas, and how many of them have the class of its label
SIDE, NOISE, PATCH, THUMBNAIL = 1500, 50, 50, 180  # published
WIDTHS = (16, 32, 64, 64)  # channels of the patch network's convolutions
MAX_KEPT_BYTES = 2**30  # larger sets of canvases are painted again for each use


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """Read an IDX file of bytes, plain or as .gz."""
    compressed = path.with_name(path.name + ".gz")
    if not (path.exists() or compressed.exists()):
        raise SystemExit(
            f"{path}: no such file, nor with .gz. Set DIGITS to the folder of the MNIST files."
        )
    content = path.read_bytes() if path.exists() else gzip.decompress(compressed.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise SystemExit(
            f"{path}: not an IDX file of bytes. Set DIGITS to the folder of the MNIST files."
        )
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def paint(
    digits: UInt8[np.ndarray, "n 28 28"],
    labels: UInt8[np.ndarray, " n"],
    side: int,
    noise: int,
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "s s"], int]:
    """Paint a canvas with three digits of one class, two of others, and strokes of noise."""
    canvas = np.zeros((side, side), dtype=np.uint8)
    label = int(rng.integers(10))
    alike, other = np.flatnonzero(labels == label), np.flatnonzero(labels != label)
    chosen = [*rng.choice(alike, SAME), *rng.choice(other, DIGITS - SAME)]
    for picture in [*digits[chosen], *(stroke(rng) for _ in range(noise))]:
        put(canvas, picture, rng)
    return canvas, label


def put(
    canvas: UInt8[np.ndarray, "s s"], picture: UInt8[np.ndarray, "h w"], rng: np.random.Generator
) -> None:
    """Paint a picture at a random position; where pixels overlap, the brighter one is kept."""
    y, x = rng.integers(0, len(canvas) - len(picture), 2)
    place = canvas[y : y + len(picture), x : x + len(picture)]
    np.maximum(place, picture, out=place)


def stroke(rng: np.random.Generator) -> UInt8[np.ndarray, "28 28"]:
    """Draw a random line, as large as a digit."""
    start, end = rng.uniform(4, 24, (2, 2))
    points = np.rint(start + np.linspace(0, 1, 40)[:, None] * (end - start)).astype(int)
    picture = np.zeros((28, 28), dtype=np.uint8)
    for shift in (0, 1):
        picture[points[:, 0] + shift, points[:, 1]] = 255
    return picture


@dataclass(frozen=True)
class Canvases:
    """Canvases that are painted when needed, and kept if all fit in memory."""

    digits: UInt8[np.ndarray, "n 28 28"]
    labels: UInt8[np.ndarray, " n"]
    side: int
    noise: int
    count: int
    seed: int
    pool: Executor
    kept: dict[int, tuple[UInt8[np.ndarray, "s s"], int]] = field(default_factory=dict)

    def __getitem__(self, number: int) -> tuple[SlidePixels, int]:
        """Return a canvas and its label; the magnification is arbitrary."""
        canvas, label = self.kept[number] if number in self.kept else self._paint(number)
        slide = slide_from_array(np.repeat(canvas[..., None], 3, axis=2), mpp=1.0)
        return SlidePixels(slide, find_tissue(slide, method="all"), pool=self.pool), label

    def _paint(self, number: int) -> tuple[UInt8[np.ndarray, "s s"], int]:
        rng = np.random.default_rng((self.seed, number))
        painted = paint(self.digits, self.labels, self.side, self.noise, rng)
        if self.count * self.side**2 <= MAX_KEPT_BYTES:
            self.kept[number] = painted
        return painted


def canvases(options: argparse.Namespace, pool: Executor) -> tuple[Canvases, Canvases]:
    """Return the training and test canvases, which have different digits."""
    parts = []
    for part, count in (("train", options.train), ("t10k", options.test)):
        digits = read_idx(options.digits / f"{part}-images-idx3-ubyte")
        labels = read_idx(options.digits / f"{part}-labels-idx1-ubyte")
        seed = 2 * options.seed + len(parts)
        parts.append(Canvases(digits, labels, options.side, options.noise, count, seed, pool))
    train, test = parts
    return train, test


def patch_network() -> nn.Sequential:
    """Build the patch network; initially a black patch has features of 0."""
    layers: list[nn.Module] = []
    for in_dim, dim in pairwise((3, *WIDTHS)):
        convolution = nn.Conv2d(in_dim, dim, 3, stride=2, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(convolution.bias)
        layers += [convolution, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def model_of(options: argparse.Namespace, estimator: str) -> AttentionSampling:
    """Build a model, the same for every estimator."""
    torch.manual_seed(options.seed)
    model = AttentionSampling(
        10,
        patch_size=PATCH,
        thumbnail_px=round(THUMBNAIL * options.side / SIDE),
        k=options.k,
        estimator=estimator,
        entropy_weight=options.entropy_weight,
        generator=torch.Generator().manual_seed(options.seed),
    )
    model.patch_classifier.encoder = patch_network()
    return model


def train_epochs(
    model: AttentionSampling, train: Canvases, test: Canvases, options: argparse.Namespace
) -> Iterator[tuple[int, float, float]]:
    """Train a model; yield the epoch, its loss and the error on the test canvases."""
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    for epoch in range(options.epochs):
        model.train()
        losses = []
        for batch in torch.randperm(train.count).split(options.batch):
            chosen = [train[place] for place in batch.tolist()]
            prediction = model([source for source, _ in chosen])
            target = torch.tensor([label for _, label in chosen])
            loss = model.objective(prediction, target, nn.functional.cross_entropy)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        yield epoch + 1, float(np.mean(losses)), error_of(model.eval(), test)


@torch.no_grad()
def error_of(model: AttentionSampling, test: Canvases) -> float:
    """Return the share of misclassified canvases."""
    wrong = 0
    for number in range(test.count):
        source, label = test[number]
        wrong += int(model([source]).logits.argmax()) != label
    return wrong / test.count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("digits", type=Path, help="folder of the IDX files")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    parser.add_argument(
        "--side", type=int, default=SIDE, help="side of a canvas in pixels; published: 1500"
    )
    parser.add_argument(
        "--noise", type=int, default=NOISE, help="number of noise strokes; published: 50"
    )
    parser.add_argument(
        "--train", type=int, default=5000, help="number of training canvases; published: 5000"
    )
    parser.add_argument(
        "--test", type=int, default=1000, help="number of test canvases; published: 1000"
    )
    parser.add_argument("--epochs", type=int, default=500, help="published: 500")
    parser.add_argument("--batch", type=int, default=128, help="published: 128")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="published: 0.001")
    parser.add_argument("--entropy-weight", type=float, default=1e-4, help="published: 0.0001")
    parser.add_argument("--k", type=int, default=10, help="patches per canvas; published: 10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--estimators", default="unbiased,published_gradient", help="see `aggregate`"
    )
    options = parser.parse_args()
    with ThreadPoolExecutor() as pool, options.out.open("w", newline="") as opened:
        train, test = canvases(options, pool)
        writer = csv.writer(opened)
        writer.writerow(["estimator", "epoch", "train_loss", "test_error"])
        for estimator in options.estimators.split(","):
            model = model_of(options, estimator)
            for epoch, loss, error in train_epochs(model, train, test, options):
                writer.writerow([estimator, epoch, f"{loss:.4f}", f"{error:.4f}"])
                opened.flush()
                print(f"{estimator} epoch {epoch}: loss {loss:.4f}, error {error:.1%}", flush=True)


if __name__ == "__main__":
    main()
