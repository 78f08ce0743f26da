"""Painted slides with a dark lesion, predictions for them, and a server."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from parfocal.explain.library import Library
from parfocal.explain.viewer import build_app, listen
from parfocal.explain.viewer.connections import TimedConnection

SIDE = 1500  # not a multiple of the tile size, so that edge tiles are smaller
LESION = (600, 300, 200)  # x, y and side
DARK, PINK = (60, 20, 90), (220, 160, 200)
LABELS = ("normal", "tumor")


def painted() -> np.ndarray:
    pixels = np.full((SIDE, SIDE, 3), PINK, dtype=np.uint8)
    x, y, side = LESION
    pixels[y : y + side, x : x + side] = DARK
    return pixels


def region(
    name: str, step: int, square: tuple[int, int, int], score: float, **more: object
) -> dict:
    x, y, side = square
    return {
        **{"id": name, "step": step, "x": x, "y": y, "width": side, "height": side},
        **{"mpp": (4.0, 1.0)[step], "score": score, "score_kind": "attention"},
        **{"parent": None, "selected": False, "order": 0, "zoom_attention": None, **more},
    }


def prediction(slide: Path, fingerprint: str, **changes: object) -> dict:
    """Return a prediction with four patches at 2.5x, of which one is zoomed into.

    The child with the highest score is the lesion.
    """
    regions = [
        region(
            f"0-{place}",
            0,
            (750 * (place % 2), 750 * (place // 2), 750),
            score,
            zoom_attention=score,
        )
        for place, score in enumerate((0.7, 0.1, 0.1, 0.1))
    ]
    regions[0]["selected"] = True
    top = region("1-0", 1, LESION, 0.9, parent="0-0")
    regions += [top, region("1-1", 1, (0, 0, LESION[2]), 0.1, parent="0-0")]
    for order, each in enumerate(regions):
        each["order"] = order
    exhaustive = {"magnification": 10.0, "patches": 60, "descendants": 64, "macs": 9, "pixels": 9}
    seconds = dict.fromkeys(("open", "tissue", "read", "encode", "model", "total"), 0.5)
    return {
        "format_version": 2,
        "slide": {
            **{"id": slide.stem, "path": str(slide), "fingerprint": fingerprint},
            **{"size": [SIDE, SIDE], "mpp": 1.0, "mpp_source": "file: painted"},
        },
        "model": {
            **{"name": "zoommil", "weights_sha256": "ab" * 32, "encoder": "tiny"},
            **{"encoder_weights_sha256": "cd" * 8, "magnifications": [2.5, 10.0]},
            **{"patch_size": 64, "parfocal_version": "0.1.0"},
        },
        "prediction": {"label": "tumor", "probabilities": {"normal": 0.2, "tumor": 0.8}},
        "stop_reason": "every magnification was visited",
        "steps": [{"mpp": 4.0, "patches": 4}, {"mpp": 1.0, "patches": 2}],
        "regions": regions,
        "cost": {
            **{"patches": [4, 2], "pixels_decoded": 5, "bytes_read": None, "macs": 3},
            **{"seconds": seconds, "exhaustive": exhaustive},
        },
        **changes,
    }


def with_folds(content: dict, **changes: object) -> dict:
    """Return a prediction as the mean of two folds, the second of which stopped early.

    `changes` are made to the first fold.
    """
    chances = {"fold-0": (0.6, 0.7, 0.9), "fold-1": (0.2, 0.7)}
    members = [
        {
            **{"name": name, "weights_sha256": "ab" * 32, "outputs": {}, "patches": [4, steps[-1]]},
            **{"probabilities": {"normal": 1 - each[-1], "tumor": each[-1]}},
            **{"added": content["cost"], "stop_reason": reason},
            "rounds": [
                {"patches": 4 + step, "probabilities": {"normal": 1 - chance, "tumor": chance}}
                for step, chance in zip(steps, each, strict=True)
            ],
        }
        for (name, each), steps, reason in zip(
            chances.items(),
            ((0, 1, 2), (0, 1)),
            ("every patch was visited", "settled"),
            strict=True,
        )
    ]
    members[0] |= changes
    return content | {"members": members, "spread": {"normal": 0.1, "tumor": 0.1}}


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


class Server:
    """A server that runs in a thread of this process."""

    def __init__(self, port: int, prefix: str = "") -> None:
        self.port, self.prefix = port, prefix
        self.url = f"http://127.0.0.1:{port}{prefix}"

    def request(
        self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[HTTPResponse, bytes]:
        """Send a request with the path unchanged; HTTP clients would normalize it."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, self.prefix + path, headers=headers or {})
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> dict:
        return json.loads(self.request(path)[1])


@contextmanager
def running(library: Library, *, prefix: str = "", hosts: Sequence[str] = ()) -> Iterator[Server]:
    """Serve a library; with a prefix, as behind a proxy that removes it."""
    listening = listen("127.0.0.1", 0)
    app = build_app(library, allowed_hosts=hosts)
    config = uvicorn.Config(
        Starlette(routes=[Mount(prefix, app)]) if prefix else app,
        http=TimedConnection,
        log_level="warning",
        server_header=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Server(listening.getsockname()[1], prefix)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
