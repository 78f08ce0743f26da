"""A folder of predictions, and a server for it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from explain.demo_folder import Server, painted, prediction, running, write_json
from parfocal.explain.library import Library, load_library
from parfocal.slide.slide import open_slide


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Path:
    """A folder like that of `parfocal demo`: slides, a cohort table, predictions, other JSON."""
    root = tmp_path_factory.mktemp("shown")
    outline = [[600, 300], [800, 300], [800, 500], [600, 500], [600, 300]]
    write_json(
        root / "cohort" / "lesion.geojson",
        {"type": "Polygon", "coordinates": [outline]},
    )
    rows = ["slide_id,path,label,outlines"]
    for name, label, tumor in (("a", "tumor", 0.8), ("b", "normal", 0.9), ("c", "normal", 0.1)):
        slide = write_slide(root / "cohort" / f"{name}.tif", painted())
        with open_slide(slide) as opened:
            fingerprint = opened.fingerprint
        probabilities = {"normal": 1 - tumor, "tumor": tumor}
        predicted = "tumor" if tumor > 0.5 else "normal"
        answer = {"label": predicted, "probabilities": probabilities}
        content = prediction(slide, fingerprint, prediction=answer)
        write_json(root / "predictions" / f"{name}.json", content)
        rows.append(f"{name},{name}.tif,{label},{'lesion.geojson' if label == 'tumor' else ''}")
    (root / "cohort" / "cohort.csv").write_text("\n".join(rows) + "\n")
    other = json.loads((root / "predictions" / "a.json").read_text())
    other["model"]["name"] = "mean"
    write_json(root / "mean" / "a.json", other)
    write_json(root / "other" / "notes.json", {"format_version": 1})
    return root


@pytest.fixture(scope="session")
def library(folder: Path) -> Library:
    return load_library([folder])


@pytest.fixture(scope="session")
def server(library: Library) -> Iterator[Server]:
    with running(library) as started:
        yield started
