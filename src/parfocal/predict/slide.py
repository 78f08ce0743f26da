"""Predict the class of one slide, from the slide file to the prediction record.

Open the slide, find its patches, run the model on them, and record what the model visited and what
that cost. Pixels are read and encoded only when the model requests them.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from parfocal.cost import Cost, ExhaustiveCost
from parfocal.encoders.encoder import Encoder
from parfocal.explain.record import PredictionRecord
from parfocal.explain.regions import (
    mpps_from_looks,
    regions_from_looks,
    with_round_probabilities,
    with_running_probabilities,
)
from parfocal.features.errors import StoreError
from parfocal.features.slide_input import BagInput, SlideInput, tissue_reach
from parfocal.features.timing import WaitTimer, timed
from parfocal.grid import GridError, UnavailableMagnificationError
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import require_finite
from parfocal.models.visit import answer
from parfocal.predict.ensemble import cost_difference, join_members
from parfocal.predict.facts import (
    budget_facts,
    described,
    exhaustive_cost,
    label_probabilities,
    model_facts,
    round_facts,
    slide_facts,
    stored_exhaustive_cost,
    threshold_facts,
    thresholds_facts,
)
from parfocal.predict.nominal import nominal_notes
from parfocal.prediction import Look, Prediction
from parfocal.slide.errors import SlideError
from parfocal.slide.notes import warn_of_notes
from parfocal.slide.slide import Slide, open_slide
from parfocal.slide.sources.url import SlidePath
from parfocal.tasks import task_of

logger = logging.getLogger(__name__)


def predict(
    path: SlidePath | str,
    trained: Checkpoint,
    *,
    mpp: float | None = None,
    encoder: Encoder | Sequence[Encoder] | None = None,
    tissue: Path | None = None,
) -> PredictionRecord:
    """Predict the class of one slide file.

    Args:
        path: the slide file, or a URL.
        trained: the trained model.
        mpp: µm per level-0 pixel, for a file that does not record it.
        encoder: the encoder of `trained`, if already loaded, one for all magnifications or one for
            each; if None, it is loaded.
        tissue: GeoJSON file or mask image with the tissue; None to find it.

    Raises:
        SlideError: the slide cannot be read, or does not have the magnifications of the model.
    """
    encoder = encoder or trained.load_encoders()
    missing_tiles = trained.slide.missing_tiles
    with open_slide(path, mpp=mpp, tissue=tissue, missing_tiles=missing_tiles) as slide:
        return classify(slide, trained, encoder)


def classify(
    slide: Slide, trained: Checkpoint, encoder: Encoder | Sequence[Encoder] | None
) -> PredictionRecord:
    """Predict the class of an open slide.

    Args:
        slide: the slide.
        trained: the trained model.
        encoder: the encoder of `trained`, one for all magnifications or one for each; None or an
            empty sequence for a model that encodes patches itself.

    Raises:
        SlideError: the slide cannot be read, or does not have the magnifications of the model.
        OutputNotFiniteError: the model's output is not finite.
    """
    try:
        with trained.open(slide, encoder=encoder) as slide_input:
            runs = _run_each(trained, slide_input)
    except UnavailableMagnificationError as error:
        message = error.message_for_model(trained.magnifications)
        raise SlideError(f"{slide.name}: {message}") from error
    except GridError as error:
        raise SlideError(f"{slide.name}: {error}") from error
    exhaustive = exhaustive_cost(slide, slide_input, trained, encoder)
    nominal = nominal_notes(trained, slide.mpp)
    for note in nominal:
        logger.warning("%s: %s", slide.name, note)
    record = _joined_record(slide, trained, slide_input, runs, exhaustive)
    return replace(record, notes=(*record.notes, *nominal))


def classify_stored(slide: Slide, trained: Checkpoint, slide_input: BagInput) -> PredictionRecord:
    """Predict the class of an open slide from its stored features; no patch of it is read.

    The bill has the patches that the model visited, and neither pixels nor MACs of encoding.

    Args:
        slide: the slide.
        trained: the trained model.
        slide_input: its features.

    Raises:
        StoreError: the features do not say where on the slide the patches lie.
        OutputNotFiniteError: the model's output is not finite.
    """
    if not slide_input.placed:
        raise StoreError(
            f"{slide.name}: the features have no positions of the patches on the slide, so nothing "
            "can be drawn. Evaluate the run instead, or leave --features out."
        )
    runs = _run_each(trained, slide_input, stored=True)
    exhaustive = stored_exhaustive_cost(slide_input, trained)
    return _joined_record(slide, trained, slide_input, runs, exhaustive)


@dataclass(frozen=True)
class _Run:
    """The prediction of one model, with what it added to the cost of the slide."""

    name: str
    trained: Checkpoint
    prediction: Prediction
    added: Cost


def _run_each(
    trained: Checkpoint, slide_input: SlideInput, *, stored: bool = False
) -> tuple[_Run, ...]:
    """Run a model, or each member of several, on one open slide.

    Args:
        trained: the model.
        slide_input: the slide, whose patches are read and encoded once.
        stored: whether features are stored, so that the meter counts no patches by itself.
    """
    runs: list[_Run] = []
    counted: dict[int, set[int]] = {}
    device = next(trained.model.parameters(), torch.empty(0)).device
    members = trained.members or {"": trained}
    for position, (name, member) in enumerate(members.items()):
        member.model.to(device)
        before = slide_input.cost_meter.total()
        prediction = run_on(member, slide_input, models_left=len(members) - position)
        if stored:
            for step, look in enumerate(slide_input.locate(prediction.looks)):
                new = set(look.rows.tolist()) - counted.setdefault(step, set())
                slide_input.cost_meter.add_patches(step, len(new))
                counted[step] |= new
        added = cost_difference(before, slide_input.cost_meter.total())
        runs.append(_Run(name, member, prediction, added))
    return tuple(runs)


def _joined_record(
    slide: Slide,
    trained: Checkpoint,
    slide_input: SlideInput,
    runs: Sequence[_Run],
    exhaustive: ExhaustiveCost,
) -> PredictionRecord:
    """Return the record of a model, or of the mean answer of several."""
    records = {
        run.name: record_of(slide, run.trained, slide_input, run.prediction, exhaustive)
        for run in runs
    }
    if not trained.members:
        return records[""]
    added, total = [run.added for run in runs], slide_input.cost_meter.total(exhaustive)
    return join_members(trained, records, added, total)


def record_of(
    slide: Slide,
    trained: Checkpoint,
    slide_input: SlideInput,
    prediction: Prediction,
    exhaustive: ExhaustiveCost,
) -> PredictionRecord:
    """Return the record of a prediction."""
    require_finite(prediction, slide.name)
    warn_of_notes(slide)
    task = task_of(trained)
    looks = slide_input.locate(prediction.looks)
    if not task.classes:
        looks = tuple(_without_classes(look) for look in looks)
    running = label_probabilities(
        task.classes, _calibrated_running(trained, prediction) if task.classes else None
    )
    rounds = round_facts(trained, prediction)
    regions = tuple(regions_from_looks(looks))
    if rounds:
        regions = tuple(with_round_probabilities(regions, [each.probabilities for each in rounds]))
    else:
        regions = tuple(with_running_probabilities(regions, running))
    predicted = task.answer(trained.calibrated(prediction.logits))
    return PredictionRecord(
        slide=slide_facts(slide, trained.slide),
        model=model_facts(trained),
        probabilities=predicted.probabilities,
        stop_reason=prediction.stop_reason,
        mpps=mpps_from_looks(looks),
        regions=regions,
        cost=slide_input.cost_meter.total(exhaustive),
        reach=tissue_reach(slide_input, looks),
        task=task.name,
        outputs=predicted.outputs,
        predicted=described(trained, predicted),
        notes=slide.notes,
        budget=budget_facts(trained, prediction),
        rounds=rounds,
        threshold=threshold_facts(trained),
        thresholds=thresholds_facts(trained),
    )


def _calibrated_running(trained: Checkpoint, prediction: Prediction) -> Float[Tensor, "t c"] | None:
    """Return the probabilities after each patch, with the temperature of the model."""
    running = prediction.running
    if running is None or trained.operating_point is None:
        return running
    if trained.operating_point.temperature is None:
        return running
    return trained.calibrated(running.clamp_min(torch.finfo(running.dtype).tiny).log()).softmax(1)


def _without_classes(look: Look) -> Look:
    """Return a look of which no score is the probability of a class."""
    if look.score_kind != "class_probability":
        return look
    uniform = torch.full_like(look.score, 1 / max(1, len(look.score)))
    return replace(look, score=uniform, score_kind="uniform")


def run_on(trained: Checkpoint, slide_input: SlideInput, *, models_left: int = 1) -> Prediction:
    """Run a model on one slide, and time it without the wait for features or pixels.

    Args:
        trained: the model.
        slide_input: the slide.
        models_left: number of models, this one included, that share the seconds of a budget.
    """
    meter, waits, start = slide_input.cost_meter, WaitTimer(), time.perf_counter()
    model_input = timed(slide_input.model_input, waits)
    with torch.no_grad(), meter.measure_macs():
        prediction = answer(trained, slide_input, model_input, models_left=models_left).prediction
    for step, look in enumerate(prediction.looks):
        if look.score_kind == "class_probability":  # leaves: cropped from pixels already read
            meter.add_patches(step, len(look.rows))
    meter.add_seconds("model", time.perf_counter() - start - waits.seconds)
    return prediction
