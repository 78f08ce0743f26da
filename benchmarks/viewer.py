"""Measure the viewer and the report: tiles of a large slide, a long list, a large report.

The server runs in its own process, the clients in this one. Each client pans over tissue at the
highest resolution, column by column, through tiles that were not requested before. The list is
timed in Chromium, from opening the address until the last row is drawn.

    python benchmarks/viewer.py [SLIDE] [--json FILE]

Without SLIDE, a slide of 100,000 pixels per side is painted once into /tmp/parfocal-viewer.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from parfocal.explain.report import write_report
from parfocal.slide.slide import Slide, open_slide
from parfocal.slide.synthetic.painting import Painting, SlidePlan, paint_slide
from parfocal.slide.tissue import find_tissue

PAINTING = Painting(tissue_share=0.12, lesion_um=400.0)
CLIENTS, STEPS, ROW = 4, 40, 4
LISTED = 500
REGIONS = (200, 256)  # patches per prediction, at two magnifications
PATCH_PX = 1024  # side of a patch
WORK = Path("/tmp/parfocal-viewer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path, nargs="?", default=WORK / "large.tif")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.slide.exists():
        paint(arguments.slide)
    results: dict[str, float] = {}
    for part in (tiles, listing_and_report):
        measured = part(arguments.slide)
        for name, value in measured.items():
            print(f"| {name} | {value:.4g} |", flush=True)
        results |= measured
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def paint(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    paint_slide(path, SlidePlan((6,), (6,), size=100_000, mpp=0.25, painting=PAINTING), threads=2)
    print(f"{path}: painted in {time.perf_counter() - start:.0f} s", flush=True)


def tiles(path: Path) -> dict[str, float]:
    """Time the first tile, then many tiles while four clients pan."""
    with open_slide(path) as slide:
        starts = places(slide, 256 * STEPS, 256 * ROW)
    with viewer(path) as port:
        (listed,) = get_json(port, "/api/slides")["slides"]
        facts = get_json(port, f"/api/slides/{listed['key']}")
        url, levels = f"/tiles/{listed['key']}", facts["tiles"]["levels"]
        first = timed(port, f"{url}/{levels - 9}/0/0")
        chosen = random.Random(0).sample(starts[: 8 * CLIENTS], CLIENTS)
        with ThreadPoolExecutor(CLIENTS) as pool:
            waits = list(pool.map(lambda start: pan(port, f"{url}/{levels - 1}", start), chosen))
    seconds = np.concatenate(waits) * 1000
    return {
        "first tile, ms": first * 1000,
        f"tile while {CLIENTS} clients pan, median ms": float(np.median(seconds)),
        f"tile while {CLIENTS} clients pan, 95th percentile ms": float(np.quantile(seconds, 0.95)),
        f"tiles a second, {CLIENTS} clients": len(seconds) / (seconds.sum() / 1000 / CLIENTS),
    }


def places(slide: Slide, width: int, height: int) -> list[tuple[int, int]]:
    """Return the corners of boxes that share no tile, those with the most tissue first."""
    columns, rows = slide.size[0] // width, slide.size[1] // height
    corners = [(column * width, row * height) for row in range(rows) for column in range(columns)]
    boxes = np.array([(x, y, width, height) for x, y in corners])
    order = np.argsort(-find_tissue(slide).fractions(boxes), kind="stable")
    return [corners[place] for place in order.tolist()]


def pan(port: int, url: str, start: tuple[int, int]) -> list[float]:
    """Request the tiles along a path, on one connection, as a browser does."""
    connection, waits = HTTPConnection("127.0.0.1", port), []
    left, top = start[0] // 256, start[1] // 256
    for column in range(left, left + STEPS):
        for row in range(top, top + ROW):
            start_time = time.perf_counter()
            connection.request("GET", f"{url}/{column}/{row}")
            answer = connection.getresponse()
            assert answer.status == 200, answer.status
            answer.read()
            waits.append(time.perf_counter() - start_time)
    return waits


def listing_and_report(slide: Path) -> dict[str, float]:
    """Time the list of many predictions, and time and weigh their report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        predictions(slide, folder)
        start = time.perf_counter()
        write_report([folder], folder / "report.html")
        writing = time.perf_counter() - start
        with viewer(folder) as port:
            listing = timed(port, "/api/slides")
            drawing = drawn(port)
        return {
            f"list of {LISTED} slides, response of the server, ms": listing * 1000,
            f"page with {LISTED} slides, drawn, ms": drawing * 1000,
            f"report of {LISTED} slides, s": writing,
            f"report of {LISTED} slides, MB": (folder / "report.html").stat().st_size / 1e6,
        }


