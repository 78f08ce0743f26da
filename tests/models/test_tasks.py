"""Every model is trained with every task: a step of several slides, and one of each slide."""

from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.dataset import CohortSlide
from parfocal.models import MODELS
from parfocal.models.contract import Adversarial, run_model, training_loss
from parfocal.tasks import build_task
from parfocal.train.joint_step import JointStep
from sources import picture, source

SLIDES = 4
SMALL: dict[str, dict[str, object]] = {
    "zoommil": {"dim": 8, "k": 2},
    "paths": {"dim": 8, "k": 2},
    "topk": {"dim": 8, "k": 2},
    "sparseconvmil": {"dim": 8, "downsample": 2},
    "transmil": {"dim": 8, "num_heads": 2, "num_landmarks": 4},
    "ips": {"num_selected": 3, "chunk_size": 2, "dim": 8, "num_heads": 2},
    "jsma": {"backbone": "small", "k": 2, "thumbnail_px": 48},
    "attentionsampling": {"k": 2, "thumbnail_px": 48},
    "magnet": {
        **{"patches": (2, 2), "backbone": "small", "auxiliary_backbone": None},
        **{"picture_px": 24, "leaf_px": 24},
    },
}
# Models that are trained on classes of patches, or on nothing of the slide.
LEFT_OUT = {name for name, model in MODELS.items() if model.traits.needs_outlines} | {
    name for name, model in MODELS.items() if model.traits.takes == "nothing"
}
TASKS = {
    "survival": build_task("survival", time="t", event="e"),
    "regression": build_task("regression", target=["a", "b"]),
    "multilabel": build_task("multilabel", target=["e", "f"]),
}


def slides():
    for number in range(SLIDES):
        event, missing = number % 2, "" if number == 1 else number
        cells = {"t": number + 1, "e": event, "a": number, "b": missing, "f": 1 - event}
        values = {column: str(value) for column, value in cells.items()}
        yield CohortSlide(f"s{number}", Path("s.svs"), "", f"s{number}", 2, values=values)


def inputs_of(name):
    traits = MODELS[name].traits
    if traits.takes_pixels:
        return [source(picture(seed=number)) for number in range(SLIDES)]
    generator = torch.Generator().manual_seed(0)
    tables = [
        [
            torch.randn(n, 5, generator=generator)
            for n in (9, 36)[: 1 + traits.multiple_magnifications]
        ]
        for _ in range(SLIDES)
    ]
    return [StoredBag(each, cells=cells) for each in tables]


def cells(step: int, rows: np.ndarray) -> np.ndarray:
    return np.stack([rows % 7, rows // 7], axis=1)


def build(name, width):
    model = MODELS[name]
    magnifications = (5.0, 10.0) if model.traits.multiple_magnifications else (10.0,)
    arguments = model.run_arguments(
        in_dim=5, num_classes=width, num_slides=SLIDES, magnifications=magnifications, patch_size=8
    )
    settings = {each.name for each in model.settings}
    small = {"dim": 8, "hidden_dim": 4} | SMALL.get(name, {})
    chosen = {key: value for key, value in small.items() if key in settings}
    chosen |= dict(model.traits.class_settings)
    torch.manual_seed(0)
    return model.build(**arguments, **chosen).train()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in MODELS if name not in LEFT_OUT])
@pytest.mark.parametrize("kind", TASKS)
def test_a_model_is_trained_with_a_task(name, kind):
    cohort = list(slides())
    task = TASKS[kind].prepared(cohort).fitted(cohort)
    model, inputs = build(name, len(task.output_names)), inputs_of(name)
    traits, targets = MODELS[name].traits, torch.stack([task.encode(each) for each in cohort])

    def run(positions):
        if traits.adversarial:
            assert isinstance(model, Adversarial)
            model.set_slide(positions[0])
        prediction = run_model(model, [inputs[position] for position in positions])
        return prediction, targets[positions] if prediction.members else targets[positions[0]]

    def objective(prediction, target, loss):
        return training_loss(model, traits, prediction, target, loss)

    if task.compares_slides:
        loss, count = JointStep(model, run, objective, task.loss).compute([[n] for n in range(4)])
        assert count == SLIDES
    else:
        loss = torch.stack([objective(*run([n]), task.loss) for n in range(4)]).mean()
    loss.backward()
    gradients = [weights.grad for weights in model.parameters() if weights.grad is not None]
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
