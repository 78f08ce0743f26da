from collections import Counter
from pathlib import Path

import pytest

from parfocal.dataset import CohortSlide
from parfocal.dataset.sampler import BalancedSampler

SLIDES = [
    CohortSlide(str(n), Path(str(n)), "rare" if n < 4 else "common", str(n), n + 2)
    for n in range(40)
]


def drawn(seed: int, epoch: int, excluded: tuple[str, ...] = ()) -> list[int]:
    return list(BalancedSampler(SLIDES, seed=seed, epoch=lambda: epoch, excluded=excluded))


def test_a_rare_class_is_drawn_as_often_as_a_common_one():
    epochs = [drawn(0, epoch) for epoch in range(100)]
    assert {len(epoch) for epoch in epochs} == {40}
    labels = Counter(SLIDES[position].label for epoch in epochs for position in epoch)
    standard_error = (4000 * 0.5 * 0.5) ** 0.5
    assert abs(labels["rare"] - 2000) < 4 * standard_error


def test_an_epoch_draws_the_same_again_and_another_others():
    assert drawn(0, 3) == drawn(0, 3)
    assert drawn(0, 3) != drawn(0, 4)
    assert drawn(0, 3) != drawn(1, 3)


@pytest.mark.parametrize("seed", range(3))
def test_slides_left_out_are_not_drawn(seed):
    assert not {0, 1, 2, 20} & set(drawn(seed, 0, ("0", "1", "2", "20")))
    assert 3 in drawn(seed, 0, ("0", "1", "2", "20"))


def test_the_samples_of_a_seed_and_an_epoch_never_change():
    slides = [CohortSlide(str(n), Path(str(n)), "ab"[n % 3 == 0], str(n), n + 2) for n in range(12)]
    sampler = BalancedSampler(slides, seed=3, epoch=lambda: 2)
    assert list(sampler) == [5, 4, 3, 6, 3, 5, 0, 3, 10, 6, 6, 9]
