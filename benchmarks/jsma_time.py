"""The time protocol of joint attention: tables 5 and 6 of Zhang et al., CVPR-W 2021.

Seconds per training epoch and milliseconds per image at inference, of each magnification alone, of
all of them one after the other ("combined"), and of the joint model ("multi"); with 5 patches and
with all. Images are painted, of the paper's two sizes, and held in memory, so no decoding is timed.
An epoch is scaled from `--images` to the paper's number of training images.

    python benchmarks/jsma_time.py --backbone efficientnet-lite0 --out jsma_time.json

With `--slides`, instead: one answer on a painted slide of 10,000 and of 40,000 pixels a side.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from parfocal.cells import lay_cells
from parfocal.features.pixels import SlidePixels
from parfocal.models import JointAttention
from parfocal.models.layers.backbone import Backbone
from parfocal.slide.slide import Slide, open_slide, slide_from_array
from parfocal.slide.synthetic import SlidePlan, paint_slide
from parfocal.slide.tissue import find_tissue

EVERY = 10**6  # more patches than there are: all are drawn
BATCH = 4


@dataclass(frozen=True)
class Protocol:
    """One of the paper's data sets: sizes, magnifications, training images."""

    name: str
    size: tuple[int, int]
    mpp: float
    magnifications: tuple[float, ...]
    training_images: int


PROTOCOLS = (
    Protocol("BACH", (2048, 1536), 0.5, (5.0, 10.0, 20.0), 320),
    Protocol("TCGA-PRAD", (2000, 2000), 1.0, (2.5, 5.0, 10.0), 219),
)


@dataclass(frozen=True)
class Row:
    """What was measured of one model."""

    protocol: str
    model: str
    cells: int
    train_s_5: float
    train_s_all: float
    infer_ms_5: float
    infer_ms_all: float


