"""How fast the viewer and the report are: tiles of a large slide, a long list, a large report.

The server runs in a process of its own, the clients in this one. Panning is a walk of each client
over the sharpest level, a row of neighbouring tiles at a time, none seen before.

    python benchmarks/viewer.py [SLIDE] [--json FILE]

Without a slide, one of 100,000 pixels a side is painted once into /tmp/parfocal-viewer.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np

from parfocal.explain.report import write_report
from parfocal.slide.slide import Box, open_slide
from parfocal.slide.synthetic import Painting, SlidePlan, paint_slide
from parfocal.slide.write import write_pyramid

SIDE, TEXTURE = 100_000, 4096
CLIENTS, STEPS, ROW = 4, 40, 4
LISTED = 500
REGIONS = (200, 256)  # of a slide in the list: patches at two magnifications
WORK = Path("/tmp/parfocal-viewer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path, nargs="?", default=WORK / "large.tif")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if not asked.slide.exists():
        paint(asked.slide)
    found = tiles(asked.slide) | listing_and_report(asked.slide)
    for name, value in found.items():
        print(f"| {name} | {value:.4g} |")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


def paint(path: Path) -> None:
    """Write a slide, half glass, half one piece of synthetic tissue again and again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    plan = SlidePlan((6,), (6,), size=TEXTURE, mpp=0.25, painting=Painting(tissue_share=0.6))
    paint_slide(path.with_name("piece.tif"), plan)
    with open_slide(path.with_name("piece.tif")) as piece:
        texture = piece.read(Box(0, 0, TEXTURE, TEXTURE), piece.mpp)

    def tile(column: int, row: int) -> np.ndarray:
        x, y = column * 256 % TEXTURE, row * 256 % TEXTURE
        return texture[y : y + 256, x : x + 256]

    write_pyramid(path, tile, (SIDE, SIDE), mpp=0.25, threads=2)
    print(f"{path}: painted in {time.perf_counter() - start:.0f} s", flush=True)


def tiles(slide: Path) -> dict[str, float]:
    """Time the first tile, then many while four clients pan."""
    with viewer(slide) as port:
        (listed,) = get_json(port, "/api/slides")["slides"]
        facts = get_json(port, f"/api/slides/{listed['key']}")
        url, levels = f"/tiles/{listed['key']}", facts["tiles"]["levels"]
        first = timed(port, f"{url}/{levels - 9}/0/0")
        across = facts["size"][0] // facts["tiles"]["size"]
        with ThreadPoolExecutor(CLIENTS) as pool:
            waits = list(
                pool.map(
                    lambda seed: pan(port, f"{url}/{levels - 1}", across, seed), range(CLIENTS)
                )
            )
    seconds = np.concatenate(waits) * 1000
    return {
        "first tile, ms": first * 1000,
        f"tile while {CLIENTS} clients pan, median ms": float(np.median(seconds)),
        f"tile while {CLIENTS} clients pan, 95th percentile ms": float(np.quantile(seconds, 0.95)),
        f"tiles a second, {CLIENTS} clients": len(seconds) / (seconds.sum() / 1000 / CLIENTS),
    }


def pan(port: int, url: str, across: int, seed: int) -> list[float]:
    """Walk over a level; a browser asks for the next tiles on a connection it keeps."""
    rng = random.Random(seed)
    x, y = rng.randrange(across // 4, across // 2), rng.randrange(across // 4, across // 2)
    connection, waits = HTTPConnection("127.0.0.1", port), []
    for _ in range(STEPS):
        x += 1
        for row in range(y, y + ROW):
            start = time.perf_counter()
            connection.request("GET", f"{url}/{x}/{row}")
            answer = connection.getresponse()
            assert answer.status == 200, answer.status
            answer.read()
            waits.append(time.perf_counter() - start)
    return waits


def listing_and_report(slide: Path) -> dict[str, float]:
    """Time the list of many predictions, and weigh the report on them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        predictions(slide, folder)
        start = time.perf_counter()
        write_report([folder], folder / "report.html")
        writing = time.perf_counter() - start
        with viewer(folder) as port:
            page = timed(port, "/") + timed(port, "/static/list.js")
            listing = timed(port, "/api/slides")
        return {
            f"page and list of {LISTED} slides, ms": (page + listing) * 1000,
            f"report of {LISTED} slides, s": writing,
            f"report of {LISTED} slides, MB": (folder / "report.html").stat().st_size / 1e6,
        }


def predictions(slide: Path, folder: Path) -> None:
    """Write as many predictions of one file under different names."""
    with open_slide(slide) as opened:
        facts = {
            "path": str(slide),
            "fingerprint": opened.fingerprint,
            "size": opened.size,
            "mpp": opened.mpp,
            "mpp_source": opened.mpp_source,
        }
    regions = [
        {
            "id": f"{step}-{row}",
            "step": step,
            "x": 1024.0 * (row % 64),
            "y": 1024.0 * (row // 64),
            "width": 1024.0,
            "height": 1024.0,
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
    everything = {
        "magnification": 10.0,
        "patches": 9000,
        "descendants": 9000,
        "macs": 9,
        "pixels": 9,
    }
    whole = {
        "format_version": 1,
        "model": {
            "name": "zoommil",
            "weights_sha256": "0" * 64,
            "encoder": "none",
            "encoder_weights_sha256": "0" * 16,
            "magnifications": [2.5, 10.0],
            "patch_size": 256,
            "parfocal": "0",
        },
        "stop_reason": "every magnification looked at",
        "steps": [{"mpp": 4.0}, {"mpp": 1.0}],
        "regions": regions,
        "cost": {
            "patches": REGIONS,
            "pixels_decoded": 1,
            "bytes_read": None,
            "macs": 1,
            "seconds": {"total": 1.0},
            "exhaustive": everything,
        },
    }
    rows = ["slide_id,path,label"]
    for number in range(LISTED):
        chance = (number + 1) / (LISTED + 1)
        answer = {
            "label": "b" if chance > 0.5 else "a",
            "probabilities": {"a": 1 - chance, "b": chance},
        }
        named = {"slide": {"id": f"s{number:04}", **facts}, "prediction": answer}
        (folder / f"s{number:04}.json").write_text(json.dumps(whole | named))
        rows.append(f"s{number:04},{slide},{'ab'[number % 2]}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")


@contextmanager
def viewer(path: Path):
    command = [
        sys.executable,
        "-m",
        "parfocal.cli",
        "view",
        str(path),
        "--no-browser",
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        line = started.stdout.readline()
        port = int(line.split("127.0.0.1:")[1].split("/")[0])
        wait_for(port)
        yield port
        started.terminate()


def wait_for(port: int) -> None:
    get_json(port, "/api/slides")


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