def drawn(port: int) -> float:
    """Time a running browser until the last row of the list is drawn."""
    with sync_playwright() as started:
        options = ["--no-sandbox", "--disable-gpu"]  # it may run as root in a container
        path = shutil.which("chromium")
        browser = started.chromium.launch(executable_path=path, args=options)
        page = browser.new_page()
        page.goto("about:blank")
        start = time.perf_counter()
        page.goto(f"http://127.0.0.1:{port}/", wait_until="commit")
        page.wait_for_selector(f"#rows tr:nth-child({LISTED})")
        seconds = time.perf_counter() - start
        browser.close()
    return seconds


def predictions(slide: Path, folder: Path) -> None:
    """Write many predictions for one slide file under different names."""
    with open_slide(slide) as opened:
        facts = {
            "path": str(slide),
            "fingerprint": opened.fingerprint,
            "size": opened.size,
            "mpp": opened.mpp,
            "mpp_source": opened.mpp_source,
        }
        corners = places(opened, PATCH_PX, PATCH_PX)
    regions = [
        {
            "id": f"{step}-{row}",
            "step": step,
            "x": float(corners[row][0]),
            "y": float(corners[row][1]),
            "width": float(PATCH_PX),
            "height": float(PATCH_PX),
            "mpp": (4.0, 1.0)[step],
            "score": 1 / count,
            "score_kind": "attention",
            "parent": "0-0" if step else None,
            "selected": step == 0 and row == 0,
            "order": row + step * REGIONS[0],
        }
        for step, count in enumerate(REGIONS)
        for row in range(count)
    ]
    exhaustive = {"magnification": 10.0, "macs": 9, "pixels": 9}
    exhaustive |= {"patches": 9000, "descendants": 9000}
    whole = {
        "format_version": 2,
        "model": {
            "name": "zoommil",
            "weights_sha256": "0" * 64,
            "encoder": "none",
            "encoder_weights_sha256": "0" * 16,
            "magnifications": [2.5, 10.0],
            "patch_size": 256,
            "parfocal_version": "0",
        },
        "stop_reason": "every magnification was visited",
        "steps": [{"mpp": 4.0}, {"mpp": 1.0}],
        "regions": regions,
        "cost": {
            "patches": REGIONS,
            "pixels_decoded": 1,
            "bytes_read": None,
            "macs": 1,
            "seconds": {"total": 1.0},
            "exhaustive": exhaustive,
        },
    }
    rows = ["slide_id,path,label"]
    for number in range(LISTED):
        probability = (number + 1) / (LISTED + 1)
        answer = {
            "label": "b" if probability > 0.5 else "a",
            "probabilities": {"a": 1 - probability, "b": probability},
        }
        named = {"slide": {"id": f"s{number:04}", **facts}, "prediction": answer}
        (folder / f"s{number:04}.json").write_text(json.dumps(whole | named))
        rows.append(f"s{number:04},{slide},{'ab'[number % 2]}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")


@contextmanager
def viewer(path: Path) -> Iterator[int]:
    options = ("--no-browser", "--port", "0")
    command = [sys.executable, "-m", "parfocal.cli", "view", str(path), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        line = started.stdout.readline()
        port = int(line.split("127.0.0.1:")[1].split("/")[0])
        get_json(port, "/api/slides")  # until this returns, the server is not ready
        yield port
        started.terminate()


def timed(port: int, url: str) -> float:
    connection = HTTPConnection("127.0.0.1", port)
    start = time.perf_counter()
    connection.request("GET", url)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, (url, answer.status)
    return time.perf_counter() - start


def get_json(port: int, url: str) -> dict:
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", url)
    return json.loads(connection.getresponse().read())


if __name__ == "__main__":
    main()
