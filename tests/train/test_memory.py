"""How the batches of a training are run follows from the memory that they may use."""

import pytest
import torch
from torch import nn

from parfocal.models.layers.passes import NetworkMemory, Passes, StepMemory
from parfocal.settings import TrainSettings
from parfocal.train import RunError
from parfocal.train import memory as planning
from parfocal.train.memory import GB, RUNTIME_BYTES, MemoryPlan, plan_memory

CPU, GPU = torch.device("cpu"), torch.device("cuda")
# A slide keeps 1 GB of activations, 0.1 GB of images, and 0.2 GB of gradients.
STEP = StepMemory((NetworkMemory(GB, GB // 5),), per_slide=GB // 10)


class Model(nn.Module):
    """A model without weights that needs the memory of `STEP`."""

    gradient_checkpointing = False
    passes = None

    def set_passes(self, passes: Passes) -> None:
        self.passes = passes

    def step_memory(self) -> StepMemory:
        return STEP


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Let the process use 0.6 GB of 100 GB."""
    memory = {"used": GB - RUNTIME_BYTES, "available": 100 * GB}
    monkeypatch.setattr(planning, "memory_in_use", lambda _: memory["used"])
    monkeypatch.setattr(planning, "available_memory", lambda _: memory["available"])
    monkeypatch.setattr(planning, "OVERHEAD", 1.0)
    return memory


def plan(
    batch_size: int, device: torch.device = CPU, *, model: Model | None = None, **settings: object
) -> MemoryPlan:
    model = model or Model()
    found = plan_memory(model, TrainSettings(**settings), batch_size=batch_size, device=device)
    assert model.passes == found.passes
    return found


def test_a_batch_that_fits_is_run_at_once_without_checkpointing():
    found = plan(8)
    assert found.passes == Passes()
    assert found.needed == GB + 8 * (GB + GB // 5 + GB // 10)


def test_a_larger_batch_is_run_slide_by_slide_on_a_cpu():
    found = plan(16)
    assert found.passes == Passes(1, gradient_checkpointing=True)
    assert found.needed == GB + GB + GB // 5 + 16 * (GB // 10)


@pytest.mark.parametrize(("available", "slides"), [(21, 8), (12, 4), (6, 2), (4, 1)])
def test_on_a_gpu_the_parts_are_as_large_as_fit(machine, available, slides):
    machine["available"], machine["used"] = available * GB, GB
    found = plan(16, GPU)
    assert found.passes == Passes(slides, gradient_checkpointing=True)
    assert found.needed <= available * GB


def test_the_line_says_what_was_chosen(caplog):
    caplog.set_level("INFO")
    plan(8)
    plan(16)
    machine_line, parts_line = caplog.messages
    assert machine_line == (
        "batch of 8 at once, gradient checkpointing off: about 11.4 GB of 12.0 GB (the default of "
        "train.max_memory_gb)"
    )
    assert parts_line == (
        "batch of 16 in parts of 1, gradient checkpointing on: about 3.8 GB of 12.0 GB (the "
        "default of train.max_memory_gb)"
    )


def test_more_memory_can_be_allowed():
    assert plan(16, max_memory_gb=22).passes == Passes()


def test_less_memory_can_be_allowed():
    assert plan(8, max_memory_gb=11).passes == Passes(1, gradient_checkpointing=True)


def test_no_more_is_used_than_is_free(machine):
    machine["available"] = 5 * GB
    assert plan(8, max_memory_gb=20).passes == Passes(1, gradient_checkpointing=True)
    assert "of 5.0 GB (free memory)" in plan(8).summary


def test_where_free_memory_is_unknown_the_default_applies(machine):
    machine["available"] = None
    assert plan(16).passes == Passes(1, gradient_checkpointing=True)


def test_the_setting_of_the_model_recomputes_activations_in_any_case():
    model = Model()
    model.gradient_checkpointing = True
    assert plan(2, model=model).passes.gradient_checkpointing


def test_gradients_and_states_of_the_optimizer_count():
    model = Model()
    model.layer = nn.Linear(1000, 1000, bias=False)
    model.fixed = nn.Linear(1000, 1000, bias=False).requires_grad_(False)
    assert plan(8, model=model).needed - plan(8).needed == 3 * 4_000_000
    assert plan(8, model=model, lookahead=True).needed - plan(8).needed == 4 * 4_000_000
    weights = 2 * 4_000_000  # which are not on the GPU yet
    assert plan(8, GPU, model=model).needed - plan(8, GPU).needed == 3 * 4_000_000 + weights


def test_a_batch_that_does_not_fit_is_refused_with_a_smaller_one():
    message = (
        r"a batch of 200 slides needs about 22\.2 GB, even in parts of 1 with gradient "
        r"checkpointing, and the limit is 12\.0 GB \(the default of train\.max_memory_gb\): set "
        r"train\.batch_size=98 and train\.accumulate_grad_batches=6, or set "
        r"train\.max_memory_gb=23\."
    )
    with pytest.raises(RunError, match=message):
        plan(200, accumulate_grad_batches=2)


def test_a_model_that_does_not_fit_at_all_is_refused():
    message = (
        r"the limit is 2\.0 GB \(train\.max_memory_gb\): choose a smaller network "
        r"\(model\.backbone\) or smaller pictures, or set train\.max_memory_gb=3\."
    )
    with pytest.raises(RunError, match=message):
        plan(4, max_memory_gb=2)


def test_too_little_free_memory_is_refused(machine):
    machine["available"] = 2 * GB
    message = (
        r"the limit is 2\.0 GB \(free memory\): choose a smaller network \(model\.backbone\) or "
        r"smaller pictures, or train where 2\.6 GB are free\."
    )
    with pytest.raises(RunError, match=message):
        plan(4)
