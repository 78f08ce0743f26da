"""Measure MagNet from a slide file to the prediction: seconds, pixels, patches.

    python benchmarks/magnet_slide.py --paint 20000 /tmp/small.tif
    python benchmarks/magnet_slide.py --paint 100000 /tmp/large.tif
    python benchmarks/magnet_slide.py /tmp/small.tif /tmp/large.tif [--patches 2,3,3]

`--paint` paints a 40x scan with the given side in pixels, an eighth of it tissue. The layers that
choose squares are untrained, so the squares are large: which squares a model chooses, and therefore
how much it decodes, depends on its weights. Seconds include opening the file and finding tissue, as
in `parfocal predict`, but not loading weights. Patches are the encoded leaves; tiling covers the
tissue with patches as large as a leaf, at 10x and at 20x.
"""

import argparse
import json
import statistics
import time
from contextlib import closing
from pathlib import Path

import torch

from parfocal.cost import CostMeter
from parfocal.features.pixels import SlidePixels
from parfocal.grid import PatchGrid
from parfocal.models.magnet import MagNet
from parfocal.slide.resolution import mpp_of
from parfocal.slide.slide import open_slide
from parfocal.slide.synthetic.painting import Painting, SlidePlan, paint_slide
from parfocal.slide.tissue import find_tissue

TILED = (10.0, 20.0)


def predict(path: Path, model: MagNet) -> tuple[float, CostMeter]:
    """Predict one slide file, and return the seconds and the cost meter."""
    start, cost_meter = time.perf_counter(), CostMeter()
    with open_slide(path, cost_meter=cost_meter) as slide:
        with closing(SlidePixels(slide, find_tissue(slide))) as pixels, torch.no_grad():
            model([pixels])
        return time.perf_counter() - start, cost_meter


def measure(path: Path, model: MagNet, *, repeats: int) -> dict[str, object]:
    times, cost_meters = zip(*(predict(path, model) for _ in range(repeats)), strict=True)
    config = model.search.config
    with open_slide(path) as slide:
        size, tissue = slide.size, find_tissue(slide)
        tiles = {
            f"{magnification:g}x": PatchGrid.over(
                tissue, mpps=(mpp_of(magnification),), patch_size=config.leaf_px
            ).sharpest_patches
            for magnification in TILED
        }
    leaves, decoded = 1, cost_meters[0].total().pixels_decoded
    for count in config.patches:
        leaves *= count
    return {
        "slide": path.name,
        "side": max(size),
        "seconds": statistics.median(times),
        "pixels_decoded": decoded,
        "share_of_level_0": decoded / (size[0] * size[1]),
        "leaves": leaves,
        "fewer_patches_than_tiling": {name: count / leaves for name, count in tiles.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--paint", type=int, metavar="SIDE")
    parser.add_argument("--patches", default="2,3,3")
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.paint:
        painting = Painting(tissue_share=0.12, lesion_um=400.0)
        plan = SlidePlan((6,), (6,), size=arguments.paint, mpp=0.25, painting=painting)
        paint_slide(arguments.slides[0], plan, threads=2)
        return
    torch.manual_seed(0)
    patches = [int(count) for count in arguments.patches.split(",")]
    model = MagNet(2, patches=patches, backbone=arguments.backbone, auxiliary_backbone=None)
    model.load_pretrained()
    found = [measure(path, model.eval(), repeats=arguments.repeats) for path in arguments.slides]
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()
