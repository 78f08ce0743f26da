"""The notebooks run, their displays work, and their stored outputs are small."""

import json
import runpy
from pathlib import Path

import pytest

from parfocal import MODELS, demo

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_BYTES = 400_000  # of a notebook with its outputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demonstration that the notebooks start from, on few slides."""
    place = tmp_path_factory.mktemp("notebooks")
    list(demo.run_demo(place / "demo-out", quick=True))
    return place


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(MODELS, "topmean", raising=False)  # removed again after the test
    run_notebook = runpy.run_path(str(ROOT / "docs" / "make_notebooks.py"))["run_notebook"]
    stored = json.loads(path.read_text(encoding="utf-8"))
    done = run_notebook(stored, folder)

    def kinds(notebook: dict) -> list[list[set[str]]]:
        """Return the media types of the outputs of each cell."""
        code = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        return [
            [
                {kind.replace("jpeg", "png") for kind in output.get("data", ["text"])}
                for output in outputs
            ]
            for outputs in (cell["outputs"] for cell in code)
        ]

    # Without training, the first cells print nothing; everything else is as it is stored.
    assert kinds(done)[1:] == kinds(stored)[1:]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_small(path: Path):
    assert path.stat().st_size < MAX_BYTES
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] or not cell["source"][-1].startswith("print(")
            assert all(output["output_type"] != "error" for output in cell["outputs"])


def test_the_notebooks_name_no_folder_of_the_machine_that_ran_them():
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert "/tmp/" not in text
        assert str(ROOT) not in text
