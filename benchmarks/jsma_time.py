"""Measure the times of joint attention: tables 5 and 6 of Zhang et al., CVPR-W 2021.

Seconds per training epoch and milliseconds per image at inference are measured for each
magnification alone, for all of them one after the other ("combined"), and for the joint model
("multi"); with 5 patches and with all. Images are painted in the paper's two sizes and kept in
memory, so no decoding is timed. A round times every model once. The fastest round is reported,
because other work of the machine only adds time. An epoch is scaled from a batch of 4 (a single
image if all patches are encoded) to the paper's number of training images.

    python benchmarks/jsma_time.py --protocol BACH --json bach.json

With `--slides FOLDER`, predictions on painted slides with sides of 10,000 and 40,000 pixels are
timed instead.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)

from parfocal.cells import lay_cells
from parfocal.cost import Cost
from parfocal.encoders.allocator import keep_freed_memory
from parfocal.features.pixels import SlidePixels
from parfocal.models import JointAttention
from parfocal.models.layers.backbone import Backbone
from parfocal.models.layers.sampling_config import SamplingConfig
from parfocal.prediction import Prediction
from parfocal.slide.slide import Slide, open_slide, slide_from_array
from parfocal.slide.synthetic.painting import Painting, SlidePlan, paint_slide
from parfocal.slide.tissue import find_tissue

FEW = SamplingConfig(5)
EVERY = SamplingConfig(10**6, inference="all")  # k above the number of cells: all are sampled
SPARSE = Painting(tissue_share=0.12, lesion_um=400.0)
BATCH = 4
TIMES = ("train_few", "train_all", "infer_few", "infer_all")


@dataclass(frozen=True)
class Protocol:
    """Image size, magnifications and number of training images of a data set of the paper."""

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
class Timed:
    """A model, and its seconds per image in each round."""

    name: str
    model: JointAttention
    cells: int
    train_few: list[float] = field(default_factory=list)
    train_all: list[float] = field(default_factory=list)
    infer_few: list[float] = field(default_factory=list)
    infer_all: list[float] = field(default_factory=list)

    def round(self, slides: Sequence[Slide]) -> None:
        """Time the model once. The paper trains no joint model on all patches."""
        self.train_few.append(training_time(self.model, FEW, slides))
        if self.name != "multi":
            self.train_all.append(training_time(self.model, EVERY, slides[:1]))
        self.infer_few.append(inference_time(self.model, FEW, slides[0]))
        self.infer_all.append(inference_time(self.model, EVERY, slides[0]))

    def row(self, images: int) -> dict[str, str | float | None]:
        """Return a row of the paper's tables."""
        return {
            "model": self.name,
            "cells": self.cells,
            "train_s_5": images * min(self.train_few),
            "train_s_all": images * min(self.train_all) if self.train_all else None,
            "infer_ms_5": 1000 * min(self.infer_few),
            "infer_ms_all": 1000 * min(self.infer_all),
        }


