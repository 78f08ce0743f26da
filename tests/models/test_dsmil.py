import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.models import DSMIL


@pytest.fixture
def rows():
    return torch.randn(9, 5, generator=torch.Generator().manual_seed(0))


def test_it_has_the_parameters_of_the_authors_model():
    assert sum(weight.numel() for weight in DSMIL(1024, 3).parameters()) == 160_006


def test_it_is_the_published_model_class_by_class(rows):
    model = DSMIL(5, 3).eval()
    scores, queries = model.score(rows), model.query(rows)
    pooled = []
    for c in range(3):
        critical = scores[:, c].argmax()
        likeness = torch.stack([queries[i] @ queries[critical] for i in range(9)]) / 128**0.5
        pooled.append(likeness.softmax(dim=0) @ rows)
    prediction = model(StoredBag([rows]))
    torch.testing.assert_close(prediction.logits, model.classify(torch.cat(pooled)))
    torch.testing.assert_close(prediction.terms["critical"], scores.max(dim=0).values)


def test_the_loss_asks_slide_and_critical_patches_alike(rows):
    model = DSMIL(5, 3)
    prediction = model(StoredBag([rows]))
    expected = 0.0
    for answer in (prediction.logits, prediction.terms["critical"]):
        chance = answer.sigmoid()
        expected -= 0.5 * (chance[1].log() + (1 - chance[0]).log() + (1 - chance[2]).log()) / 3
    torch.testing.assert_close(model.objective(prediction, torch.tensor(1)), expected)


def test_a_patch_is_joined_with_those_it_lies_in(rows):
    generator = torch.Generator().manual_seed(1)
    mid, high = (torch.randn(n, 5, generator=generator) for n in (18, 72))
    joined = [torch.cat([rows[i // 8], mid[i // 4], high[i]]) for i in range(72)]
    model = DSMIL(5, 3, num_magnifications=3).eval()
    alone = DSMIL(15, 3).eval()
    alone.load_state_dict(model.state_dict())
    several, one = model(StoredBag([rows, mid, high])), alone(StoredBag([torch.stack(joined)]))
    torch.testing.assert_close(several.logits, one.logits)
    torch.testing.assert_close(several.attention[2], one.attention[0])
    torch.testing.assert_close(several.attention[0], one.attention[0].view(9, 8).sum(dim=1))


def test_normalized_features_do_not_ask_for_scale_or_brightness(rows):
    model = DSMIL(5, 3, normalize=True).eval()
    changed = model(StoredBag([7 * rows + 3])).logits
    torch.testing.assert_close(changed, model(StoredBag([rows])).logits, rtol=1e-3, atol=1e-4)


def test_patches_are_left_out_in_training_and_never_in_testing(rows):
    model, everything = DSMIL(5, 3, patch_dropout=0.5), DSMIL(5, 3).eval()
    everything.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    (attention,) = model(StoredBag([rows])).attention
    assert 0 < (attention == 0).sum() < 9
    torch.testing.assert_close(attention.sum(), torch.tensor(1.0))
    tested = model.eval()(StoredBag([rows])).logits
    torch.testing.assert_close(tested, everything(StoredBag([rows])).logits)


def test_the_only_patch_is_never_left_out(rows):
    model = DSMIL(5, 3, patch_dropout=0.99)
    assert model(StoredBag([rows[:1]])).attention[0] == 1


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_of_patches_left_out_is_less_than_all(share):
    with pytest.raises(ValueError, match=f"patch_dropout={share}: give 0 or more"):
        DSMIL(5, 3, patch_dropout=share)
