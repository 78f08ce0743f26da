"""A trained run with telling names, and a Hub that is a folder."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from parfocal.models.checkpoint import Checkpoint
from small import write_table

SLIDES = {
    "train": ("S-KRAMER-01", "S-KRAMER-02", "S-BRAUN-01"),
    "val": ("S-VOGEL-01",),
    "test": ("S-LENZ-01", "S-LENZ-02"),
}
PATIENTS = {"train": ("P-KRAMER", "P-BRAUN"), "val": ("P-VOGEL",), "test": ("P-LENZ",)}
FINGERPRINT = "0123456789abcdef0123456789abcdef"
SECRETS = ("KRAMER", "BRAUN", "VOGEL", "LENZ", "home", "clinic", FINGERPRINT, "gpu7")


@pytest.fixture
def run(tmp_path: Path, untrained: Checkpoint) -> Path:
    """A run folder whose files are full of ids and paths."""
    folder = tmp_path / "P-KRAMER" / "run"
    training = replace(
        untrained.training,
        seed=3,
        epoch=7,
        slides={part: list(SLIDES[part]) for part in ("train", "val")},
        patients={part: list(PATIENTS[part]) for part in ("train", "val")},
        fingerprints={"S-KRAMER-01": FINGERPRINT},
    )
    encoders = tuple(replace(each, address="http://gpu7.clinic/") for each in untrained.encoders)
    replace(untrained, training=training, encoders=encoders).save(folder)
    rows = [
        (slide, f"P-{slide.split('-')[1]}", ("normal", "tumor")[number % 2], part)
        for part, slides in SLIDES.items()
        for number, slide in enumerate(slides)
    ]
    write_table(folder / "split.csv", ("slide_id", "patient_id", "label", "split"), *rows)
    (folder / "settings.yaml").write_text(
        "slide: {magnifications: [2.5, 10], patch_size: 64}\n"
        "encoder: {name: tiny, weights: /home/clinic/tiny.pth}\n"
        "model: {name: zoommil, k: 2}\n"
        "train: {init_from: /home/clinic/KRAMER, labels: [normal, tumor],"
        " exclude_strata: [clinic]}\n"
    )
    failed = {"S-VOGEL-09": "/home/clinic/S-VOGEL-09.svs: the file is empty"}
    (folder / "summary.json").write_text(json.dumps({"failed": failed}))
    return folder


@pytest.fixture
def evaluation(tmp_path: Path, run: Path) -> Path:
    """An evaluation of the run, with a failed slide."""
    folder = tmp_path / "evaluation"
    folder.mkdir()
    score = {"value": 0.875, "low": 0.75, "high": 0.9375, "resamples": 2000}
    metrics = {
        "format_version": 2,
        "model": {"name": "zoommil", "weights_sha256": Checkpoint.load(run).weights_hash},
        "split": "test",
        "features": "live",
        "external": False,
        "seen_in_training": 0,
        "slides": {
            "n": 2,
            "scores": {"auroc_macro": score, "accuracy": score},
            "classes": {
                "normal": {"n": 1, "recall": score},
                "tumor": {"n": 1, "recall": {**score, "value": None, "reason": "undefined"}},
            },
        },
        "cost": {
            "patches": [{"magnification": 2.5, "mean": 8.0}, {"magnification": 10, "mean": 32.0}],
            "share_patches": {"mean": 0.25},
            "macs": {"mean": 21.5e9},
            "seconds": {"mean": 0.5},
        },
        "failed": [{"slide_id": "S-LENZ-03", "reason": "/home/clinic/S-LENZ-03.svs: damaged"}],
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@dataclass
class FakeHub:
    """A Hub that keeps repositories as folders.

    `fail` is raised by every call.
    """

    folder: Path
    fail: Exception | None = None
    calls: int = 0

    def files(self, repository: str) -> dict[str, bytes]:
        """Return the files of a repository."""
        return {path.name: path.read_bytes() for path in (self.folder / repository).iterdir()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A stand-in for huggingface_hub with the functions that parfocal calls."""
    fake = FakeHub(tmp_path / "hub")
    module = ModuleType("huggingface_hub")

    def called() -> None:
        fake.calls += 1
        if fake.fail is not None:
            raise fake.fail

    def snapshot_download(*, repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        called()
        cache = tmp_path / "cache" / repo_id / (revision or "main")
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        for name in allow_patterns:
            if (fake.folder / repo_id / name).exists():
                shutil.copy(fake.folder / repo_id / name, cache)
        return str(cache)

    class HfApi:
        def repo_exists(self, repo_id: str) -> bool:
            called()
            return (fake.folder / repo_id).is_dir()

        def model_info(self, repo_id: str) -> SimpleNamespace:
            return SimpleNamespace(private=(fake.folder / repo_id / "private").exists())

        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            called()
            (fake.folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)
            if private:
                (fake.folder / repo_id / "private").touch()

        def create_commit(
            self, repo_id: str, *, operations: list[SimpleNamespace], commit_message: str
        ) -> SimpleNamespace:
            called()
            for each in operations:
                (fake.folder / repo_id / each.path_in_repo).write_bytes(each.path_or_fileobj)
            return SimpleNamespace(commit_url=f"https://hub.test/{repo_id}/commit/1")

    constants = ModuleType("huggingface_hub.constants")
    constants.ENDPOINT, constants.HF_HUB_OFFLINE = "https://hub.test", False
    module.snapshot_download, module.HfApi = snapshot_download, HfApi
    module.CommitOperationAdd, module.constants = SimpleNamespace, constants
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    return fake


@pytest.fixture
def slide(tmp_path: Path, write_slide: Callable[..., Path]) -> Path:
    return write_slide(tmp_path / "one.tif")
