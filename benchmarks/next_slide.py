"""Measure extraction that opens the next slide while one is being finished, and one that does not.

The two alternate, and their files are compared. On a CPU, `extract` opens only remote slides ahead;
here, it also does so for local ones.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch

from parfocal.encoders.loading import load_encoder
from parfocal.features.extract import ExtractionWork, extract_cohort
from parfocal.features.header import SlideSettings
from parfocal.features.next_slide import NextSlide
from parfocal.slide.synthetic.cohort import paint_cohort


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slides", type=int, default=12)
    parser.add_argument("--size", type=int, default=3072)
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--magnifications", type=float, nargs="+", default=[2.5, 10.0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    settings = SlideSettings(magnifications=tuple(options.magnifications))
    seconds: dict[str, list[float]] = {"one by one": [], "next slide open": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paint_cohort(folder / "slides", slides=options.slides, seed=0, size=options.size, mpp=1.0)
        paths = sorted((folder / "slides").rglob("*.tif*"))
        slides = [(path.stem, path, None) for path in paths]
        encoder = load_encoder(options.encoder, device="cpu")
        for number in range(options.repeats + 1):
            contents = []
            for name, times in seconds.items():
                out = folder / f"{name} {number}"
                usual = NextSlide.start
                start = usual if name == "next slide open" else lambda *_: None
                with (
                    mock.patch.object(NextSlide, "start", start),
                    mock.patch.object(ExtractionWork, "_waits", return_value=True),
                ):
                    began = time.perf_counter()
                    extract_cohort(slides, out, encoder=encoder, settings=settings)
                    if number:  # the first round warms up
                        times.append(time.perf_counter() - began)
                contents.append([path.read_bytes() for path in sorted(out.glob("*.h5"))])
            assert contents[0] == contents[1]
            assert len(contents[0]) == len(slides)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{len(slides)} slides, {options.encoder}, {torch.get_num_threads()} threads of torch")
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} s |")
    print(f"| ratio | {medians['next slide open'] / medians['one by one']:.3f} |")


if __name__ == "__main__":
    main()
