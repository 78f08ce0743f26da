"""Small trees in the layout of each data set: the true names, and pictures of a few pixels."""

import csv
import hashlib
import http.server
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile

SIDE = 64

Rows = list[dict[str, str]]


def _picture() -> bytes:
    file = io.BytesIO()
    pixels = np.full((SIDE, SIDE, 3), 200, np.uint8)
    tifffile.imwrite(file, pixels, photometric="rgb", tile=(32, 32), metadata=None)
    return file.getvalue()


PICTURE = _picture()


@pytest.fixture
def put() -> Callable[..., Path]:
    """Write a whole picture, or what is given, making the folders above it."""

    def write(path: Path, content: bytes | str = PICTURE) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def table() -> Callable[[Path], Rows]:
    """Read the rows of a CSV."""

    def read(path: Path) -> Rows:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    return read


def asap(*annotations: tuple[str, Sequence[tuple[float, float]]]) -> str:
    """Write annotations, each a group and its corners, as ASAP does."""
    drawn = "".join(
        f'<Annotation Name="Annotation {n}" Type="Polygon" PartOfGroup="{group}" Color="#F4FA58">'
        "<Coordinates>"
        + "".join(
            f'<Coordinate Order="{order}" X="{x}" Y="{y}" />' for order, (x, y) in enumerate(ring)
        )
        + "</Coordinates></Annotation>"
        for n, (group, ring) in enumerate(annotations)
    )
    return (
        '<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>'
        f"{drawn}</Annotations><AnnotationGroups></AnnotationGroups></ASAP_Annotations>"
    )


def square(x: float, y: float, side: float) -> list[tuple[float, float]]:
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]


@pytest.fixture
def camelyon16(put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Write a CAMELYON16 of ten slides as in the bucket: two of the five test slides have tumor."""

    def write(folder: Path) -> Path:
        monkeypatch.setattr("parfocal.dataset.readers.camelyon16.PUBLISHED", 10)
        lines = ["image,type,class,center"]
        lines += [f"normal_00{n}.tif,normal,negative,{n % 2}" for n in range(1, 4)]
        lines += ["tumor_001.tif,tumor,macro,0", "tumor_002.tif,tumor,micro,1"]
        lines += [f"test_00{n}.tif,normal,negative,0" for n in range(1, 4)]
        lines += ["test_004.tif,tumor,macro,1", "test_005.tif,tumor,micro,0"]
        put(folder / "evaluation" / "reference.csv", "\n".join(lines) + "\n")
        for line in lines[1:]:
            put(folder / "images" / line.split(",")[0])
        put(folder / "masks" / "tumor_001_mask.tif")
        lesions = asap(("_0", square(8, 8, 40)), ("_2", square(16, 16, 8)))
        put(folder / "annotations" / "tumor_001.xml", lesions)
        put(folder / "annotations" / "test_004.xml", asap(("Tumor", square(4, 4, 10))))
        return folder

    return write


@pytest.fixture
def camelyon17(put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Write a CAMELYON17 of eight patients of two slides as in the bucket, and one of its test.

    Patients 0 to 3 are negative; the others have a macro and a second slide, micro or, from
    patient 5 on, ITC.
    """

    def write(folder: Path) -> Path:
        monkeypatch.setattr("parfocal.dataset.readers.camelyon17.PUBLISHED", 16)
        lines = ["patient,stage,center"]
        for patient in range(8):
            second = "itc" if patient >= 5 else "micro"
            stages = ("negative", "negative") if patient < 4 else ("macro", second)
            lines.append(f"patient_00{patient}.zip,pN0,{patient % 5}")
            for node, stage in enumerate(stages):
                name = f"patient_00{patient}_node_{node}.tif"
                lines.append(f"{name},{stage},{patient % 5}")
                put(folder / "images" / name)
        put(folder / "images" / "patient_100_node_0.tif")
        put(folder / "stages.csv", "\n".join(lines) + "\n")
        drawn = asap(("metastases", square(8, 8, 40)), ("normal", square(12, 12, 4)))
        put(folder / "annotations" / "patient_004_node_0.xml", drawn)
        return folder

    return write


class Bucket(http.server.ThreadingHTTPServer):
    """A folder served over HTTP, with faults."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[tuple[str, str, str | None]] = []
        self.break_after: list[int] = []  # bytes of the next answers
        self.ranges = True
        self.sized = True
        self.error: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def ranges_of(self, name: str) -> list[str | None]:
        return [asked for verb, path, asked in self.asked if verb == "GET" and name in path]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Bucket

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.command, self.path, wanted))
        path = self.server.folder / self.path.lstrip("/")
        if self.server.error is not None or not path.exists():
            self.send_error(self.server.error or 404)
            return
        content = path.read_bytes()
        start = 0
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if wanted and self.server.ranges else 200)
        if self.server.sized:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            broken = self.server.break_after and "images/" in self.path
            stop = start + self.server.break_after.pop(0) if broken else None
            self.wfile.write(content[start:stop])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def bucket(tmp_path, camelyon16) -> Iterator[Bucket]:
    folder = camelyon16(tmp_path / "store" / "CAMELYON16")
    sums = [
        f"{hashlib.md5(path.read_bytes()).hexdigest()} *{path.relative_to(folder).as_posix()}"
        for path in sorted(folder.rglob("*.*"))
    ]
    (folder / "checksums.md5").write_text("\n".join(sums) + "\n")
    server = Bucket(tmp_path / "store")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
