"""Paint the slides for the timings of `slide_to_answer.py`: 20x scans, 60% tissue.

`large` has about 6,000 tissue patches at 10x, `middle` a quarter of them and `small` a sixteenth.
`sparse` is `large` with downsamples of 1, 4 and 16 only.

    python benchmarks/paint_slides.py OUT
"""

import argparse
import time
from pathlib import Path

from parfocal.slide.synthetic.painting import Painting, SlidePlan, paint_slide

SIDES = {"small": 11_776, "middle": 23_552, "large": 47_104, "sparse": 47_104}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="output folder")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, side in SIDES.items():
        downsamples = (1, 4, 16) if name == "sparse" else None
        painting = Painting(tissue_share=0.6, lesion_um=400.0, downsamples=downsamples)
        path = out / f"{name}.tif"
        if path.exists():
            continue
        start = time.perf_counter()
        paint_slide(path, SlidePlan((6,), (6,), size=side, mpp=0.5, painting=painting), threads=2)
        print(f"{path}: {side:,} px per side, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
