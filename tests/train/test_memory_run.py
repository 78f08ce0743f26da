"""Training within a memory limit: in parts, the same result; refused before it starts."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parfocal.dataset import Cohort, read_cohort
from parfocal.models import JointAttention
from parfocal.models.layers.passes import Passes
from parfocal.settings import RunSettings, load_settings
from parfocal.train import RunError, train
from parfocal.train import memory as planning

BATCH = 3
SETTINGS = (
    *("slide.tissue_method=all", "slide.patch_size=96", "slide.magnifications=[5, 10]"),
    *("model.backbone=small", "model.thumbnail_px=96", "model.k=2"),
    *("train.epochs=2", f"train.batch_size={BATCH}"),
)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    rows, rng = ["slide_id,path,label,mpp,split"], np.random.default_rng(0)
    for number, split in enumerate(("train",) * 4 + ("val",) * 2 + ("test",) * 2):
        pixels = rng.integers(100, 200, (192, 192, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number},{number}.png,{('well', 'ill')[number % 2]},1,{split}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    return read_cohort(tmp_path / "cohort.csv")


@pytest.fixture
def activations(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Count activations alone; return the GB of a batch at once and in parts of 1."""
    monkeypatch.setattr(planning, "memory_in_use", lambda _: 0)
    monkeypatch.setattr(planning, "available_memory", lambda _: None)
    monkeypatch.setattr(planning, "RUNTIME_BYTES", 0)
    monkeypatch.setattr(planning, "WEIGHT_COPIES", 0)
    model = JointAttention(2, patch_size=96, backbone="small", thumbnail_px=96, k=2)
    step = model.step_memory()
    ways = {"at once": Passes(), "in parts": Passes(1, gradient_checkpointing=True)}
    return {name: step.total(BATCH, way) * planning.OVERHEAD / 1e9 for name, way in ways.items()}


def limited(gigabytes: float) -> RunSettings:
    settings = load_settings("jsma", overrides=SETTINGS)
    return replace(settings, train=replace(settings.train, max_memory_gb=gigabytes))


def run(cohort: Cohort, gigabytes: float, name: str, **options: bool) -> float:
    out = cohort.source.parent / name
    summary = train(cohort, limited(gigabytes), out, device="cpu", progress=False, **options)
    return summary.val_loss


def test_a_training_in_parts_equals_one_at_once(cohort, activations, caplog):
    caplog.set_level(logging.INFO)
    at_once = run(cohort, 1.01 * activations["at once"], "whole")
    in_parts = run(cohort, 0.99 * activations["at once"], "parts")
    assert in_parts == pytest.approx(at_once, rel=1e-4)
    plans = [line for line in caplog.messages if line.startswith(f"batch of {BATCH} ")]
    assert [line.partition(": ")[0] for line in plans] == [
        f"batch of {BATCH} at once, gradient checkpointing off",
        f"batch of {BATCH} in parts of 1, gradient checkpointing on",
    ]


def test_a_training_that_does_not_fit_is_refused_and_leaves_no_folder(cohort, activations):
    with pytest.raises(RunError, match=r"a batch of 3 slides needs about .* set train\.batch_size"):
        run(cohort, 0.99 * activations["in parts"], "refused")
    assert not (cohort.source.parent / "refused").exists()


def test_a_resumed_training_is_run_as_before_if_that_fits(
    cohort, activations, monkeypatch, request
):
    expected = run(cohort, 0.99 * activations["at once"], "whole")
    _stop_in_second_epoch(request)
    with pytest.raises(RuntimeError, match="killed"):
        run(cohort, 0.99 * activations["at once"], "run")
    ways = []
    monkeypatch.setattr(JointAttention, "set_passes", _recorded(JointAttention.set_passes, ways))
    assert run(cohort, 2 * activations["at once"], "run", resume=True) == expected
    assert ways[-1] == Passes(1, gradient_checkpointing=True)


def _recorded(set_passes, ways: list[Passes]):
    def record(model: JointAttention, passes: Passes) -> None:
        ways.append(passes)
        set_passes(model, passes)

    return record


def _stop_in_second_epoch(request: pytest.FixtureRequest) -> None:
    """Raise an error in the third training step; an epoch has two."""
    objective, steps = JointAttention.objective, []

    def failing(model, prediction, target, loss):
        steps.append(target)
        if len(steps) == 3:
            JointAttention.objective = objective
            raise RuntimeError("killed")
        return objective(model, prediction, target, loss)

    JointAttention.objective = failing
    request.addfinalizer(lambda: setattr(JointAttention, "objective", objective))
