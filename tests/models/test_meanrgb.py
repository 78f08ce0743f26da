import numpy as np
import pytest
import torch

from parfocal.models.meanrgb import MeanRGB
from parfocal.slide.slide import slide_from_array
from sources import source


def halves(left: tuple[int, int, int], right: tuple[int, int, int]):
    """Return a slide whose halves have different colors."""
    pixels = np.empty((128, 128, 3), dtype=np.uint8)
    pixels[:, :64], pixels[:, 64:] = left, right
    return source(slide_from_array(pixels, mpp=1.0))


def color_features(model: MeanRGB, slide) -> torch.Tensor:
    """Return the input of the classifier for a slide."""
    features = []
    model.classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    model([slide])
    return features[0][0]


def test_the_features_are_the_mean_color():
    mean = color_features(
        MeanRGB(2, thumbnail_px=32, gray_spread=0), halves((200, 100, 50), (100, 0, 150))
    )
    assert ((mean + 1) / 2 * 255).tolist() == pytest.approx([150, 50, 100], abs=1)


def test_gray_pixels_are_ignored():
    mean = color_features(MeanRGB(2, thumbnail_px=32), halves((200, 100, 50), (240, 240, 240)))
    assert ((mean + 1) / 2 * 255).tolist() == pytest.approx([200, 100, 50], abs=1)


def test_a_histogram_gives_the_shares_of_pixels():
    features = color_features(
        MeanRGB(2, thumbnail_px=32, bins=2), halves((200, 100, 50), (100, 10, 150))
    )
    assert features[3:].tolist() == pytest.approx([0.5, 0.5, 1, 0, 0.5, 0.5])


def test_the_features_of_a_slide_without_color_are_zero():
    assert (
        color_features(MeanRGB(2, thumbnail_px=32, bins=2), halves((200,) * 3, (9,) * 3)).tolist()
        == [0] * 9
    )


def test_the_look_is_the_whole_slide_as_a_thumbnail():
    prediction = MeanRGB(2, thumbnail_px=32)([halves((200, 100, 50), (100, 0, 150))] * 2)
    assert prediction.logits.shape == (2, 2)
    (look,) = prediction.slides[0].looks
    assert look.places.boxes.tolist() == [[0, 0, 128, 128]]
    assert look.places.mpps.tolist() == [4]


def test_it_learns_classes_that_differ_in_color():
    draw = np.random.default_rng(0)
    tints = [(180 + 40 * (n % 2), *draw.integers(90, 140, 2)) for n in range(8)]
    slides = [halves(tint, (245, 245, 245)) for tint in tints]
    labels = torch.arange(8) % 2
    torch.manual_seed(0)
    model = MeanRGB(2, thumbnail_px=16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(model(slides).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model(slides).logits.argmax(dim=1).tolist() == labels.tolist()


def test_a_negative_number_of_bins_is_refused():
    with pytest.raises(ValueError, match="bins=-1: set the number of histogram bins to 1 or more"):
        MeanRGB(2, bins=-1)
