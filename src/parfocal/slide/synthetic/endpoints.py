"""Painted cohorts with other endpoints than a class: survival, numbers, grades and several labels.

Every slide has four conspicuous regions, of which a random number holds a lesion; the size of both
differs between slides. The endpoints follow from the lesions alone, so what a perfect model would
reach is known:

- `lesion_mm2`, the area of the lesions;
- `grade`, 0 without a lesion, 1 with one or two, 2 with more;
- `os_months` and `os_event`: the hazard is proportional to the area; the times of a slide without
  a lesion are all censored;
- `hollow` and `ringed`, whether the slide has lesions of the first and of the second kind.

`age` and `sex` say nothing about any of them.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from parfocal.slide.synthetic.layout import Blob, Layout
from parfocal.slide.synthetic.painting import Painting, SlidePlan, default_painting, plan_layout

Endpoint = Literal["survival", "regression", "ordinal", "multilabel"]
MAX_UM = 500.0  # largest diameter of a lesion
WIDTHS = (0.5, 1.0)  # range of the lesions' diameters, relative to the largest
MEAN_MONTHS = 18.0  # until the event, with the mean area
OBSERVED_MONTHS = (24.0, 72.0)  # range of the time until censoring


@dataclass(frozen=True)
class EndpointSlide:
    """The plan of a slide with its endpoints.

    Args:
        split: train, val or test.
        plan: plan of the slide.
        columns: endpoints by column.
    """

    split: str
    plan: SlidePlan
    columns: dict[str, object]


def plan_endpoints(
    endpoint: Endpoint,
    *,
    slides: int,
    seed: int,
    size: int,
    mpp: float,
    painting: Painting | None = None,
) -> list[EndpointSlide]:
    """Plan the slides of a cohort with an endpoint, without painting them.

    Args:
        endpoint: the endpoint; only "multilabel" has lesions of two kinds.
        slides: number of slides.
        seed: seed of the cohort.
        size: side of a slide in pixels.
        mpp: microns per pixel.
        painting: contents of the slides; None for the default.

    Raises:
        ValueError: a setting is invalid, or a slide has no room for its regions.
    """
    painting = painting or default_painting()
    rng = np.random.default_rng(np.random.SeedSequence((seed, 7)))
    plans = []
    for number in range(slides):
        counts = _draw_counts(rng, endpoint, painting.regions)
        largest = painting.lesion_um or min(MAX_UM, size * mpp / 9)
        own = replace(
            painting,
            lesions=max(1, sum(counts)),
            lesion_um=largest * float(rng.uniform(*WIDTHS)),
        )
        plans.append(
            SlidePlan(
                (seed, 0, 0, number),
                (seed, 0, 1, number),
                sum(counts) > 0,
                size,
                mpp,
                own,
                second=counts[1],
            )
        )
    layouts = [plan_layout(plan) for plan in plans]
    areas = np.array([_area_mm2(layout) for layout in layouts])
    splits = _splits(slides, painting, rng)
    columns = [
        _columns(endpoint, layout, float(area), float(areas.mean()), rng)
        for layout, area in zip(layouts, areas, strict=True)
    ]
    return [EndpointSlide(*each) for each in zip(splits, plans, columns, strict=True)]


def _draw_counts(rng: np.random.Generator, endpoint: Endpoint, regions: int) -> tuple[int, int]:
    """Draw the numbers of lesions of both kinds."""
    if endpoint != "multilabel":
        return int(rng.integers(regions + 2)) % (regions + 1), 0  # a third have none
    present = rng.integers(2, size=2)
    first, second = present * rng.integers(1, regions // 2 + 1, size=2)
    return int(first), int(second)


def _columns(
    endpoint: Endpoint, layout: Layout, area: float, mean: float, rng: np.random.Generator
) -> dict[str, object]:
    """Return the endpoints of a slide; the same draws are made for every endpoint."""
    waiting, observed = rng.exponential(), rng.uniform(*OBSERVED_MONTHS)
    age, sex = rng.integers(45, 85), "FM"[rng.integers(2)]
    months = waiting * MEAN_MONTHS * mean / area if area else np.inf
    kinds = len(layout.lesions), len(layout.second)
    found: dict[str, object] = {"age": int(age), "sex": sex, "lesion_mm2": round(area, 5)}
    if endpoint == "multilabel":
        return found | {"hollow": int(kinds[0] > 0), "ringed": int(kinds[1] > 0)}
    found["grade"] = (kinds[0] > 0) + (kinds[0] > 2)
    if endpoint == "survival":
        found["os_months"] = round(max(min(months, observed), 0.01), 2)
        found["os_event"] = int(months <= observed)
    return found


def _splits(slides: int, painting: Painting, rng: np.random.Generator) -> list[str]:
    """Assign slides to train, val and test in random order."""
    ends = np.rint(np.cumsum(painting.splits) * slides)
    ranks = rng.permutation(slides)
    return [("train", "val", "test")[int((rank >= ends[:2]).sum())] for rank in ranks]


def _area_mm2(layout: Layout) -> float:
    """Return the area of all lesions in square millimeters."""
    return sum(_area_um2(blob) for blob in (*layout.lesions, *layout.second)) / 1e6


def _area_um2(blob: Blob) -> float:
    """Return the area of the outline by the shoelace formula."""
    x, y = blob.polygon().T
    return float(abs(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2)
