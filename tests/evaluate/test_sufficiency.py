"""Whether the patches that a model attends to are enough, and whether they are needed."""

import pytest
import torch
from torch import nn

from parfocal.bag import Bag, ExhaustiveBag, StoredBag
from parfocal.evaluate.sufficiency import MaskedBag, measure_sufficiency, top_share
from parfocal.evaluate.sufficiency_summary import SufficiencySummary
from parfocal.models.layers.choosing import choose
from parfocal.models.limited_bag import Visited
from parfocal.models.zoommil import ZoomMIL
from parfocal.models.zoommil.topk import PerturbedTopK
from parfocal.prediction import Look, Prediction

ROOTS, CHILDREN = 10, 4


class LesionModel(nn.Module):
    """Predicts class 1 if it sees a patch of 1 at the highest magnification, which it attends to.

    The features of the lowest magnification are the order in which it wants the patches.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.topk = PerturbedTopK(k)

    def forward(self, bag: Bag) -> Prediction:
        want = bag.features()[:, 0]
        select = choose(bag, self.topk, want, bag.valid)
        first = Look(bag.rows, torch.full((len(want),), 1 / len(want)))
        if select is None:
            return Prediction(torch.tensor([1.0, 0.0]), (first,))
        below = bag.zoom(select)
        seen = below.features()[:, 0]
        found = float(seen.max())
        score = (seen + 1e-3).masked_fill(~below.valid, 0)
        second = Look(below.rows, score / score.sum())
        return Prediction(torch.tensor([0.5, found]), (first, second))


def slide(lesion_root: int) -> StoredBag:
    """Return a slide whose only lesion is a child of a root, wanted in the order of the roots."""
    want = torch.arange(ROOTS, 0, -1.0)[:, None] / ROOTS
    fine = torch.zeros(ROOTS * CHILDREN, 1)
    fine[lesion_root * CHILDREN] = 1
    return StoredBag([want, fine])


def measured(lesion_root: int, k: int, **options: float):
    model = LesionModel(k).eval()
    bag = slide(lesion_root)
    with torch.no_grad():
        return measure_sufficiency(model, bag, model(ExhaustiveBag(bag)), **options)


def test_the_class_is_that_of_the_threshold():
    argmax, low = measured(2, 8), measured(2, 8, decision=0.01)
    assert (argmax.sufficient, low.sufficient) == (ROOTS + 3 * CHILDREN, ROOTS)
    assert (argmax.same_class[2], low.same_class[2]) == (False, True)
    assert low.removed == argmax.removed
    cold = measured(2, 8, decision=0.01, temperature=0.01)
    assert cold.same_class[2] is False
    assert max(cold.removed) < 0.01


def test_enough_are_the_patches_up_to_the_lesion():
    found = measured(lesion_root=2, k=8)
    assert found.sufficient == ROOTS + 3 * CHILDREN
    assert measured(lesion_root=0, k=8).sufficient == ROOTS + CHILDREN


def test_a_lesion_out_of_reach_needs_no_patch_for_the_other_class():
    assert measured(lesion_root=9, k=2).sufficient == ROOTS


def test_the_patches_with_the_most_attention_are_needed_and_enough():
    found = measured(lesion_root=2, k=8)
    assert found.same_class[0] is True  # the 2 of 40 patches that are kept contain the lesion
    assert found.same_class[2] is False  # without them it is gone
    assert found.same_class[3] is True  # two random ones of 40 are others
    assert found.kept > found.kept_at_random
    assert all(each < 0.5 for each in found.removed)
    assert found.removed_at_random[0] > 0.5


def test_a_slide_with_one_patch_at_the_lowest_magnification_is_measured():
    fine = torch.zeros(CHILDREN, 1)
    fine[1] = 1
    bag = StoredBag([torch.ones(1, 1), fine])
    model = LesionModel(1).eval()
    with torch.no_grad():
        found = measure_sufficiency(model, bag, model(ExhaustiveBag(bag)))
    assert found.same_class[0] is True
    assert found.removed[0] < 0.5  # the lesion is removed, and not the only patch around it


def test_keeping_every_patch_gives_the_answer_of_every_patch_bit_by_bit():
    torch.manual_seed(0)
    model = ZoomMIL(5, 2, dim=8, k=2).eval()
    exists = torch.rand(96) < 0.8
    exists[0] = True
    middle = exists.view(24, 4).any(dim=1)
    valid = [middle.view(6, 4).any(dim=1), middle, exists]
    tables = [torch.randn(n, 5) * mask[:, None] for n, mask in zip((6, 24, 96), valid, strict=True)]
    bag = StoredBag(tables, valid=valid)
    kept = {step: torch.ones(n, dtype=torch.bool) for step, n in enumerate((6, 24, 96))}
    with torch.no_grad():
        every = model(ExhaustiveBag(bag))
        masked = model(MaskedBag(bag, kept, Visited()))
        unmasked = model(MaskedBag(bag, {}, Visited()))
    assert torch.equal(every.logits, masked.logits)
    assert torch.equal(every.logits, unmasked.logits)


def test_a_removed_patch_does_not_exist_and_has_no_features():
    bag = slide(0)
    kept = torch.ones(ROOTS, dtype=torch.bool)
    kept[3] = False
    masked = MaskedBag(bag, {0: kept}, Visited())
    assert masked.valid.tolist() == kept.tolist()
    assert masked.features()[3].item() == 0
    assert len(masked.zoom(None).rows) == ROOTS * CHILDREN


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.2, 2), (0.25, 3), (1.0, 9)])
def test_a_share_of_the_existing_patches_is_rounded_up_and_leaves_one(share: float, count: int):
    valid = torch.ones(12, dtype=torch.bool)
    valid[:2] = False
    top = top_share(torch.arange(12.0), valid, share)
    assert int(top.sum()) == count
    assert not top[:2].any()
    assert top[-count:].all()


def test_the_summary_counts_where_random_patches_suffice_as_well():
    slides = tuple(measured(root, 8) for root in (0, 2))
    summary = SufficiencySummary(slides, ("a", "b"))
    content = summary.to_dict()
    assert content["sufficient"]["value"] == ROOTS + 2 * CHILDREN  # type: ignore[index]
    assert content["keep"]["same_class"]["value"] == 1  # type: ignore[index]
    assert content["remove"]["same_class"]["value"] == 0  # type: ignore[index]
    assert summary.text.startswith("on average, 18.0 patches are enough for the class of a slide")
