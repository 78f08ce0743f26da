"""Rules on imports and calls that the import contract in pyproject.toml cannot express."""

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import parfocal
from parfocal.models.checkpoint import Checkpoint

SOURCE = Path(parfocal.__file__).parent
# Each takes a tenth of a second to several to load, and none is needed to predict a slide.
HEAVY = {
    *("h5py", "pandas", "pytorch_lightning", "scipy", "sklearn", "sympy", "tensorboard"),
    *("matplotlib", "torch._dynamo", "torch._inductor", "torchmetrics", "yaml"),
}


def modules_after(program: str) -> set[str]:
    """List the modules a fresh process has loaded after a program."""
    ending = "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program + ending], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def importers(package: str) -> set[str]:
    """List the source files that import a package, wherever in the file."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] == package for name in names):
                found.add(path.relative_to(SOURCE).as_posix())
    return found


def test_predicting_a_slide_imports_nothing_it_does_not_need(
    tmp_path: Path, untrained: Checkpoint, write_slide: Callable[..., Path]
):
    untrained.save(tmp_path / "run")
    slide = write_slide(tmp_path / "one.tif")
    loaded = modules_after(
        "import sys\n"
        "from parfocal.cli import main\n"
        f"sys.argv[1:] = ['predict', {str(tmp_path / 'run')!r}, {str(slide)!r},"
        f" '--out', {str(tmp_path / 'out')!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code"
    )
    assert "parfocal.predict.slide" in loaded
    assert not HEAVY & loaded


def test_printing_help_imports_nothing_slow():
    slow = {"torch", "numpy", "pydantic", "importlib.metadata", "hashlib", "socket"}
    assert not slow & modules_after("import parfocal.cli")


def test_importing_parfocal_imports_nothing_else():
    assert not {"torch", "numpy", "typer"} & modules_after("import parfocal")


def test_nothing_needs_scikit_learn():
    assert importers("sklearn") == set()


def test_every_public_name_can_be_imported():
    for name in parfocal.__all__:
        assert getattr(getattr(parfocal, name), "__name__", "MODELS") == name


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"'Slid'; it has .*Slide"):
        _ = parfocal.Slid


def test_only_training_imports_lightning():
    assert {name.split("/")[0].removesuffix(".py") for name in importers("pytorch_lightning")} == {
        "train"
    }


def test_only_charts_import_matplotlib():
    assert importers("matplotlib") == {
        "compare/curve_picture.py",
        "compare/picture.py",
        "explain/report/charts.py",
    }


def test_only_the_command_line_imports_typer():
    assert {name.split("/")[0] for name in importers("typer")} == {"cli"}


def test_only_the_command_line_prints():
    calls = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in ("print", "exit", "quit")
    }
    assert calls == set()
