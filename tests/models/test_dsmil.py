import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)

from parfocal.bag import StoredBag
from parfocal.models import DSMIL


@pytest.fixture
def rows():
    return torch.randn(9, 5, generator=torch.Generator().manual_seed(0))


def test_it_has_the_parameters_of_the_authors_model():
    assert sum(weight.numel() for weight in DSMIL(1024, 3).parameters()) == 160_006


def test_it_computes_the_published_logits(rows):
    model = DSMIL(5, 3).eval()
    scores, queries = model.instance_classifier(rows), model.query(rows)
    pooled = []
    for c in range(3):
        critical = scores[:, c].argmax()
        similarity = torch.stack([queries[i] @ queries[critical] for i in range(9)]) / 128**0.5
        pooled.append(similarity.softmax(dim=0) @ rows)
    prediction = model(StoredBag([rows]))
    torch.testing.assert_close(prediction.logits, model.classifier(torch.cat(pooled)))
    torch.testing.assert_close(prediction.terms["critical"], scores.max(dim=0).values)


def test_the_loss_is_the_mean_over_slide_and_critical_patches(rows):
    model = DSMIL(5, 3)
    prediction = model(StoredBag([rows]))
    expected = 0.0
    for logits in (prediction.logits, prediction.terms["critical"]):
        p = logits.sigmoid()
        expected -= 0.5 * (p[1].log() + (1 - p[0]).log() + (1 - p[2]).log()) / 3
    torch.testing.assert_close(
        model.objective(prediction, torch.tensor(1), F.cross_entropy), expected
    )


def test_the_loss_of_another_task_is_averaged_over_both_streams(rows):
    model = DSMIL(5, 3)
    prediction = model(StoredBag([rows]))
    target = torch.tensor([0.2, 0.5, 0.3])
    expected = 0.0
    for logits in (prediction.logits, prediction.terms["critical"]):
        expected += sum((logits[c] - target[c]) ** 2 for c in range(3)) / 3 / 2
    torch.testing.assert_close(model.objective(prediction, target, F.mse_loss), expected)


def test_features_are_concatenated_with_those_of_the_patches_that_contain_it(rows):
    generator = torch.Generator().manual_seed(1)
    mid, high = (torch.randn(n, 5, generator=generator) for n in (18, 72))
    concatenated = [torch.cat([rows[i // 8], mid[i // 4], high[i]]) for i in range(72)]
    model = DSMIL(5, 3, num_magnifications=3).eval()
    single = DSMIL(15, 3).eval()
    single.load_state_dict(model.state_dict())
    several, one = (
        model(StoredBag([rows, mid, high])),
        single(StoredBag([torch.stack(concatenated)])),
    )
    torch.testing.assert_close(several.logits, one.logits)
    torch.testing.assert_close(several.scores[2], one.scores[0])
    torch.testing.assert_close(several.scores[0], one.scores[0].view(9, 8).sum(dim=1))


def test_normalized_features_do_not_depend_on_scale_and_offset(rows):
    model = DSMIL(5, 3, normalize=True).eval()
    changed = model(StoredBag([7 * rows + 3])).logits
    torch.testing.assert_close(changed, model(StoredBag([rows])).logits, rtol=1e-3, atol=1e-4)


def test_patches_are_dropped_in_training_only(rows):
    model, reference = DSMIL(5, 3, patch_dropout=0.5), DSMIL(5, 3).eval()
    reference.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    (attention,) = model(StoredBag([rows])).scores
    assert 0 < (attention == 0).sum() < 9
    torch.testing.assert_close(attention.sum(), torch.tensor(1.0))
    tested = model.eval()(StoredBag([rows])).logits
    torch.testing.assert_close(tested, reference(StoredBag([rows])).logits)


def test_the_only_patch_is_never_dropped(rows):
    model = DSMIL(5, 3, patch_dropout=0.99)
    assert model(StoredBag([rows[:1]])).scores[0] == 1


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_an_invalid_dropout_rate_is_an_error(rate):
    with pytest.raises(ValueError, match=f"patch_dropout={rate}: a dropout rate is at least 0"):
        DSMIL(5, 3, patch_dropout=rate)
