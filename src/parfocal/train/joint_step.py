"""A training step whose loss compares several slides, in the memory of one of them.

The loss of a set of slides is a function of all their logits. First, every slide is run without a
gradient, which gives the logits and the gradient of the loss with respect to each of them. Then
every slide is run again with the same random draws, and its own part of that gradient is
propagated. The sum is the gradient of the loss of all slides together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.dataset.cohort import CohortSlide
from parfocal.models.contract import Loss
from parfocal.prediction import Prediction
from parfocal.tasks import ComparesSlides, Task
from parfocal.train.batch import BatchRunner
from parfocal.train.folder import RunError

Run = Callable[[Sequence[int]], tuple[Prediction | None, Tensor]]
Objective = Callable[[Prediction, Tensor, Loss], Tensor]


@dataclass(frozen=True)
class _Part:
    """Slides that are run together, after the first run.

    Args:
        positions: positions of the slides.
        state: states of the random generators before the run.
        logits: logits for each call of the loss, one row per slide.
        target: one row per slide.
        own: objective of the model without the loss of the task.
        slopes: how much the objective grows with the loss of each call.
    """

    positions: Sequence[int]
    state: list[Tensor]
    logits: list[Float[Tensor, "b c"]]
    target: Tensor
    own: float
    slopes: list[float]


@dataclass(frozen=True)
class JointStep:
    """Computes the loss of several slides together, and its gradient one part at a time.

    The objective of a model may call the loss any number of times, each time for all slides that
    it is given, and has to be linear in the results.

    Args:
        model: the model.
        run: runs the model on slides, given their positions.
        objective: objective of the model for a prediction, its targets and the loss of the task.
        loss: loss of the task, which compares slides.
        generators: random generators of the model besides the global ones.
    """

    model: nn.Module
    run: Run
    objective: Objective
    loss: Loss
    generators: Sequence[torch.Generator] = ()

    def compute(self, parts: Sequence[Sequence[int]]) -> tuple[Float[Tensor, ""] | None, int]:
        """Return the loss, whose backward pass runs the slides again, and the number of slides.

        Args:
            parts: positions of the slides that are run together.

        Returns:
            None for the loss if no slide can be read, or if the slides cannot be compared, as
            those of a set without an event: then there is nothing to learn from them.
        """
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with torch.no_grad():
            seen = [part for positions in parts if (part := self._first_run(positions))]
        if not seen:
            return None, 0
        count = sum(len(part.target) for part in seen)
        target = torch.cat([part.target for part in seen])
        values, gradients = [], []
        for call in range(len(seen[0].logits)):
            logits = torch.cat([part.logits[call] for part in seen]).requires_grad_()
            with torch.enable_grad():
                value = self.loss(logits, target)
                (gradient,) = torch.autograd.grad(value, logits)
            values.append(value.detach())
            gradients.append(gradient)
        if not any(gradient.any() for gradient in gradients):
            return None, count
        slopes = zip(seen[0].slopes, values, strict=True)
        total = sum((slope * value for slope, value in slopes), torch.zeros_like(values[0]))
        total = total + sum(part.own * len(part.target) / count for part in seen)
        replay = _Replay(self, seen, gradients, buffers, count)
        anchor = torch.zeros((), device=total.device, requires_grad=True)
        loss: Tensor = _Recomputed.apply(anchor, total, replay)  # type: ignore[no-untyped-call]
        return loss, count

    def _first_run(self, positions: Sequence[int]) -> _Part | None:
        """Run slides without a gradient; return None if none can be read."""
        state = self._random_state()
        prediction, target = self.run(positions)
        if prediction is None:
            return None
        calls: list[Tensor] = []

        def record(logits: Tensor, target: Tensor) -> Tensor:
            calls.append(_rows(logits).detach())
            return logits.new_zeros(())

        own = float(self.objective(prediction, target, record))
        slopes = []
        for counted in range(len(calls)):
            unit = _Counter(counted)
            slopes.append(float(self.objective(prediction, target, unit)) - own)
        rows = target if prediction.members else target[None]
        return _Part(positions, state, calls, rows, own, slopes)

    def _random_state(self) -> list[Tensor]:
        states = [torch.get_rng_state(), *(each.get_state() for each in self.generators)]
        started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        return states + (torch.cuda.get_rng_state_all() if started else [])

    def restore_random_state(self, states: Sequence[Tensor]) -> None:
        """Set all random generators to the states before a part was run."""
        own = 1 + len(self.generators)
        torch.set_rng_state(states[0])
        for generator, state in zip(self.generators, states[1:own], strict=True):
            generator.set_state(state)
        if len(states) > own:
            torch.cuda.set_rng_state_all(list(states[own:]))


@dataclass
class _Counter:
    """A loss that is 1 for one of its calls, and 0 for the others."""

    counted: int
    calls: int = 0

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return logits.new_full((), float(self.calls - 1 == self.counted))


@dataclass(frozen=True)
class _Replay:
    """Runs the parts again, with a gradient.

    Args:
        step: the step.
        parts: the parts, in the order of the first run.
        gradients: gradient of the loss for each of its calls, one row per slide.
        buffers: buffers of the model before the first run.
        count: number of slides.
    """

    step: JointStep
    parts: Sequence[_Part]
    gradients: Sequence[Tensor]
    buffers: dict[str, Tensor]
    count: int

    def backward(self, scale: Float[Tensor, ""]) -> None:
        """Add the gradient of the loss, times `scale`, to those of the parameters."""
        for name, buffer in self.step.model.named_buffers():
            buffer.copy_(self.buffers[name])  # or the running statistics would count twice
        start = 0
        for part in self.parts:
            end = start + len(part.target)
            rows = [gradient[start:end] for gradient in self.gradients]
            share, start = len(part.target) / self.count, end
            self.step.restore_random_state(part.state)
            prediction, target = self.step.run(part.positions)
            if prediction is None or len(prediction.slides) != len(part.target):
                raise RunError(
                    "a slide could be read for the risks of a step but not for their gradient; "
                    "check the disk and continue with --resume."
                )
            objective = self.step.objective(prediction, target, _Linear(rows, share))
            (objective * share * scale).backward()  # type: ignore[no-untyped-call]


@dataclass
class _Linear:
    """A loss with a given gradient at each of its calls."""

    gradients: Sequence[Tensor]
    share: float
    calls: int = 0

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        gradient = self.gradients[self.calls]
        self.calls += 1
        product: Tensor = (_rows(logits) * gradient).sum()
        return product / self.share


def _rows(logits: Float[Tensor, "*b c"]) -> Float[Tensor, "n c"]:
    """Return the logits of one slide or of several as one row per slide."""
    return logits.view(-1, logits.shape[-1])


class _Recomputed(torch.autograd.Function):
    """A loss whose backward pass runs the slides again."""

    @staticmethod
    def forward(ctx, anchor: Tensor, loss: Tensor, replay: _Replay) -> Tensor:  # type: ignore[no-untyped-def]
        """Return the loss; the anchor makes it differentiable."""
        ctx.replay = replay
        device = anchor.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return loss.clone()

    @staticmethod
    def backward(ctx, scale: Tensor) -> tuple[None, None, None]:  # type: ignore[no-untyped-def]
        """Add the gradients of the parameters."""
        device, dtype, enabled = ctx.autocast
        with torch.enable_grad(), torch.autocast(device, dtype, enabled=enabled):
            ctx.replay.backward(scale)
        return None, None, None


def completed_task(
    task: Task, slides: Sequence[CohortSlide], runner: BatchRunner, device: torch.device
) -> Task:
    """Return the task with what depends on the outputs of the trained model, if it needs any.

    Args:
        task: the task.
        slides: training slides.
        runner: runs the trained model.
        device: device to run the model on.
    """
    if not task.compares_slides:
        return task
    assert isinstance(task, ComparesSlides)
    runner.model.to(device).eval()
    read, logits = [], []
    with torch.no_grad():
        for slide in slides:
            prediction, _ = runner.run([slide], device)
            if prediction is not None:
                read.append(slide)
                logits.append(prediction.slides[0].logits.double().cpu())
    return task.completed(read, logits)
