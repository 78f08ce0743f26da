"""Several targets at once, each with a task of its own; those of a slide may be missing.

The last layer has the outputs of all parts side by side, and the loss is the sum of their losses,
each over the slides whose target is known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.dataset.errors import CohortError
from parfocal.models.contract import Loss
from parfocal.tasks.cells import refuse_missing
from parfocal.tasks.contract import Answer, ComparesSlides, Task, as_rows
from parfocal.tasks.counts import all_of

if TYPE_CHECKING:
    from parfocal.metrics import ResamplableParts, Score


@dataclass(frozen=True)
class Joint:
    """Several tasks on one slide.

    Args:
        parts: the tasks; no column belongs to two of them.
    """

    parts: tuple[Task, ...]

    name: ClassVar[str] = "joint"
    thresholds: ClassVar[bool] = False
    classes: ClassVar[tuple[str, ...]] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of all parts."""
        return tuple(column for part in self.parts for column in part.columns)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the logits of all parts."""
        return tuple(
            f"{part.columns[0]}={name}" if part.classes else name
            for part in self.parts
            for name in part.output_names
        )

    @property
    def compares_slides(self) -> bool:
        """Whether the loss of a part compares slides."""
        return any(part.compares_slides for part in self.parts)

    @property
    def monitored(self) -> tuple[str, ...]:
        """The first score of each part."""
        return tuple(_score_name(part, part.monitored[0]) for part in self.parts)

    @property
    def compared(self) -> tuple[str, ...]:
        """The first score of each part, and of each of its columns."""
        return tuple(
            _score_name(part, name)
            for part in self.parts
            for name in part.compared
            if name.partition("/")[0] == part.compared[0].partition("/")[0]
        )

    @property
    def loss(self) -> Loss:
        """The sum of the losses of the parts."""
        return self._loss

    def prepared(self, slides: Sequence[CohortSlide]) -> "Joint":
        """Return the task with what its parts need of the whole cohort.

        Raises:
            CohortError: a target is invalid, or all of a slide are missing.
        """
        for slide in slides:
            refuse_missing(slide, self.columns)
        return Joint(tuple(part.prepared(_known(part, slides)) for part in self.parts))

    def fitted(self, slides: Sequence[CohortSlide]) -> "Joint":
        """Return the task with what its parts need of the training slides.

        Raises:
            CohortError: a class has no training slide.
        """
        for part in self.parts:
            if not _known(part, slides):
                raise CohortError(
                    f"{' and '.join(part.columns)}: missing on all {len(slides)} training slides, "
                    "so there is nothing to learn; leave it out of --target, or add values."
                )
            trained = {part.group(slide) for slide in _known(part, slides)}
            missing = [label for label in part.classes if label not in trained]
            if missing:
                raise CohortError(
                    f"no training slide of class {missing[0]!r} of {part.columns[0]}; move some of "
                    "its patients to train, or remove the class."
                )
        return Joint(tuple(part.fitted(_known(part, slides)) for part in self.parts))

    def completed(
        self, slides: Sequence[CohortSlide], logits: Sequence[Float[Tensor, " c"]]
    ) -> "Joint":
        """Return the task with what its parts need of the outputs of the trained model."""
        own = [[part for _, part in self._split_logits(each)] for each in logits]
        return Joint(
            tuple(
                part.completed(slides, [each[number] for each in own])
                if isinstance(part, ComparesSlides)
                else part
                for number, part in enumerate(self.parts)
            )
        )

    def known(self, slide: CohortSlide) -> bool:
        """Return whether a target of the slide is known."""
        return any(part.known(slide) for part in self.parts)

    def group(self, slide: CohortSlide) -> str:
        """Return the group of the first part that compares slides; "" if none does."""
        return next(
            (p.group(slide) for p in self.parts if p.compares_slides and p.known(slide)), ""
        )

    def encode(self, slide: CohortSlide) -> Float[Tensor, " t"]:
        """Return the targets of all parts; NaN where missing."""
        return torch.cat(
            [
                part.encode(slide).double().view(-1)
                if part.known(slide)
                else torch.full((_width(part),), torch.nan, dtype=torch.float64)
                for part in self.parts
            ]
        )

    def answer(self, logits: Float[Tensor, " c"]) -> Answer:
        """Return the numbers of all parts; a class is named `column=class`."""
        outputs: dict[str, float] = {}
        for part, own in self._split_logits(logits):
            answer = part.answer(own)
            named = {f"{part.columns[0]}={k}": v for k, v in answer.probabilities.items()}
            outputs |= named | answer.outputs
        return Answer(outputs=outputs)

    def describe(self, answer: Answer, thresholds: Mapping[str, float] | None = None) -> str:
        """Return what each part predicts."""
        texts = []
        for part in self.parts:
            text = part.describe(_own_answer(part, answer))
            texts.append(f"{part.columns[0]} {text}" if _needs_name(part) else text)
        return ", ".join(texts)

    def truth(self, slide: CohortSlide) -> dict[str, str]:
        """Return the targets of a slide as the cohort has them."""
        return {column: slide.values.get(column, "") for column in self.columns}

    def scores(
        self,
        slides: Sequence[CohortSlide],
        answers: Sequence[Answer],
        *,
        resamples: int = 2000,
        seed: int = 0,
    ) -> "dict[str, Score]":
        """Compute the metrics of each part on the slides whose target is known."""
        scores: dict[str, Score] = {}
        for part in self.parts:
            pairs = [(s, a) for s, a in zip(slides, answers, strict=True) if part.known(s)]
            if not pairs:
                continue
            found = part.scores(
                [slide for slide, _ in pairs],
                [_own_answer(part, answer) for _, answer in pairs],
                resamples=resamples,
                seed=seed,
            )
            scores |= {_score_name(part, name): score for name, score in found.items()}
        return scores

    def resamplable(
        self, slides: Sequence[CohortSlide], answers: Sequence[Answer]
    ) -> "ResamplableParts":
        """Return predictions whose scores can be computed in each resample of the patients."""
        import numpy as np  # noqa: PLC0415 (with the metrics)

        from parfocal.metrics import Part, ResamplableParts  # noqa: PLC0415

        parts = []
        for part in self.parts:
            rows = [row for row, slide in enumerate(slides) if part.known(slide)]
            own = part.resamplable(
                [slides[row] for row in rows], [_own_answer(part, answers[row]) for row in rows]
            )
            names = {name: _score_name(part, name) for name in part.compared}
            parts.append(Part(np.array(rows, dtype=np.int64), own, names))
        return ResamplableParts(tuple(slide.patient_id for slide in slides), tuple(parts))

    def count(self, slides: Sequence[CohortSlide]) -> str:
        """Return what each part counts."""
        return "; ".join(part.count(slides) for part in self.parts)

    def unmeasured(self, slides: Sequence[CohortSlide]) -> tuple[str, ...]:
        """Return what each part cannot measure, on the slides whose target is known."""
        found: list[str] = []
        for part in self.parts:
            known = _known(part, slides)
            missing = (f"{' and '.join(part.columns)}: missing on {all_of(slides)}",)
            found.extend(part.unmeasured(known) if known else missing)
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON."""
        return {"name": self.name, "parts": [part.to_dict() for part in self.parts]}

    def _split_logits(self, logits: Float[Tensor, "*b c"]) -> Iterator[tuple[Task, Tensor]]:
        """Yield each part with its logits."""
        widths = [len(part.output_names) for part in self.parts]
        yield from zip(self.parts, torch.split(logits, widths, dim=-1), strict=True)

    def _loss(
        self, logits: Float[Tensor, "..."], target: Float[Tensor, "..."]
    ) -> Float[Tensor, ""]:
        logits, target = as_rows(logits, target)
        targets = torch.split(target, [_width(part) for part in self.parts], dim=1)
        total = logits.sum() * 0  # has a gradient even where no part has a target
        for (part, own), own_target in zip(self._split_logits(logits), targets, strict=True):
            known = ~own_target.isnan().all(dim=1)
            if known.any():
                rows = own_target[known]
                total = total + part.loss(own[known], rows[:, 0].long() if part.classes else rows)
        return total


def _known(part: Task, slides: Sequence[CohortSlide]) -> list[CohortSlide]:
    return [slide for slide in slides if part.known(slide)]


def _width(part: Task) -> int:
    """Return the number of values of an encoded target."""
    return 1 if part.classes else len(part.columns)


def _needs_name(part: Task) -> bool:
    """Return whether the text of a part does not say what it is about."""
    return bool(part.classes) or (part.name == "regression" and len(part.columns) == 1)


def _score_name(part: Task, name: str) -> str:
    """Return the name of a part's score: that of a class is `auroc/column=class`."""
    metric, slash, label = name.partition("/")
    if part.classes:
        return f"{metric}/{part.columns[0]}{'=' if slash else ''}{label}"
    return name if slash or part.name == "multilabel" else f"{name}/{part.columns[0]}"


def _own_answer(part: Task, answer: Answer) -> Answer:
    """Return the numbers of one part."""
    if not part.classes:
        return answer
    start = f"{part.columns[0]}="
    outputs: Mapping[str, float] = answer.outputs
    return Answer({label: outputs[start + label] for label in part.classes})
