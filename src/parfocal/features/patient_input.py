"""What a model is called with for one patient: all slides as one bag, or one after the other."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from parfocal.bag import Bag, SeparateSlides
from parfocal.cost import CostMeter
from parfocal.features.forest import Forest, Reading, join_bags
from parfocal.features.patient_looks import join_looks, split_looks
from parfocal.features.slide_input import BagInput, SharpestPatches, SlideInput, tissue_reach
from parfocal.prediction import Look


@dataclass(frozen=True)
class PatientInput:
    """The slides of a patient.

    Args:
        slide_ids: id of each slide.
        slides: input of each slide.
        model_input: bag of all slides, or the slides one by one.
        cost_meter: cost of all slides.
        covariates: clinical covariates of the patient as numbers; None for a model without them.
    """

    slide_ids: tuple[str, ...]
    slides: tuple[SlideInput, ...]
    model_input: Bag | SeparateSlides
    cost_meter: CostMeter
    covariates: Float[Tensor, " v"] | None = None

    @classmethod
    def of(
        cls,
        slide_ids: Sequence[str],
        slides: Sequence[SlideInput],
        *,
        fusion: str | None = None,
        reading: Reading | None = None,
    ) -> "PatientInput":
        """Return the input for some slides.

        Args:
            slide_ids: id of each slide.
            slides: input of each slide, at least one.
            fusion: how the predictions for the slides are fused; None for one bag of all slides.
            reading: returns a context manager that is entered while features of a slide are read.

        Raises:
            MixedFeaturesError: the slides do not form one bag.
        """
        joined: Bag | SeparateSlides
        if fusion is None:
            bags = [each for each in slides if isinstance(each, BagInput)]
            assert len(bags) == len(slides)
            joined = join_bags(bags, reading=reading)
        else:
            inputs = [each.model_input for each in slides]
            separate = tuple(each for each in inputs if not isinstance(each, SeparateSlides))
            joined = SeparateSlides(separate, fusion, reading or (lambda slide: nullcontext()))
        meter = CostMeter([each.cost_meter for each in slides])
        return cls(tuple(slide_ids), tuple(slides), joined, meter)

    @cached_property
    def _forest(self) -> Forest:
        bags = [each for each in self.slides if isinstance(each, BagInput)]
        return Forest(bags, [[each.grid.counts[step] for step in each.steps] for each in bags])

    def locate(self, looks: Sequence[Look]) -> tuple[Look, ...]:
        """Add the places of the patches, and their slides; drop patches that do not exist.

        Patches are sorted by slide, and `rows` are those of their own slide.

        Args:
            looks: looks of a trained model, in which each row is one patch.
        """
        return join_looks(self.locate_by_slide(looks))

    def locate_by_slide(self, looks: Sequence[Look]) -> list[tuple[Look, ...]]:
        """Return the looks at each slide, with the places of the patches.

        The scores are shares of the patient: over all slides, those of a look sum to 1.

        Args:
            looks: looks of a trained model, in which each row is one patch.
        """
        parts = self.split(looks)
        return [each.locate(part) for each, part in zip(self.slides, parts, strict=True)]

    def split(self, looks: Sequence[Look]) -> list[tuple[Look, ...]]:
        """Return the looks at each slide, with the rows of its grid and without places.

        Args:
            looks: looks of a trained model, in which each row is one patch.
        """
        of_slides = tuple(self._with_slides(step, look) for step, look in enumerate(looks))
        return split_looks(of_slides, len(self.slides))

    def _with_slides(self, step: int, look: Look) -> Look:
        """Return a look with the slide of each patch, and its row on that slide."""
        if look.slides is not None:
            return look
        rows = look.rows.cpu().numpy()
        return replace(
            look,
            rows=torch.from_numpy(self._forest.local_rows(step, rows)),
            slides=torch.from_numpy(self._forest.slides(step, rows)),
        )

    @property
    def sharpest(self) -> SharpestPatches | None:
        """Patches of all slides at the highest magnification; None if unknown for a slide."""
        known = [each.sharpest for each in self.slides]
        found = [each for each in known if each is not None]
        if len(found) < len(known):
            return None
        return SharpestPatches(
            found[0].mpp,
            sum(each.patches for each in found),
            sum(each.descendants for each in found),
        )


def unreachable_share(slide_input: SlideInput, looks: Sequence[Look]) -> float | None:
    """Return the share of the tissue that a model cannot reach; None if unknown.

    Over the slides of a patient, it is the mean, weighted by the area of the patches with tissue.

    Args:
        slide_input: input of the model, of a slide or a patient.
        looks: looks of its prediction, with places.
    """
    if not isinstance(slide_input, PatientInput):
        reach = tissue_reach(slide_input, looks)
        return None if reach is None else reach.unreachable
    lost = area = 0.0
    parts = split_looks(looks, len(slide_input.slides))
    for each, part in zip(slide_input.slides, parts, strict=True):
        reach, sharpest = tissue_reach(each, part), each.sharpest
        if reach is None or sharpest is None:
            return None
        weight = sharpest.patches * sharpest.mpp**2
        lost, area = lost + weight * reach.unreachable, area + weight
    return lost / area if area else 0.0
