"""The script that a machine with a GPU runs, on a CPU and with tiny sizes."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


def run(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    return ended.value.code


def test_a_dry_run_fills_every_table_without_a_difference(gpu, monkeypatch, tmp_path):
    out = tmp_path / "gpu.json"
    assert run(gpu, monkeypatch, "--dry-run", "--json", str(out)) == 0
    tables = json.loads(out.read_text())["tables"]
    assert list(tables) == list(gpu.SECTIONS)
    assert {row["verdict"] for row in tables["Models of features: GPU against CPU"]} == {"equal"}
    steps = tables["Models of pixels: GPU against CPU, and a training step"]
    assert all(row["logits"] == 0 and row["s per step"] > 0 for row in steps)
    assert all(row["patches/s"] > 0 for row in tables["Encoder queue"])


def test_without_a_gpu_nothing_is_measured(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(gpu, monkeypatch) == 2
    assert "No GPU is available, so nothing was measured" in capsys.readouterr().out


def test_a_difference_or_a_failure_is_counted(gpu):
    measured = gpu.Run(torch.device("cpu"), gpu.TINY, dry=True, until=0.0)
    assert gpu.compared("a", measured, lambda: (0.0, 1e-3))["verdict"] == "equal"
    assert "differs by more than" in gpu.compared("b", measured, lambda: (0.0, 0.1))["verdict"]

    def fails() -> tuple[float, float]:
        raise RuntimeError("out of\nmemory")

    assert gpu.compared("c", measured, fails)["verdict"] == "RuntimeError: out of memory"
    assert measured.failures == 2


def test_after_the_time_limit_no_table_starts(gpu, monkeypatch, tmp_path):
    out = tmp_path / "gpu.json"
    assert run(gpu, monkeypatch, "--dry-run", "--seconds", "-1", "--json", str(out)) == 0
    assert json.loads(out.read_text())["tables"] == {}
