"""ZoomMIL against plain versions, and on slides whose class only zooming can reveal."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Int64
from torch import Tensor, nn

from parfocal.bag import StoredBag
from parfocal.models.zoommil.model import ZoomMIL, min_max_scaled

OFFICIAL_SHAPES = {
    **{f"fc_{level}_mag.0": (512, 1024) for level in ("low", "mid", "high")},
    **{
        f"{head}_{level}_mag.attention_{branch}": shape
        for head, levels in (("ga", ("low", "mid", "high")), ("aux_ga", ("low", "mid")))
        for level in levels
        for branch, shape in (("a.0", (256, 512)), ("b.0", (256, 512)), ("c", (1, 256)))
    },
    "classify_head": (3, 512),
}


class CountingTable:
    """A feature table that counts the rows that are read."""

    def __init__(self, table: Tensor) -> None:
        self.table, self.count = table, 0

    @property
    def shape(self) -> torch.Size:
        return self.table.shape

    def __getitem__(self, rows: Int64[Tensor, " n"], /) -> Tensor:
        self.count += len(rows)
        return self.table[rows]


def tables_of(*counts: int, dim: int = 8, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, dim, generator=generator).to(dtype) for n in counts]


def small(**settings) -> ZoomMIL:
    torch.manual_seed(0)
    settings = {"dim": 16, "k": 3, "dropout": 0.0, **settings}
    return ZoomMIL(8, 2, **settings)


def official_weights() -> dict[str, Tensor]:
    """Return random weights with the names and shapes of the released model."""
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for part, shape in OFFICIAL_SHAPES.items():
        weights[f"{part}.weight"] = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        weights[f"{part}.bias"] = torch.randn(shape[0], generator=generator)
    return weights


def official_logits(weights: dict[str, Tensor], tables: list[Tensor], k: int) -> Tensor:
    """Compute the released algorithm in evaluation mode, in plain steps."""

    def linear(part: str, x: Tensor) -> Tensor:
        return x @ weights[f"{part}.weight"].T + weights[f"{part}.bias"]

    def attention(head: str, h: Tensor) -> Tensor:
        tanh = torch.tanh(linear(f"{head}.attention_a.0", h))
        gate = torch.sigmoid(linear(f"{head}.attention_b.0", h))
        return linear(f"{head}.attention_c", tanh * gate)[:, 0].softmax(dim=0)

    tables, slide = list(tables), torch.zeros(512)
    for step, level in enumerate(("low", "mid", "high")):
        h = linear(f"fc_{level}_mag.0", tables[step]).clamp(min=0)
        slide = slide + attention(f"ga_{level}_mag", h) @ h
        if level != "high":
            best = attention(f"aux_ga_{level}_mag", h).argsort(descending=True)[:k].sort().values
            for below in range(step + 1, 3):
                children = tables[below].view(len(h), -1, 1024)
                tables[below] = children[best].reshape(-1, 1024)
    return linear("classify_head", slide)


def test_the_three_level_model_has_the_parameters_of_the_released_one():
    assert sum(weight.numel() for weight in ZoomMIL(1024, 3).parameters()) == 2_890_504


def test_the_official_weights_give_the_official_logits():
    weights, tables = official_weights(), tables_of(20, 80, 1280, dim=1024)
    model = ZoomMIL(1024, 3, k=5)
    model.load_official(weights)
    ours = model.eval()(StoredBag(tables)).logits
    torch.testing.assert_close(ours, official_logits(weights, tables, 5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"classify_head.bias": torch.zeros(4)},
            r"classifier.bias is \(4,\) in the weights and \(3,\) in the model",
        ),
        (
            {"other.weight": torch.zeros(1)},
            r"other.weight is \(1,\) in the weights and no such weight in the model",
        ),
    ],
)
def test_official_weights_of_another_shape_are_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        ZoomMIL(1024, 3).load_official(official_weights() | change)


def test_official_weights_do_not_fit_another_number_of_magnifications():
    with pytest.raises(ValueError, match="is missing in the weights and"):
        ZoomMIL(1024, 3, num_magnifications=4).load_official(official_weights())


def test_in_evaluation_only_children_of_selected_patches_are_read():
    tables = [CountingTable(table) for table in tables_of(10, 40, 640)]
    small(k=3).eval()(StoredBag(tables))
    assert [table.count for table in tables] == [10, 4 * 3, 16 * 3]


def test_in_evaluation_any_feature_table_gives_the_bits_of_a_tensor():
    tables, model = tables_of(10, 40, 640), small().eval()
    read = model(StoredBag([CountingTable(table) for table in tables]))
    assert read.logits.equal(model(StoredBag(tables)).logits)


def test_in_evaluation_zooming_copies_features_bit_for_bit():
    (low, mid, high), model = tables_of(10, 40, 640), small().eval()
    prediction = model(StoredBag((low, mid, high)))
    pooled = []
    for step, (table, look) in enumerate(zip((low, mid, high), prediction.looks, strict=True)):
        h = model.embedders[step](table[look.rows])
        pooled.append(model.attention[step](h).softmax(dim=0) @ h)
    assert prediction.logits.equal(model.classifier(torch.stack(pooled).sum(dim=0)))


def test_in_training_logits_and_gradients_equal_those_of_dense_kronecker_matrices():
    tables, generator = tables_of(10, 40, 640, dtype=torch.float64), torch.Generator()
    model = small(generator=generator, sigma=0.02).double()

    def dense() -> Tensor:
        mixed, slide = list(tables), torch.zeros(16, dtype=torch.float64)
        for step in range(3):
            h = model.embedders[step](mixed[step])
            slide = slide + model.attention[step](h).softmax(dim=0) @ h
            if step < 2:
                select = model.topks[step](model.zoom_attention[step](h).softmax(dim=0))
                for below in range(step + 1, 3):
                    eye = torch.eye(len(mixed[below]) // len(h), dtype=torch.float64)
                    mixed[below] = torch.kron(select, eye) @ mixed[below]
        return model.classifier(slide)

    results = []
    for answer in (lambda: model(StoredBag(tables)).logits, dense):
        generator.manual_seed(3)
        logits = answer()
        results.append((logits, torch.autograd.grad(logits[0], list(model.parameters()))))
    torch.testing.assert_close(*results)


def test_selecting_everything_is_the_sum_of_attention_models_of_each_magnification():
    tables, model = tables_of(3, 6, 24), small(k=100)
    pooled = []
    for embed, attend, table in zip(model.embedders, model.attention, tables, strict=True):
        h = embed(table)
        pooled.append(attend(h).softmax(dim=0) @ h)
    expected = model.classifier(sum(pooled))
    for training in (True, False):
        torch.testing.assert_close(model.train(training)(StoredBag(tables)).logits, expected)


def test_the_order_of_parents_does_not_matter():
    low, mid, high = tables_of(10, 40, 640)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(2))
    moved = [table.view(10, -1, 8)[order].reshape(-1, 8) for table in (low, mid, high)]
    model = small().eval()
    torch.testing.assert_close(
        model(StoredBag(moved)).logits, model(StoredBag((low, mid, high))).logits
    )


def test_the_zoom_attention_gets_a_gradient_in_training_only():
    tables, model = tables_of(10, 40, 640), small()
    for training in (False, True):
        model.zero_grad()
        model.train(training)(StoredBag(tables)).logits[0].backward()
        for attention in model.zoom_attention:
            grad = attention.score.weight.grad
            assert (grad is not None and bool(grad.any())) is training


def test_the_same_seed_gives_the_same_bits_in_training():
    tables = tables_of(10, 40, 640)

    def logits() -> Tensor:
        return small(generator=torch.Generator().manual_seed(0))(StoredBag(tables)).logits

    assert logits().equal(logits())


def test_a_look_lists_the_patches_and_the_selected_ones():
    looks = small().eval()(StoredBag(tables_of(10, 40, 640))).looks
    assert [len(look.rows) for look in looks] == [10, 12, 48]
    for look, next_look in pairwise(looks):
        best = look.zoom_attention.topk(3).indices.sort().values
        assert look.selected.equal(best)
        parents = next_look.rows.view(3, -1)[:, 0] // (len(next_look.rows) // 3)
        assert look.rows[look.selected].equal(parents)
    assert looks[-1].selected is None
    assert looks[-1].zoom_attention is None


@pytest.mark.parametrize("training", [True, False])
def test_attention_sums_to_one_and_is_detached(training):
    prediction = small().train(training)(StoredBag(tables_of(10, 40, 640)))
    for attention in prediction.scores:
        torch.testing.assert_close(attention.sum(), torch.tensor(1.0))
        assert not attention.requires_grad


@pytest.mark.parametrize("scale_free", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_patches_that_do_not_exist_change_nothing(training, scale_free):
    def results_with(placeholder: float) -> tuple[Tensor, ...]:
        tables = tables_of(4, 16)
        valid = (torch.ones(4, dtype=torch.bool), torch.arange(16) % 4 != 3)
        tables[1][~valid[1]] = placeholder
        valid[0][2], tables[0][2] = False, placeholder
        tables[1][8:12], valid[1][8:12] = placeholder, False
        generator = torch.Generator().manual_seed(0)
        model = small(
            num_magnifications=2, k=2, sigma=0.1, generator=generator, scale_free=scale_free
        )
        prediction = model.train(training)(StoredBag(tables, valid=valid))
        assert prediction.looks[0].score[2] == 0
        assert prediction.looks[0].zoom_attention[2] == 0
        assert prediction.looks[1].score[3::4].count_nonzero() == 0
        return prediction.logits, *prediction.scores

    for one, other in zip(results_with(0.0), results_with(100.0), strict=True):
        assert one.equal(other)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_magnifications_is_possible(count):
    tables = tables_of(5, 10, 40, 80)[:count]
    prediction = small(num_magnifications=count)(StoredBag(tables))
    assert len(prediction.looks) == count
    assert prediction.logits.shape == (2,)


def test_each_zoom_may_have_its_own_k():
    looks = small(k=(2, 5)).eval()(StoredBag(tables_of(10, 40, 640))).looks
    assert [len(look.rows) for look in looks] == [10, 8, 80]


def test_with_a_single_head_the_pooling_attention_also_zooms():
    model = small(heads="single").eval()
    look = model(StoredBag(tables_of(10, 40, 640))).looks[0]
    assert look.zoom_attention.equal(look.score)
    assert len(model.zoom_attention) == 0


def test_min_max_scaled_scores_range_from_0_to_1():
    scores = torch.tensor([3.0, 1.0, 2.0, 900.0])
    valid = torch.tensor([True, True, True, False])
    for scaled in (scores, 10 * scores - 7):
        torch.testing.assert_close(
            min_max_scaled(scaled, valid)[valid], torch.tensor([1.0, 0.0, 0.5]), rtol=0, atol=1e-5
        )


def test_only_scale_free_noise_falls_during_training():
    for scale_free, sigma in ((True, 0.1), (False, 0.4)):
        model = small(scale_free=scale_free, sigma=0.4)
        model.set_progress(0.75)
        assert [topk.sigma for topk in model.topks] == pytest.approx([sigma, sigma])


def test_with_hindsight_training_begins_with_more_patches():
    model, bag = small(num_magnifications=2, k=3, hindsight=True), StoredBag(tables_of(20, 80))
    assert len(model(bag).looks[0].selected) == 6
    model.set_progress(0.6)
    assert len(model(bag).looks[0].selected) == 3


def test_the_hindsight_loss_trains_only_the_zoom_attention_and_its_embedding():
    model = small(hindsight=True)
    model.set_progress(1.0)
    model(StoredBag(tables_of(10, 40, 640))).terms["hindsight"].backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert all(
        name.startswith(("zoom_attention.", "embedders.0", "embedders.1")) for name in trained
    )
    assert any(name.startswith("zoom_attention.1.") for name in trained)


def test_without_hindsight_the_objective_is_the_loss_of_the_task():
    model, label = small(), torch.tensor(1)
    prediction = model(StoredBag(tables_of(10, 40, 640)))
    expected = nn.functional.cross_entropy(prediction.logits, label)
    assert model.objective(prediction, label, F.cross_entropy).equal(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale_free": True, "hindsight": True}, "hindsight selects without noise"),
        ({"num_magnifications": 0}, "num_magnifications=0: at least 1"),
        ({"heads": "triple"}, "heads='triple' is unknown; use one of"),
        ({"k": (3, 4, 5)}, r"k=\[3, 4, 5\] has 3 numbers, but 3 magnifications have 2 zooms"),
    ],
)
def test_invalid_settings_are_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_a_bag_with_fewer_magnifications_than_the_model_is_an_error():
    with pytest.raises(ValueError, match="has 2 magnifications, and this is the highest"):
        small()(StoredBag(tables_of(10, 40)))


def planted(seed: int, count: int) -> list[tuple[StoredBag, int, Tensor]]:
    """Return bags, labels and where to zoom; every second slide has a lesion, visible in children.

    Four of the 24 parents of every slide stand out by feature 0; in slides with a lesion, their
    children stand out by feature 1.
    """
    generator = torch.Generator().manual_seed(seed)
    slides = []
    for index in range(count):
        low, high = (torch.randn(n, 16, generator=generator) for n in (24, 96))
        marked = torch.randperm(24, generator=generator)[:4]
        low[marked, 0] += 4
        if index % 2:
            high.view(24, 4, 16)[marked, :, 1] += 4
        slides.append((StoredBag((low, high)), index % 2, marked))
    return slides


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"scale_free": True, "sigma": 0.05}, marks=pytest.mark.slow),
        pytest.param({}, marks=pytest.mark.slow),
        {"hindsight": True},
    ],
)
def test_it_learns_to_zoom_into_the_patches_that_determine_the_class(settings):
    torch.manual_seed(0)
    model = ZoomMIL(16, 2, num_magnifications=2, dim=32, k=4, **settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    epochs, slides = 12, planted(0, 30)
    for epoch in range(epochs):
        model.set_progress(epoch / epochs)
        for bag, label, _ in slides:
            optimizer.zero_grad()
            model.objective(model(bag), torch.tensor(label), F.cross_entropy).backward()
            optimizer.step()
    model.eval()
    scores, hits = {0: [], 1: []}, []
    for bag, label, marked in planted(1, 60):
        prediction = model(bag)
        scores[label].append(float(prediction.logits.detach().diff()))
        hits.append(float(torch.isin(marked, prediction.looks[0].selected).double().mean()))
    higher = [one > zero for one in scores[1] for zero in scores[0]]
    assert sum(higher) / len(higher) > 0.9  # the area under the ROC curve
    assert sum(hits) / len(hits) > 2 * 4 / 24  # twice the rate of chance
