"""Process the slides of a cohort with a trained model, and go on where an earlier call stopped."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import Inputs
from parfocal.dataset.patient_inputs import PatientSlideError
from parfocal.dataset.patients import keep_slides
from parfocal.distribute.journal import Journal
from parfocal.distribute.work_folder import work_folder
from parfocal.distribute.worklist import EVERYTHING_HERE, Distribution, WorkList
from parfocal.evaluate.result import Failure
from parfocal.features.slide_input import SlideInput
from parfocal.grid import UnavailableMagnificationError
from parfocal.models.checkpoint import Checkpoint
from parfocal.slide.errors import SlideError
from parfocal.slide.identity import file_fingerprint
from parfocal.slide.sources.url import SlidePath, SlideUrl

logger = logging.getLogger(__name__)


Result = TypeVar("Result")


class InputsSource:
    """The inputs of this process; a worker process that receives them opens its own.

    Args:
        open_inputs: opens them, also in another process.
        here: those of this process, if they are open.
    """

    def __init__(self, open_inputs: Callable[[], Inputs], here: Inputs | None = None) -> None:
        self._open, self._inputs = open_inputs, here

    def __reduce__(self) -> tuple[object, ...]:
        return InputsSource, (self._open,)

    def get(self) -> Inputs:
        """Return the inputs, which are opened at the first call."""
        if self._inputs is None:
            self._inputs = self._open()
        return self._inputs


@dataclass(frozen=True)
class SlideBatch(Generic[Result]):
    """Processes slides one after the other, each in its own error border.

    Args:
        task: what is done, as "evaluating".
        kind: class of the results: a dataclass of values of JSON, and a member `slide` with the
            slide of the cohort.
        process: processes one open slide; picklable, for engines with workers.
        trained: the model.
        inputs: opens the slides for the model.
        features: "stored" where features are read from files.
        out: folder of the results, which keeps the result of each slide in `journal_file`.
        again: whether to process slides again that an earlier call has finished with the same
            model and settings.
        skip_unreadable: whether a patient goes on with the other slides if one cannot be read;
            results then have a member `left_out`.
        distribution: how the slides are divided among processes.
        journal_file: name of the file with the result of each slide.
    """

    task: str
    kind: type[Result]
    process: Callable[[CohortSlide, SlideInput], Result]
    trained: Checkpoint
    inputs: InputsSource
    features: Literal["stored", "live"]
    out: Path
    again: bool = False
    skip_unreadable: bool = False
    distribution: Distribution = EVERYTHING_HERE
    journal_file: str = "slides.jsonl"

    def __getstate__(self) -> dict[str, object]:
        """Leave out the journal, of which each process writes its own part."""
        return {each.name: self.__dict__[each.name] for each in fields(self)}

    def run(self, slides: Sequence[CohortSlide]) -> tuple[list[Result], list[Failure]]:
        """Process slides; return the results, and the failures with their reasons.

        Raises:
            ShardEndedError: the slides of the shard are done, but not yet those of the others.
            Exception: the disk is full.
        """
        if self.journal.is_outdated:
            logger.warning(
                "%s: the results of an earlier call with another model, other settings or another "
                "version of parfocal are replaced",
                self.out,
            )
        work = _BatchWork(self, {slide.slide_id: slide for slide in slides})
        work_list = WorkList(
            self.out,
            self.task,
            work,
            distribution=self.distribution,
            again=self.again,
            made_by=json.dumps(self._made_by),
            unit=f"{self.trained.unit.per}s",
        )
        with self.journal:
            ended = {each.item: each for each in work_list.run()}
            ended |= {each.item: each for each in work_list.rest()}
        results = [each.result for name in work.items if (each := ended[name]).result is not None]
        failed = [
            Failure(work.slides[name], each.reason)
            for name in work.items
            if (each := ended[name]).reason is not None
        ]
        return results, failed

    def find(self, slide: CohortSlide, state: Mapping[str, object]) -> Result | None:
        """Return the result of an earlier call; None if there is none for this slide as it is."""
        stored = self.journal.find(slide.slide_id, state)
        if stored is None:
            return None
        try:
            return TypeAdapter(self.kind).validate_python({**stored, "slide": slide})
        except ValidationError:
            return None  # edited by hand

    def process_slide(self, slide: CohortSlide, state: Mapping[str, object]) -> Result:
        """Process a slide, and keep its result."""
        try:
            result = self._process(slide)
        except UnavailableMagnificationError as error:
            raise SlideError(error.message_for_model(self.trained.magnifications)) from error
        self.journal.add(slide.slide_id, state, _without_slide(result))
        return result

    def _process(self, slide: CohortSlide, left_out: tuple[str, ...] = ()) -> Result:
        """Process a slide, or a patient with the slides that can be read."""
        rest = keep_slides(slide, lambda each: each.slide_id not in left_out)
        assert rest is not None
        try:
            with self.inputs.get().open(rest) as opened:
                result = self.process(rest, opened)
        except PatientSlideError as error:
            if not self.skip_unreadable or len(rest.slides) == 1:
                raise
            logger.warning("%s; the patient is predicted from the other slides", error)
            return self._process(slide, (*left_out, error.slide_id))
        whole: dict[str, Any] = {"slide": slide, "left_out": left_out} if left_out else {}
        return replace(result, **whole)  # type: ignore[type-var]  # a dataclass

    @property
    def _made_by(self) -> dict[str, object]:
        return {
            "task": self.task,
            "weights_sha256": self.trained.weights_hash,
            "settings_sha256": self.trained.settings_hash,
            "features": self.features,
        }

    @cached_property
    def journal(self) -> Journal:
        """The results of this process and of others."""
        return Journal(self.out / self.journal_file, self._made_by, parts=work_folder(self.out))

    def state_of(self, slide: CohortSlide) -> dict[str, object]:
        """Return what the result depends on besides the model: the files of the slide."""
        if slide.slides:
            return {"slides": {each.slide_id: self.state_of(each) for each in slide.slides}}
        outlines, sources = slide.outlines, self.inputs.get().source_files(slide)
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


@dataclass(frozen=True)
class _BatchWork(Generic[Result]):
    """The slides of a batch as shared work."""

    batch: SlideBatch[Result]
    slides: Mapping[str, CohortSlide]
    _states: dict[str, dict[str, object]] = field(default_factory=dict)

    @cached_property
    def items(self) -> tuple[str, ...]:
        """Ids of the slides."""
        return tuple(self.slides)

    def find(self, item: str) -> Result | None:
        """Return the result of an earlier call, or of another process."""
        if item not in self._states:  # reads the files of the slide
            self._states[item] = self.batch.state_of(self.slides[item])
        return self.batch.find(self.slides[item], self._states[item])

    def process(self, item: str) -> Result:
        """Process a slide, and keep its result in the journal."""
        slide = self.slides[item]
        state = self._states.pop(item, None) or self.batch.state_of(slide)
        return self.batch.process_slide(slide, state)

    def slide_files(self, item: str) -> tuple[SlidePath, ...]:
        """Return the slides that are read for a slide or patient; none if features are stored."""
        if self.batch.features == "stored" or self.batch.trained.traits.takes == "nothing":
            return ()
        slide = self.slides[item]
        return tuple(each.path for each in slide.slides or (slide,))

    def prepare(self) -> None:
        """Open the inputs, whose errors are not those of a slide."""
        self.batch.inputs.get()

    def close(self) -> None:
        """Add the results of a worker process to the journal."""
        self.batch.journal.close()
