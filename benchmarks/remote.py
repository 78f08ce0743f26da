"""Measure predictions of slides behind a web server with latency and a limited rate.

The server runs in a process of its own on loopback; each answer waits, and all share one line.
Rows: the slide on the local disk; remote in place; and downloaded first. Bytes and requests do
not change from run to run; seconds are the median of the repeats. `over local` is the time divided
by that on the local disk plus the time that the bytes take on the line.

With `--slow-disk`, each read of the local disk takes some milliseconds, in one place at a time, as
on a disk that seeks; reading ahead is compared with reading tile by tile. With `--encoder tiny`,
little but the reading is measured.

    python benchmarks/remote.py SLIDE... --latency-ms 30 --mbit 100
    python benchmarks/remote.py SLIDE... --slow-disk 10 --encoder tiny
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import torch

from parfocal.cost import Cost, CostMeter
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.loading import load_encoder
from parfocal.features.header import SlideSettings
from parfocal.features.live import live_bag
from parfocal.models import MODELS
from parfocal.slide import open_slide
from parfocal.slide.sources import local

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from range_server import Behavior, serve

MAGNIFICATIONS, K = (1.25, 2.5, 10.0), 12


def run_server(folder: Path, latency_s: float, bytes_per_s: float) -> None:
    """Serve until standard input is closed."""
    with serve(folder, Behavior(latency_s, bytes_per_s)) as served:
        print(served.address, flush=True)
        sys.stdin.read()


def predict(where: str | Path, encoder: Encoder) -> Cost:
    torch.manual_seed(0)
    model = MODELS["zoommil"].build(
        in_dim=encoder.spec.dim, num_classes=2, num_magnifications=len(MAGNIFICATIONS), k=K
    )
    meter = CostMeter()
    with open_slide(where, cost_meter=meter) as slide, torch.inference_mode():
        bag = live_bag(slide, SlideSettings(MAGNIFICATIONS).grid(slide), encoder)
        model.eval()(bag)
        assert slide.fingerprint
    return meter.total()


def download_then_predict(url: str, encoder: Encoder) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        urllib.request.urlretrieve(url, path)
        return predict(path, encoder)


def timed(call: Callable[[], Cost], repeats: int) -> tuple[float, Cost]:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        cost = call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), cost


def measure_far(path: Path, encoder: Encoder, arguments: argparse.Namespace) -> None:
    rate = arguments.mbit * 1e6 / 8
    command = [sys.executable, __file__, "--serve", str(path.parent)]
    command += [str(arguments.latency_ms), str(arguments.mbit)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = f"{server.stdout.readline().strip()}/{path.name}"
    try:
        predict(path, encoder)  # warms the file cache
        near, near_cost = timed(lambda: predict(path, encoder), arguments.repeats)
        far, far_cost = timed(lambda: predict(url, encoder), arguments.repeats)
        print(f"\n{path.name}, {path.stat().st_size / 1e6:.0f} MB, {sum(far_cost.patches)} patches")
        print(f"{'':22}{'MB':>8}{'of file':>9}{'requests':>10}{'s':>8}{'over local':>12}")
        show("local disk", near_cost, near, None)
        show("in place", far_cost, far, far / (near + far_cost.bytes_read / rate))
        if arguments.download:
            whole, _ = timed(lambda: download_then_predict(url, encoder), 1)
            size = path.stat().st_size / 1e6
            print(f"{'downloaded first':22}{size:>8.1f}{1:>9.2%}{1:>10}{whole:>8.2f}")
    finally:
        server.communicate("")


def show(name: str, cost: Cost, seconds: float, ratio: float | None) -> None:
    over = "" if ratio is None else f"{ratio:>12.2f}"
    print(
        f"{name:22}{cost.bytes_read / 1e6:>8.1f}{cost.share_bytes:>9.2%}{cost.requests:>10,}"
        f"{seconds:>8.2f}{over}"
    )


def measure_slow_disk(path: Path, encoder: Encoder, arguments: argparse.Namespace) -> None:
    pread, head = os.pread, threading.Lock()

    def slow(*request: int) -> bytes:
        with head:
            time.sleep(arguments.slow_disk / 1000)
        return pread(*request)

    rows = {}
    local.os.pread = slow
    for name, limit in (("tile by tile", float("inf")), ("read ahead", local.SLOW_READ_S)):
        local.SLOW_READ_S = limit
        rows[name] = timed(lambda: predict(path, encoder), arguments.repeats)
    local.os.pread = pread
    print(f"\n{path.name}, reads of {arguments.slow_disk:g} ms")
    for name, (seconds, cost) in rows.items():
        disk = cost.requests * arguments.slow_disk / 1000
        print(f"{name:22}{cost.requests:>8,} reads{disk:>8.2f} s of the disk{seconds:>8.2f} s")


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        folder, latency_ms, mbit = sys.argv[2:]
        return run_server(Path(folder), float(latency_ms) / 1000, float(mbit) * 1e6 / 8)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--latency-ms", type=float, default=30)
    parser.add_argument("--mbit", type=float, default=100)
    parser.add_argument("--slow-disk", type=float, metavar="MS")
    parser.add_argument("--download", action="store_true", help="also download, then predict")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.encoder)
    measure = measure_far if arguments.slow_disk is None else measure_slow_disk
    for path in arguments.slides:
        measure(path, encoder, arguments)
    return None


if __name__ == "__main__":
    main()
