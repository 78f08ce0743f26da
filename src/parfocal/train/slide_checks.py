"""Check that the slides of a cohort can be read before a training starts."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import Inputs
from parfocal.dataset.lesions import Lesions
from parfocal.features.errors import MixedFeaturesError
from parfocal.grid import Reach
from parfocal.slide.failure import catch_failure
from parfocal.train.checks import log_reach

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedSlide:
    """The result of checking a slide.

    Args:
        reason: why it cannot be read; None if it can.
        reach: tissue that the model cannot reach; None if unknown.
    """

    reason: str | None
    reach: Reach | None = None


@dataclass(frozen=True)
class SlideChecks:
    """Checks slides, each once, also if several folds use it.

    Args:
        inputs: opens the slides.
        workers: number of threads that read slides.
        known: reason of each slide that is already known to be unreadable, by slide id.
        results: results of slides that were checked, by slide id.
    """

    inputs: Inputs
    workers: int
    known: Mapping[str, str]
    results: dict[str, CheckedSlide] = field(default_factory=dict)

    def find_unreadable(
        self, run: Path, slides: Sequence[CohortSlide], lesions: Lesions | None
    ) -> dict[str, str]:
        """Return the reason of each slide that cannot be read, by slide id.

        Args:
            run: folder of the run, for the log.
            slides: the slides.
            lesions: outlines of the slides, for a model that is trained on them.

        Raises:
            MixedFeaturesError: stored features do not fit the run.
        """
        new = [slide for slide in slides if slide.slide_id not in self.results]
        if new:
            logger.info("%s: checking %d slides", run, len(new))
        with ThreadPoolExecutor(self.workers) as pool:
            results = list(pool.map(partial(self._check, lesions), new))
        for slide, result in zip(new, results, strict=True):
            self.results[slide.slide_id] = result
        return {
            slide.slide_id: reason
            for slide in slides
            if (reason := self.results[slide.slide_id].reason) is not None
        }

    def log_reach(self, run: Path, slides: Sequence[CohortSlide]) -> None:
        """Log the share of the tissue of checked slides that the model cannot reach."""
        reaches = {slide.slide_id: self.results[slide.slide_id].reach for slide in slides}
        log_reach(run, {name: reach for name, reach in reaches.items() if reach is not None})

    def _check(self, lesions: Lesions | None, slide: CohortSlide) -> CheckedSlide:
        reason, reach = self.known.get(slide.slide_id), None
        if reason is not None:
            return CheckedSlide(reason)
        with catch_failure(slide.slide_id) as attempt:
            reach = self.inputs.check(slide)
            if lesions is not None and lesions.has(slide.slide_id):
                with self.inputs.open(slide) as opened:
                    lesions.of_input(slide, opened)
        if isinstance(attempt.error, MixedFeaturesError):
            raise attempt.error
        return CheckedSlide(attempt.reason, reach)