def painted(protocol: Protocol) -> list[Slide]:
    """Paint a batch of images in memory."""
    rng = np.random.default_rng(0)
    width, height = protocol.size
    pictures = rng.integers(0, 256, (BATCH, height // 16, width // 16, 3), dtype=np.uint8)
    return [
        slide_from_array(picture.repeat(16, 0).repeat(16, 1)[:height, :width], mpp=protocol.mpp)
        for picture in pictures
    ]


def sources(slides: Sequence[Slide]) -> list[SlidePixels]:
    """Return new pixel sources, which have read nothing yet."""
    return [SlidePixels(slide, find_tissue(slide, method="all")) for slide in slides]


def model_of(magnifications: tuple[float, ...], backbone: str, patch_size: int) -> JointAttention:
    """Build a model with pretrained weights, the same every time."""
    torch.manual_seed(0)
    model = JointAttention(
        2, backbone=backbone, magnifications=magnifications, patch_size=patch_size
    )
    model.load_pretrained()
    return model


def training_time(
    model: JointAttention, sampling: SamplingConfig, slides: Sequence[Slide]
) -> float:
    """Return the seconds per image of one training step."""
    model.train().patch_classifier.sampling = sampling
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    start = time.perf_counter()
    target = torch.zeros(len(slides), dtype=torch.int64)
    loss = model.objective(model(sources(slides)), target, F.cross_entropy)
    loss.backward()
    optimizer.step()
    return (time.perf_counter() - start) / len(slides)


def inference_time(model: JointAttention, sampling: SamplingConfig, slide: Slide) -> float:
    """Return the seconds of a prediction for an image."""
    model.eval().patch_classifier.sampling = sampling
    return time_of(lambda source: model([source]), slide)


def time_of(run: Callable[[SlidePixels], object], slide: Slide) -> float:
    """Return the seconds of a call on a new pixel source of a slide."""
    (source,) = sources([slide])
    start = time.perf_counter()
    with torch.inference_mode():
        run(source)
    return time.perf_counter() - start


def exhaustive(network: Backbone, slide: Slide) -> float:
    """Time the encoding of 12 patches of 512 x 512 at the scan's own magnification."""
    boxes = torch.tensor([[512.0 * x, 512.0 * y, 512, 512] for y in range(3) for x in range(4)])
    return time_of(
        lambda source: network(source.request(boxes, (512, 512)).result().float() / 255), slide
    )


def shares(model: JointAttention, protocol: Protocol, slides: Sequence[Slide]) -> dict[str, float]:
    """Return the share of 5 patches in the image's pixels, in its cells and in its area."""
    model.eval().patch_classifier.sampling = FEW
    with torch.inference_mode():
        areas = [covered_share(model([source]), protocol.size) for source in sources(slides)]
    pixels = FEW.k * model.patch_size**2
    cells = len(cells_of(protocol, protocol.magnifications, model.patch_size))
    return {
        "pixels read over pixels of the scan": pixels / np.prod(protocol.size),
        "cells sampled over all cells": FEW.k / cells,
        "area covered by patches over area": mean(areas),
    }


def covered_share(prediction: Prediction, size: tuple[int, int]) -> float:
    """Return the share of an image's area that the sampled patches cover."""
    covered = np.zeros((size[1], size[0]), dtype=bool)
    for look in prediction.slides[0].looks:
        for x, y, width, height in look.places.boxes[look.selected].round().int().tolist():
            covered[y : y + height, x : x + width] = True
    return float(covered.mean())


def cells_of(
    protocol: Protocol, magnifications: tuple[float, ...], patch_size: int
) -> torch.Tensor:
    """Return the boxes of the cells of all magnifications."""
    return lay_cells(
        protocol.size, protocol.mpp, magnifications=magnifications, patch_size=patch_size
    ).boxes


def measure(protocol: Protocol, options: argparse.Namespace) -> dict[str, object]:
    """Time all models in rounds; the first round is a warm-up."""
    slides = painted(protocol)
    timed = []
    for each in [(each,) for each in protocol.magnifications] + [protocol.magnifications]:
        name = "multi" if len(each) > 1 else f"{each[0]:g}x"
        model = model_of(each, options.backbone, options.patch)
        timed.append(Timed(name, model, len(cells_of(protocol, each, options.patch))))
    network = timed[-1].model.encoder
    twelve = []
    for number in range(options.rounds + 1):
        for each in timed:
            each.round(slides)
        twelve.append(exhaustive(network, slides[0]))
        if number == 0:
            twelve.clear()
            timed = [Timed(each.name, each.model, each.cells) for each in timed]
        print(f"round {number} of {options.rounds}", flush=True)
    rows = [each.row(protocol.training_images) for each in timed]
    found = ratios(rows) | {
        "12 patches of 512, over 5 sampled, inference": 1000 * min(twelve) / rows[-1]["infer_ms_5"]
    }
    rounds = {each.name: {key: getattr(each, key) for key in TIMES} for each in timed}
    return {
        "rounds": rounds,
        "rows": rows,
        "ratios": found,
        "shares": shares(timed[-1].model, protocol, slides),
    }


def ratios(rows: Sequence[dict]) -> dict[str, float]:
    """Return the ratios that the paper reports."""
    *single, multi = rows
    return {
        "multi over combined, training": multi["train_s_5"] / sum(r["train_s_5"] for r in single),
        "combined over all patches, over multi, training": sum(r["train_s_all"] for r in single)
        / multi["train_s_5"],
        "all over 5, inference": multi["infer_ms_all"] / multi["infer_ms_5"],
    }


def show(found: dict, protocol: Protocol) -> None:
    """Print a table like the paper's, and the ratios."""
    print(f"\n{protocol.name}: {protocol.size[0]} x {protocol.size[1]} px")
    print("            cells  train s: 5    all   infer ms: 5    all")
    for row in found["rows"]:
        every = f"{row['train_s_all']:.1f}" if row["train_s_all"] else "-"
        print(
            f"{row['model']:>10} {row['cells']:>6} {row['train_s_5']:>11.1f} {every:>6} "
            f"{row['infer_ms_5']:>11.1f} {row['infer_ms_all']:>6.1f}"
        )
    for name, value in (found["ratios"] | found["shares"]).items():
        print(f"{value:8.3f}  {name}")


def whole_slides(folder: Path, options: argparse.Namespace) -> list[dict[str, float]]:
    """Time predictions from slide files, including opening them; the first round is a warm-up."""
    model = model_of((2.5, 5.0, 10.0), options.backbone, options.patch).eval()
    paths = {side: folder / f"painted-{side}.tif" for side in (10_000, 40_000)}
    for side, path in paths.items():
        if not path.exists():
            plan = SlidePlan(seed=(0,), size=side, mpp=0.5, painting=SPARSE)
            paint_slide(path, plan, threads=2)
    rounds = [
        {side: whole_slide(path, model, options.tissue) for side, path in paths.items()}
        for _ in range(options.rounds + 1)
    ]
    return [
        {"side": side, "seconds": min(each[side][0] for each in rounds[1:])}
        | {"pixels_decoded": rounds[0][side][1].pixels_decoded}
        for side in paths
    ]


def whole_slide(path: Path, model: JointAttention, tissue: str) -> tuple[float, Cost]:
    """Return the seconds and the cost of a prediction from a slide file."""
    start = time.perf_counter()
    with open_slide(path) as slide, torch.inference_mode():
        model([SlidePixels(slide, find_tissue(slide, method=tissue))])
        cost = slide.cost_meter.total()
    return time.perf_counter() - start, cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--protocol", choices=[each.name for each in PROTOCOLS], default="BACH")
    parser.add_argument("--backbone", default="efficientnet-lite0", help="see `Backbone`")
    parser.add_argument("--patch", type=int, default=299, help="side of a patch in pixels")
    parser.add_argument(
        "--rounds", type=int, default=5, help="measured rounds, after a warm-up round"
    )
    parser.add_argument(
        "--slides", type=Path, help="folder for painted slides; only these are timed"
    )
    parser.add_argument("--tissue", default="otsu", help="tissue detection on these slides")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    keep_freed_memory()  # as the commands do
    found: dict[str, object] = {"backbone": options.backbone, "threads": torch.get_num_threads()}
    if options.slides is not None:
        options.slides.mkdir(parents=True, exist_ok=True)
        found["slides"] = whole_slides(options.slides, options)
        print(json.dumps(found["slides"], indent=1))
    else:
        (protocol,) = [each for each in PROTOCOLS if each.name == options.protocol]
        found |= {"protocol": asdict(protocol), **measure(protocol, options)}
        show(found, protocol)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
