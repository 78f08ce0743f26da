"""Late fusion: the predictions for the slides of a patient joined into one."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from parfocal.bag import SeparateSlides, StoredBag
from parfocal.models.abmil import ABMIL
from parfocal.models.clam import CLAM
from parfocal.models.contract import run_model
from parfocal.models.covariates import attach_covariates, fit_covariates
from parfocal.models.late_fusion import attach_fusion, fuse_logits, run_separately
from parfocal.models.meanrgb import MeanRGB
from parfocal.models.sparseconvmil import SparseConvMIL
from parfocal.prediction import Prediction
from sources import picture, source


def separate(slides: list[StoredBag], fusion: str) -> SeparateSlides:
    return SeparateSlides(tuple(slides), fusion, lambda slide: nullcontext())


def bags(*counts: int) -> list[StoredBag]:
    generator = torch.Generator().manual_seed(0)
    return [StoredBag([torch.randn(count, 4, generator=generator)]) for count in counts]


def model(**settings: int) -> ABMIL:
    torch.manual_seed(0)
    return ABMIL(4, 3, dim=8, hidden_dim=4, **settings).eval()


def test_mean_is_that_of_the_probabilities():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
    fused, shares = fuse_logits(logits, "mean")
    torch.testing.assert_close(fused.softmax(0), logits.softmax(1).mean(0))
    assert shares.tolist() == [0.5, 0.5]
    assert fuse_logits(logits, "mean-logits")[0].tolist() == [1.0, 0.5, 1.0]


def test_the_mean_of_one_slide_is_the_slide():
    logits = torch.randn(1, 3)
    assert torch.equal(fuse_logits(logits, "mean")[0], logits[0])


def test_max_is_the_slide_with_the_lowest_probability_of_the_first_class():
    logits = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [9.0, 9.5]])
    fused, shares = fuse_logits(logits, "max")
    assert torch.equal(fused, logits[1])
    assert shares.tolist() == [0, 1, 0]
    risks = torch.tensor([[0.1], [2.0], [-3.0]])
    assert fuse_logits(risks, "max-logits")[0].tolist() == [2.0]


def test_a_patient_has_each_label_that_a_slide_has():
    fused, shares = fuse_logits(torch.tensor([[3.0, -4.0], [-4.0, 2.0], [0.0, 0.0]]), "max-logits")
    assert fused.tolist() == [3.0, 2.0]
    assert shares.tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("fusion", ["mean", "max", "attention"])
def test_the_scores_of_a_patient_sum_to_one(fusion):
    each = model()
    attach_fusion(each, fusion)
    with torch.no_grad():
        prediction = run_model(each, [separate(bags(5, 3), fusion)])
    (look,) = prediction.looks
    assert look.slides is not None
    assert look.slides.tolist() == [0] * 5 + [1] * 3
    assert look.rows.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert look.score.sum().item() == pytest.approx(1)


def test_attention_classifies_the_weighted_mean_of_the_vectors():
    each = model()
    attach_fusion(each, "attention")
    vectors: list[Tensor] = []
    hook = each.classifier.register_forward_hook(lambda layer, given, out: vectors.append(given[0]))
    slides = bags(5, 3, 2)
    for slide in slides:
        each(slide)
    hook.remove()
    stacked = torch.stack(vectors)
    weights = each.fusion_head(stacked).softmax(0)
    fused = run_separately(each, separate(slides, "attention")).logits
    torch.testing.assert_close(fused, each.classifier((weights[:, None] * stacked).sum(0)))
    fused.sum().backward()
    assert each.fusion_head.score.weight.grad is not None


def test_models_without_a_vector_of_the_slide_are_refused():
    with pytest.raises(ValueError, match=r"SparseConvMIL has no single linear last layer"):
        attach_fusion(SparseConvMIL(4, 2), "attention")
    multi = CLAM(4, 2, dim=8, hidden_dim=4, branches="multiple").eval()
    attach_fusion(multi, "attention")
    with pytest.raises(ValueError, match=r"CLAM does not call its last layer on a vector of the"):
        run_separately(multi, separate(bags(5, 3), "attention"))


def test_objectives_over_the_patches_of_a_slide_are_refused_with_attention():
    single = CLAM(4, 2, dim=8, hidden_dim=4, branches="single").train()
    attach_fusion(single, "attention")
    with pytest.raises(ValueError, match=r"training objective \(instances\) is defined for the"):
        run_separately(single, separate(bags(30, 30), "attention"))


def test_scalar_terms_of_an_objective_are_averaged():
    class Scored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(4, 2)

        def forward(self, bag: StoredBag) -> Prediction:
            rows = bag.features()
            return Prediction(
                self.classifier(rows.mean(0)), terms={"extra": torch.tensor(float(len(rows)))}
            )

    scored = Scored()
    attach_fusion(scored, "attention")
    prediction = run_separately(scored, separate(bags(5, 3), "attention"))
    assert prediction.terms["extra"] == 4


def test_models_that_take_pixels_are_run_slide_by_slide():
    torch.manual_seed(0)
    colors = MeanRGB(2, thumbnail_px=8).eval()
    sources = [source(picture(seed=seed)) for seed in (0, 1)]
    patients = [
        SeparateSlides(tuple(sources), "mean", lambda slide: nullcontext()),
        SeparateSlides((sources[0],), "mean", lambda slide: nullcontext()),
    ]
    with torch.no_grad():
        batch = run_model(colors, patients)
        alone = colors(sources).logits
    assert batch.logits.shape == (2, 2)
    torch.testing.assert_close(batch.logits[0].softmax(0), alone.softmax(1).mean(0))
    torch.testing.assert_close(batch.logits[1], alone[0])


@pytest.mark.parametrize("fusion", ["mean", "max"])
def test_covariates_are_those_of_each_slide_before_the_fusion(fusion):
    each, slides = model(), bags(5, 3)
    attach_covariates(each, fit_covariates(("age",), [{"age": "5"}, {"age": "7"}]), 3)
    nn.init.normal_(each.covariate_head.weight)
    given = torch.tensor([[1.5, 0.0]])
    with torch.no_grad():
        fused = run_model(each, [separate(slides, fusion)], covariates=given).logits
        alone = [run_model(each, [slide], covariates=given).logits for slide in slides]
    torch.testing.assert_close(fused, fuse_logits(torch.stack(alone), fusion)[0])
