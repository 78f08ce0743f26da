"""Process the slides of a cohort with a trained model, and go on where an earlier call stopped."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import Inputs
from parfocal.evaluate.result import Failure
from parfocal.features.slide_input import SlideInput
from parfocal.grid import UnavailableMagnificationError
from parfocal.distribute.journal import Journal
from parfocal.models.checkpoint import Checkpoint
from parfocal.progress import Progress
from parfocal.slide.errors import SlideError
from parfocal.slide.failure import catch_failure
from parfocal.slide.identity import file_fingerprint
from parfocal.slide.sources.url import SlideUrl

JOURNAL_FILE = "slides.jsonl"

Result = TypeVar("Result")


@dataclass(frozen=True)
class SlideBatch(Generic[Result]):
    """Processes slides one after the other, each in its own error border.

    Args:
        task: what is done, as "evaluating".
        kind: class of the results: a dataclass of values of JSON, and a member `slide` with the
            slide of the cohort.
        process: processes one open slide.
        trained: the model.
        inputs: opens the slides for the model.
        features: "stored" where features are read from files.
        out: folder of the results, which keeps the result of each slide in `slides.jsonl`.
        again: whether to process slides again that an earlier call has finished with the same
            model and settings.
    """

    task: str
    kind: type[Result]
    process: Callable[[CohortSlide, SlideInput], Result]
    trained: Checkpoint
    inputs: Inputs
    features: Literal["stored", "live"]
    out: Path
    again: bool = False

    def run(self, slides: Sequence[CohortSlide]) -> tuple[list[Result], list[Failure]]:
        """Process slides; return the results, and the failures with their reasons.

        Raises:
            Exception: the disk is full.
        """
        results: list[Result] = []
        failed: list[Failure] = []
        progress = Progress(self.task, len(slides))
        for slide in slides:
            with catch_failure(slide.slide_id) as attempt:
                results.append(self._result(slide, progress))
            if attempt.reason is not None:
                failed.append(Failure(slide, attempt.reason))
                progress.fail(slide.slide_id)
        return results, failed

    def _result(self, slide: CohortSlide, progress: Progress) -> Result:
        state = self._state(slide)
        finished = self._finished(slide, state)
        if finished is not None:
            progress.advance(slide.slide_id, note="done already", skipped=True)
            return finished
        try:
            with self.inputs.open(slide) as opened:
                result = self.process(slide, opened)
        except UnavailableMagnificationError as error:
            raise SlideError(error.message_for_model(self.trained.magnifications)) from error
        self._journal.add(slide.slide_id, state, _without_slide(result))
        progress.advance(slide.slide_id)
        return result

    def _finished(self, slide: CohortSlide, state: dict[str, object]) -> Result | None:
        """Return the result of an earlier call; None if there is none for this slide as it is."""
        stored = self._journal.find(slide.slide_id, state)
        if stored is None:
            return None
        try:
            return TypeAdapter(self.kind).validate_python({**stored, "slide": slide})
        except ValidationError:
            return None  # edited by hand

    @cached_property
    def _journal(self) -> Journal:
        made_by = {
            "task": self.task,
            "weights_sha256": self.trained.weights_hash,
            "settings_sha256": self.trained.settings_hash,
            "features": self.features,
        }
        return Journal(self.out / JOURNAL_FILE, made_by, again=self.again)

    def _state(self, slide: CohortSlide) -> dict[str, object]:
        """Return what the result depends on besides the model: the files of the slide."""
        outlines, sources = slide.outlines, self.inputs.source_files(slide)
        stored = sources == (slide.path,) or all(
            isinstance(source, SlideUrl) or source.exists() for source in sources
        )
        return {
            # Opening a feature file that is missing raises the error that says what to do.
            "fingerprint": ",".join(map(file_fingerprint, sources)) if stored else None,
            "mpp": slide.mpp,
            "outlines": None
            if outlines is None
            else {**asdict(outlines), "path": file_fingerprint(outlines.path)},
            "tissue": None if slide.tissue is None else file_fingerprint(slide.tissue),
        }


def _without_slide(result: object) -> dict[str, object]:
    assert not isinstance(result, type)
    content: dict[str, object] = asdict(result)  # type: ignore[call-overload]  # a dataclass
    del content["slide"]
    return content
