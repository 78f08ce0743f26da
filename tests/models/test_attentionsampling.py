"""ATS: patches of one magnification, sampled from attention over a thumbnail."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)

from parfocal.grid import GridError
from parfocal.models.attentionsampling import AttentionSampling
from parfocal.prediction import Prediction
from sources import picture, source


def model_of(**options) -> AttentionSampling:
    torch.manual_seed(0)
    settings = {"patch_size": 16, "thumbnail_px": 24, "k": 3}
    return AttentionSampling(2, **{**settings, **options}).eval()


def predict(model: AttentionSampling, *sources) -> tuple[Prediction, ...]:
    with torch.no_grad():
        return model(sources).slides


def test_every_pixel_of_the_thumbnail_is_a_cell():
    (prediction,) = predict(model_of(), source(picture()))
    (look,) = prediction.looks
    assert len(look.rows) == 24 * 16
    assert look.score.sum().item() == pytest.approx(1)
    assert (look.places.order >= 0).sum() == 3


def test_encoding_all_cells_gives_the_attention_weighted_mean_of_unit_features():
    model, pixels = model_of(inference="all"), source(picture())
    (prediction,) = predict(model, pixels)
    (look,) = prediction.looks
    patches = pixels.request(look.places.boxes, (16, 16)).result().float() / 255
    with torch.no_grad():
        mean = look.score @ F.normalize(model.encoder(patches))
        expected = model.patch_classifier.classifier(mean)
    torch.testing.assert_close(prediction.logits, expected)


def test_attention_smoothing_gives_every_cell_attention():
    model = model_of(attention_smoothing=0.5)
    (look,) = predict(model, source(picture()))[0].looks
    assert look.score.min() >= 0.5 / (24 * 16)


def test_cells_of_glass_get_no_attention():
    (look,) = predict(model_of(), source(picture(), glass=48))[0].looks
    assert (look.places.boxes[:, 0] + 16 > 48).all()
    assert look.score.sum().item() == pytest.approx(1)
    with pytest.raises(GridError, match="no cell contains tissue"):
        predict(model_of(), source(picture(), glass=96))


def test_every_weight_gets_a_gradient_from_slides_of_any_size():
    model = model_of().train()
    prediction = model([source(picture()), source(picture(48, 64, seed=1))])
    model.objective(prediction, torch.tensor([0, 1]), F.cross_entropy).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in model.parameters())


def test_the_objective_is_the_loss_minus_the_weighted_entropy():
    model, label = model_of(entropy_weight=0.5), torch.tensor([1])
    with torch.no_grad():
        prediction = model([source(picture())])
        found = model.objective(prediction, label, F.cross_entropy)
    attention = prediction.slides[0].looks[0].score
    entropy = -(attention * attention.log()).sum()
    torch.testing.assert_close(found, F.cross_entropy(prediction.logits, label) - 0.5 * entropy)


def test_more_than_one_magnification_is_refused():
    with pytest.raises(
        ValueError,
        match=r"magnifications=\[5, 10\]: attention sampling .* one magnification; set exactly one",
    ):
        model_of(magnifications=(5, 10))


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(GridError, match="smaller than one patch of 80 px"):
        predict(model_of(patch_size=80), source(picture()))
