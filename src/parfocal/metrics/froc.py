"""Free-response ROC of lesion detections, after the rule of CAMELYON16.

A detection inside a lesion finds it; further detections in the same lesion count as nothing. A
detection outside of all lesions is a false positive, on slides with and without lesions. Lesions
that are too small to count (isolated tumor cells) are neither found nor missed. The score is the
mean of the sensitivities at 1/4, 1/2, 1, 2, 4 and 8 false positives per slide.

Source: Ehteshami Bejnordi et al., "Diagnostic assessment of deep learning algorithms for detection
    of lymph node metastases in women with breast cancer", JAMA 2017, and the challenge's page.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FALSE_POSITIVES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
OUTSIDE, IGNORED = -1, -2  # lesions of a detection: none, and one that does not count


@dataclass(frozen=True)
class SlideDetections:
    """The detections on one slide.

    Args:
        lesions: number of lesions that count.
        confidences: confidence of each detection.
        hits: index of the lesion in which each detection lies; `OUTSIDE` or `IGNORED`.
    """

    lesions: int
    confidences: tuple[float, ...]
    hits: tuple[int, ...]


@dataclass(frozen=True)
class Froc:
    """Sensitivity against false positives per slide.

    Args:
        false_positives: mean number per slide, ascending from 0.
        sensitivity: share of the lesions that are found at each of these.
        score: mean sensitivity at `FALSE_POSITIVES`; None where there are no lesions.
        lesions: number of lesions that count.
        slides: number of slides.
        reason: why the score is None.
    """

    false_positives: tuple[float, ...]
    sensitivity: tuple[float, ...]
    score: float | None
    lesions: int
    slides: int
    reason: str | None = None


def froc(slides: Sequence[SlideDetections]) -> Froc:
    """Compute the curve and its score.

    Beyond the last false positive, the sensitivity stays as it is.

    Args:
        slides: detections on all slides, also on those without lesions.
    """
    lesions = sum(slide.lesions for slide in slides)
    if not lesions:
        reason = "undefined: no lesion with an outline that counts"
        return Froc((), (), None, 0, len(slides), reason)
    found: dict[tuple[int, int], float] = {}  # highest confidence in each lesion
    false: list[float] = []
    for number, slide in enumerate(slides):
        for confidence, hit in zip(slide.confidences, slide.hits, strict=True):
            if hit >= 0:
                key = number, hit
                found[key] = max(confidence, found.get(key, -np.inf))
            elif hit == OUTSIDE:
                false.append(confidence)
    thresholds = np.unique([*found.values(), *false])[::-1]
    hits, misses = (np.sort(np.array(each, dtype=float)) for each in (list(found.values()), false))
    counts = (len(each) - np.searchsorted(each, thresholds) for each in (hits, misses))
    sensitivity, false_positives = (np.concatenate([[0.0], each]) for each in counts)
    sensitivity, false_positives = sensitivity / lesions, false_positives / len(slides)
    at = [sensitivity[false_positives <= limit].max() for limit in FALSE_POSITIVES]
    return Froc(
        tuple(false_positives.tolist()),
        tuple(sensitivity.tolist()),
        float(np.mean(at)),
        lesions,
        len(slides),
    )
