"""What the rest of parfocal has to know about a task: what is predicted of a slide, and from what.

A model has no task in it: its last layer is as wide as the task says, and the task turns its logits
into an answer. Training, prediction, evaluation and reports use only the members of `Task`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.models.contract import Loss

if TYPE_CHECKING:
    from parfocal.metrics import Resamplable, Score  # which prediction does not need

LABEL = "label"  # the usual column of the class of a slide


@dataclass(frozen=True)
class Answer:
    """What a model predicts of one slide, or of one patient.

    Args:
        probabilities: probability of each class, by label; they sum to 1. Empty for a task without
            classes.
        outputs: other numbers, by name, such as a risk or a value in the unit of its column.
    """

    probabilities: dict[str, float] = field(default_factory=dict)
    outputs: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Task(Protocol):
    """What is predicted of a slide, and how a model is trained and measured on it."""

    @property
    def name(self) -> str:
        """Name of the task, a key of `TASKS`."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the cohort with the targets."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the logits: the last layer of the model is as wide as there are names."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class labels in the order of the logits; empty for a task without classes."""

    @property
    def compares_slides(self) -> bool:
        """Whether the loss is defined for several slides together only, as that of survival."""

    @property
    def monitored(self) -> tuple[str, ...]:
        """Names of the scores to compute after each epoch, the most important one first."""

    @property
    def compared(self) -> tuple[str, ...]:
        """Names of the scores that a comparison of models shows; the first one ranks them."""

    @property
    def thresholds(self) -> bool:
        """Whether a threshold on a class probability can be chosen."""

    @property
    def loss(self) -> Loss:
        """The loss on logits and targets, of one slide or of a batch."""

    def prepared(self, slides: Sequence[CohortSlide]) -> "Task":
        """Return the task with what depends on the whole cohort, such as the order of classes.

        Args:
            slides: all slides of the cohort.

        Raises:
            CohortError: the target of a slide is missing or invalid; the message begins with the
                row.
        """

    def fitted(self, slides: Sequence[CohortSlide]) -> "Task":
        """Return the task with what depends on the training slides, such as the mean of a target.

        Raises:
            CohortError: the slides do not suffice to train on.
        """

    def known(self, slide: CohortSlide) -> bool:
        """Return whether the target of a slide is known, or one of several."""

    def group(self, slide: CohortSlide) -> str:
        """Return the group of a slide that a split spreads over its parts; "" for none."""

    def encode(self, slide: CohortSlide) -> Tensor:
        """Return the target of a slide, as `loss` takes it."""

    def answer(self, logits: Float[Tensor, " c"]) -> Answer:
        """Return what the logits of a slide mean."""

    def describe(self, answer: Answer, thresholds: Mapping[str, float] | None = None) -> str:
        """Return what is predicted as a short text, such as a class or a value.

        Args:
            answer: the answer.
            thresholds: threshold of each of several labels; other tasks have none.
        """

    def truth(self, slide: CohortSlide) -> dict[str, str]:
        """Return the true values of a slide by column, for a table."""

    def scores(
        self,
        slides: Sequence[CohortSlide],
        answers: Sequence[Answer],
        *,
        resamples: int = 2000,
        seed: int = 0,
    ) -> "dict[str, Score]":
        """Compute the metrics with their 95% confidence intervals over patients.

        Args:
            slides: slides with known targets; slides of one patient are resampled together.
            answers: answer for each slide.
            resamples: number of bootstrap resamples.
            seed: seed of the resampling.
        """

    def resamplable(
        self, slides: Sequence[CohortSlide], answers: Sequence[Answer]
    ) -> "Resamplable":
        """Return predictions whose scores can be computed in each resample of the patients.

        Args:
            slides: slides with known targets.
            answers: answer for each slide.
        """

    def count(self, slides: Sequence[CohortSlide]) -> str:
        """Return how many slides have which target, in words."""

    def unmeasured(self, slides: Sequence[CohortSlide]) -> tuple[str, ...]:
        """Return what validation slides cannot measure, such as a class that none has, in words."""

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON, which `parse_task` reads."""


@runtime_checkable
class ComparesSlides(Protocol):
    """A task that compares slides (`compares_slides`), and completes its answer after training."""

    def completed(
        self, slides: Sequence[CohortSlide], logits: Sequence[Float[Tensor, " c"]]
    ) -> Task:
        """Return the task with what depends on the outputs of the trained model.

        Args:
            slides: training slides.
            logits: logits of each of them, after training.
        """


def mean_answer(answers: Sequence[Answer]) -> Answer:
    """Return the mean of the numbers of several answers, as of the slides of a patient or of folds.

    Args:
        answers: at least one; all of one task.
    """
    count = len(answers)
    return Answer(
        {
            key: sum(a.probabilities[key] for a in answers) / count
            for key in answers[0].probabilities
        },
        {key: sum(a.outputs[key] for a in answers) / count for key in answers[0].outputs},
    )


def as_rows(
    logits: Float[Tensor, "..."], target: Float[Tensor, "..."]
) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b t"]]:
    """Return logits and targets of one slide or of a batch as one row per slide.

    Args:
        logits: (C,) or (B, C).
        target: (T,) or (B, T); of the same number of slides.
    """
    width, values = logits.shape[-1], target.shape[-1]
    return logits.view(-1, width), target.view(-1, values).to(logits.device)
