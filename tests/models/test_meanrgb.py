import numpy as np
import pytest
import torch

from parfocal.models.meanrgb import MeanRGB
from parfocal.slide.slide import slide_from_array
from sources import source


def halves(left: tuple[int, int, int], right: tuple[int, int, int]):
    """A slide of two colors."""
    pixels = np.empty((128, 128, 3), dtype=np.uint8)
    pixels[:, :64], pixels[:, 64:] = left, right
    return source(slide_from_array(pixels, mpp=1.0))


def colors(model: MeanRGB, slide) -> torch.Tensor:
    """What the classifier is given of a slide."""
    given = []
    model.classify.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    model([slide])
    return given[0][0]


def test_a_slide_is_the_mean_of_its_colors():
    mean = colors(MeanRGB(2, side=32, gray_spread=0), halves((200, 100, 50), (100, 0, 150)))
    assert ((mean + 1) / 2 * 255).tolist() == pytest.approx([150, 50, 100], abs=1)


def test_gray_does_not_count():
    mean = colors(MeanRGB(2, side=32), halves((200, 100, 50), (240, 240, 240)))
    assert ((mean + 1) / 2 * 255).tolist() == pytest.approx([200, 100, 50], abs=1)


def test_a_histogram_gives_the_shares_of_pixels():
    given = colors(MeanRGB(2, side=32, bins=2), halves((200, 100, 50), (100, 10, 150)))
    assert given[3:].tolist() == pytest.approx([0.5, 0.5, 1, 0, 0.5, 0.5])


def test_a_slide_without_color_has_none():
    assert colors(MeanRGB(2, side=32, bins=2), halves((200,) * 3, (9,) * 3)).tolist() == [0] * 9


def test_one_overview_is_looked_at():
    answer = MeanRGB(2, side=32)([halves((200, 100, 50), (100, 0, 150))] * 2)
    assert answer.logits.shape == (2, 2)
    (look,) = answer.slides[0].looks
    assert look.places.boxes.tolist() == [[0, 0, 128, 128]]
    assert look.places.mpps.tolist() == [4]


def test_it_learns_what_color_alone_tells():
    draw = np.random.default_rng(0)
    tints = [(180 + 40 * (n % 2), *draw.integers(90, 140, 2)) for n in range(8)]
    slides = [halves(tint, (245, 245, 245)) for tint in tints]
    labels = torch.arange(8) % 2
    torch.manual_seed(0)
    model = MeanRGB(2, side=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(model(slides).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model(slides).logits.argmax(dim=1).tolist() == labels.tolist()


def test_a_histogram_of_fewer_than_no_bins_is_refused():
    with pytest.raises(ValueError, match="bins=-1: a histogram has 1 bin or more"):
        MeanRGB(2, bins=-1)