def painted(protocol: Protocol, count: int) -> list[Slide]:
    rng = np.random.default_rng(0)
    width, height = protocol.size
    pictures = rng.integers(0, 256, (count, height // 16, width // 16, 3), dtype=np.uint8)
    return [
        slide_from_array(picture.repeat(16, 0).repeat(16, 1)[:height, :width], mpp=protocol.mpp)
        for picture in pictures
    ]


def sources(slides: Sequence[Slide]) -> list[SlidePixels]:
    """Give fresh sources, which have read nothing yet."""
    return [SlidePixels(slide, find_tissue(slide, method="all")) for slide in slides]


def model_of(backbone: str, magnifications: tuple[float, ...], **options: object) -> JointAttention:
    torch.manual_seed(0)
    model = JointAttention(2, backbone=backbone, magnifications=magnifications, **options)
    model.load_pretrained()
    return model


def epoch(model: JointAttention, slides: Sequence[Slide]) -> float:
    """Train once on all images, and give the seconds."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-4)
    start = time.perf_counter()
    for first in range(0, len(slides), BATCH):
        given = sources(slides[first : first + BATCH])
        loss = model.objective(model(given), torch.zeros(len(given), dtype=torch.int64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def answers(ask: Callable[[SlidePixels], object], slides: Sequence[Slide]) -> float:
    """Ask about images one by one, and give the median milliseconds."""
    seconds = []
    with torch.inference_mode():
        for source in sources(slides):
            start = time.perf_counter()
            ask(source)
            seconds.append(time.perf_counter() - start)
    return 1000 * median(seconds)


def measure(
    protocol: Protocol, magnifications: tuple[float, ...], slides: Sequence[Slide], backbone: str
) -> Row:
    timed = {}
    for name, k, inference in (("5", 5, "sample"), ("all", EVERY, "all")):
        model = model_of(backbone, magnifications, k=k, inference=inference, attention_dropout=0.0)
        seconds = epoch(model, slides)
        timed[f"train_s_{name}"] = seconds * protocol.training_images / len(slides)
        model.eval()
        timed[f"infer_ms_{name}"] = answers(lambda source, model=model: model([source]), slides)
    cells = lay_cells(protocol.size, protocol.mpp, magnifications=magnifications, patch_size=299)
    name = "multi" if len(magnifications) > 1 else f"{magnifications[0]:g}x"
    return Row(protocol.name, name, len(cells.boxes), **timed)


def exhaustive(protocol: Protocol, slides: Sequence[Slide], backbone: str) -> float:
    """Time the encoding of 12 patches of 512 x 512 at the scan's own magnification."""
    network = Backbone(backbone).eval()
    side = 512.0
    boxes = torch.tensor([[x * side, y * side, side, side] for y in range(3) for x in range(4)])
    return answers(
        lambda source: network(source.ask(boxes, (512, 512)).result().float() / 255), slides
    )


def looked_at(protocol: Protocol, slide: Slide, backbone: str) -> float:
    """Give the pixels of the patches that were billed, over those of the image."""
    before = sum(slide.bill.close().patches)
    with torch.inference_mode():
        model_of(backbone, protocol.magnifications).eval()(sources([slide]))
    width, height = protocol.size
    return (sum(slide.bill.close().patches) - before) * 299**2 / (width * height)


def whole_slide(folder: Path, side: int, backbone: str) -> dict[str, float]:
    """Time one answer on a slide file, from opening it."""
    path = folder / f"painted-{side}.tif"
    if not path.exists():
        paint_slide(path, SlidePlan(seed=(0,), size=side, mpp=0.5), threads=2)
    model = model_of(backbone, (2.5, 5.0, 10.0)).eval()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        with open_slide(path) as slide, torch.inference_mode():
            model([SlidePixels(slide, find_tissue(slide))])
            cost = slide.bill.close()
        seconds.append(time.perf_counter() - start)
    return {"side": side, "seconds": median(seconds), "pixels_decoded": cost.pixels_decoded}


def show(rows: Sequence[Row], protocol: Protocol) -> dict[str, float]:
    """Print a table as the paper's, and the ratios that are to be reached."""
    *single, multi = rows
    print(f"\n{protocol.name}: {protocol.size[0]} x {protocol.size[1]} px")
    print("            cells  train s: 5    all   infer ms: 5    all")
    for row in rows:
        print(
            f"{row.model:>10} {row.cells:>6} {row.train_s_5:>11.1f} {row.train_s_all:>6.1f} "
            f"{row.infer_ms_5:>11.1f} {row.infer_ms_all:>6.1f}"
        )
    combined, everything = (
        sum(row.train_s_5 for row in single),
        sum(row.train_s_all for row in single),
    )
    print(f"  combined        {combined:>11.1f} {everything:>6.1f}")
    return {
        "multi over combined, training": multi.train_s_5 / combined,
        "combined over all patches, over multi": everything / multi.train_s_5,
        "all over 5, inference": multi.infer_ms_all / multi.infer_ms_5,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="efficientnet-lite0", help="see `Backbone`")
    parser.add_argument("--images", type=int, default=8, help="measured, of each size")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--slides", type=Path, help="folder for painted slides; times these alone")
    options = parser.parse_args()
    found: dict[str, object] = {"backbone": options.backbone, "threads": torch.get_num_threads()}
    if options.slides is not None:
        found["slides"] = [
            whole_slide(options.slides, side, options.backbone) for side in (10_000, 40_000)
        ]
        print(json.dumps(found["slides"], indent=1))
    else:
        for protocol in PROTOCOLS:
            slides = painted(protocol, options.images)
            sets = [(each,) for each in protocol.magnifications] + [protocol.magnifications]
            rows = [measure(protocol, each, slides, options.backbone) for each in sets]
            ratios = show(rows, protocol)
            five = rows[-1].infer_ms_5
            ratios["12 patches of 512, over 5 drawn"] = (
                exhaustive(protocol, slides, options.backbone) / five
            )
            ratios["share of the image looked at"] = looked_at(
                protocol, slides[0], options.backbone
            )
            print("\n".join(f"{ratio:8.3f}  {name}" for name, ratio in ratios.items()))
            found[protocol.name] = {"rows": [asdict(row) for row in rows], "ratios": ratios}
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
