"""The looks of the slides of a patient, joined and split again."""

import torch

from parfocal.features.patient_looks import join_looks, split_looks
from parfocal.prediction import Look, Places


def looks(count: int, *, first: int) -> tuple[Look, Look]:
    """Return two looks: `count` patches, of which the last is zoomed into, and its two children."""
    boxes = torch.arange(4.0 * count).view(count, 4)
    low = Look(
        torch.arange(count) + first,
        torch.full((count,), 1 / count),
        torch.tensor([count - 1]),
        torch.linspace(0, 1, count),
        Places(boxes, torch.full((count,), 2.0), order=torch.arange(count)),
    )
    high = Look(
        torch.tensor([7, 8]),
        torch.tensor([0.25, 0.75]),
        places=Places(
            boxes[:1].repeat(2, 1),
            torch.ones(2),
            torch.tensor([count - 1, count - 1]),
            torch.tensor([count, -1]),
        ),
    )
    return low, high


def test_looks_are_split_as_they_were_joined():
    slides = [looks(3, first=0), looks(4, first=10), looks(2, first=0)]
    joined = join_looks(slides)
    assert joined[0].slides is not None
    assert joined[0].slides.tolist() == [0] * 3 + [1] * 4 + [2] * 2
    assert joined[0].selected is not None
    assert joined[0].selected.tolist() == [2, 6, 8]
    assert joined[1].places is not None
    assert joined[1].places.parents is not None
    assert joined[1].places.parents.tolist() == [2, 2, 6, 6, 8, 8]
    # The visits of the second slide follow those of the first.
    assert joined[0].places.order.tolist() == [0, 1, 2, 4, 5, 6, 7, 9, 10]
    assert joined[1].places.order.tolist() == [3, -1, 8, -1, 11, -1]
    for original, found in zip(slides, split_looks(joined, 3), strict=True):
        for one, other in zip(original, found, strict=True):
            assert other.slides is None
            for name in ("rows", "score", "selected", "zoom_attention"):
                first, second = getattr(one, name), getattr(other, name)
                assert (first is None) == (second is None)
                assert first is None or torch.equal(first, second)
            for name in ("boxes", "mpps", "parents", "order"):
                first, second = getattr(one.places, name), getattr(other.places, name)
                assert (first is None) == (second is None)
                assert first is None or torch.equal(first, second)


def test_scores_are_multiplied_by_the_share_of_the_slide():
    joined = join_looks([looks(3, first=0), looks(4, first=0)], weights=[0.25, 0.75])
    for look in joined:
        assert look.score.sum().item() == 1
        assert look.slides is not None
        assert look.score[look.slides == 1].sum().item() == 0.75


def test_probabilities_of_a_class_are_no_shares():
    (low, _), one = looks(3, first=0), torch.tensor([0.2, 0.9, 0.4])
    square = Look(low.rows, one, places=low.places, score_kind="class_probability")
    (joined,) = join_looks([(square,), (square,)], weights=[0.5, 0.5])
    assert joined.score.tolist() == [*one.tolist(), *one.tolist()]
