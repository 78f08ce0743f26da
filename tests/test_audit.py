import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from parfocal.audit import Audit, AuditError, ExhaustiveBag, audit, regret_of
from parfocal.bag import Bag, StoredBag
from parfocal.dataset.inputs import LiveInputs
from parfocal.distribute.worklist import Distribution
from parfocal.models import ZoomMIL
from parfocal.models.checkpoint import Checkpoint, build_model
from parfocal.operating_point import OperatingPoint, Threshold
from parfocal.predict import predict
from parfocal.prediction import Look
from shared_work import SentEngine


def tables() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 5, generator=generator) for n in (6, 24, 96)]


def test_an_exhaustive_bag_zooms_into_all_children():
    bag = ExhaustiveBag(StoredBag(tables()))
    assert isinstance(bag, Bag)
    below = bag.zoom(torch.eye(6)[:2])
    assert below.rows.tolist() == list(range(24))
    assert below.features().equal(tables()[1])
    assert below.valid.all()


def test_an_exhaustive_bag_gives_attention_over_all_patches():
    torch.manual_seed(0)
    model = ZoomMIL(5, 2, dim=8, k=2).eval()
    pooled = []
    for step, table in enumerate(tables()):
        h = model.embedders[step](table)
        pooled.append(model.attention[step](h).softmax(dim=0) @ h)
    prediction = model(ExhaustiveBag(StoredBag(tables())))
    torch.testing.assert_close(prediction.logits, model.classifier(sum(pooled)))


def test_regret_is_the_attention_on_patches_that_were_not_visited():
    own = Look(torch.tensor([4, 5]), torch.tensor([0.5, 0.5]))
    whole = Look(torch.arange(6), torch.tensor([0.1, 0.2, 0.0, 0.1, 0.35, 0.25]))
    assert regret_of(own, whole) == pytest.approx(0.4)
    assert regret_of(whole, whole) == 0


@pytest.fixture
def cohort(tmp_path: Path, write_slide: Callable[..., Path]) -> Path:
    rows = []
    for number in range(3):
        write_slide(tmp_path / f"{number}.tif", dark=number == 1, seed=number)
        rows.append(f"{number},{number}.tif,{'tumor' if number == 1 else 'normal'}")
    rows.append("gone,gone.tif,normal")
    (tmp_path / "cohort.csv").write_text("\n".join(["slide_id,path,label", *rows]))
    return tmp_path / "cohort.csv"


def audited(trained: Checkpoint, cohort: Path, out: str = "audit", **options: object) -> Audit:
    run = cohort.parent / "run"
    trained.save(run)
    (run / "split.csv").write_text("slide_id,patient_id,label,split\n")
    return audit(run, cohort, cohort.parent / out, device="cpu", **options)


@pytest.mark.slow
def test_workers_audit_as_one_process(untrained, cohort):
    alone = audited(untrained, cohort)
    found = audited(untrained, cohort, "other", distribution=Distribution(engine=SentEngine()))
    assert (found.slides, found.failed) == (alone.slides, alone.failed)
    texts = [(cohort.parent / name / "audit.csv").read_text() for name in ("audit", "other")]
    assert texts[0] == texts[1]


def test_the_audit_lists_every_slide_and_a_summary(untrained, cohort):
    result = audited(untrained, cohort)
    summary = json.loads((cohort.parent / "audit/audit.json").read_text())
    names = {path.name for path in (cohort.parent / "audit").glob("*.jsonl")}
    assert names == {"audit.jsonl"}  # not that of `evaluate`, which may write to the same folder
    with (cohort.parent / "audit/audit.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["slide_id"] for row in rows] == ["0", "1", "2"]
    assert summary["slides"] == 3
    assert [failure["slide_id"] for failure in summary["failed"]] == ["gone"]
    regrets = [float(row["regret_10x"]) for row in rows]
    assert summary["regret"][1]["value"] == pytest.approx(sum(regrets) / 3, rel=1e-4)
    assert summary["regret"][0]["value"] == 0  # every patch is visited at the lowest magnification
    assert all(0 < regret < 1 for regret in regrets)
    same = [row["zoomed"] == row["exhaustive"] for row in rows]
    assert summary["agreement"]["value"] == pytest.approx(sum(same) / 3)
    assert result.summary.startswith("3 slides (normal 2, tumor 1): with every patch, ")
    assert summary["classes"] == {"normal": 2, "tumor": 1}
    assert summary["agreement"]["interval"] == "clopper-pearson"
    assert summary["accuracy"]["zoomed"]["interval"] == "clopper-pearson"


def test_the_audit_counts_the_patches_of_the_bill(untrained, cohort):
    """Every second patch at 10x is glass, so a count of rows would differ from one of patches."""
    result = audited(untrained, cohort)
    for each in result.slides:
        cost = predict(each.slide.path, untrained).cost
        assert each.visited == sum(cost.patches)
        assert each.patches == cost.exhaustive.patches
    visited, patches = (
        sum(getattr(each, key) for each in result.slides) for key in ("visited", "patches")
    )
    assert f"visited {visited:,} of {patches:,} patches" in result.summary
    summary = json.loads((cohort.parent / "audit/audit.json").read_text())
    assert summary["patches"] == {"visited": visited, "exhaustive": patches}
    assert "nothing to skip" not in result.summary


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([(59, 55)], "visited 59 of 55 patches (nothing to skip on this slide: encoding all "),
        ([(9, 55), (60, 55)], "visited 69 of 110 patches (nothing to skip on 1 of 2 slides: "),
        ([(55, 55)] * 2, "visited 110 of 110 patches (nothing to skip on all 2 slides: encoding "),
    ],
)
def test_the_audit_says_where_zooming_saves_nothing(untrained, cohort, counts, text):
    result = audited(untrained, cohort)
    pairs = zip(result.slides, counts, strict=False)
    slides = [replace(each, visited=seen, patches=every) for each, (seen, every) in pairs]
    summary = replace(result, slides=tuple(slides)).summary
    assert text in summary
    assert "patches at 10x costs no more, because a model that zooms also visits patches" in summary


def test_a_model_that_selects_every_patch_has_no_regret(untrained, cohort):
    settings = {**untrained.model_settings, "k": 1000}
    greedy = build_model("zoommil", settings).eval()
    greedy.load_state_dict(untrained.model.state_dict())
    result = audited(replace(untrained, model=greedy, model_settings=settings), cohort)
    assert result.agreement.value == 1
    assert result.difference.value == pytest.approx(0, abs=1e-6)
    assert [score.value for score in result.regret] == [0, 0]


def test_the_audited_class_is_that_of_the_threshold(untrained, cohort):
    always = OperatingPoint("0", {"tumor": Threshold(0.0)}, temperature=2.0)
    found = audited(replace(untrained, operating_point=always), cohort)
    with (cohort.parent / "audit" / "audit.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["zoomed"] for row in rows} == {row["exhaustive"] for row in rows} == {"tumor"}
    own = audited(untrained, cohort, "own").slides[0].zoomed
    halved = torch.tensor(own, dtype=torch.float64).log().div(2).softmax(dim=0).tolist()
    assert found.slides[0].zoomed == pytest.approx(halved)


def test_a_model_that_does_not_zoom_is_refused(untrained, cohort):
    settings = {"in_dim": untrained.encoders[0].dim, "num_classes": 2}
    mean = replace(
        untrained,
        model=build_model("mean", settings).eval(),
        model_name="mean",
        model_settings=settings,
        slide=replace(untrained.slide, magnifications=(10.0,)),
    )
    with pytest.raises(AuditError, match="model mean visits every patch already; use the run"):
        audited(mean, cohort)


def test_an_audit_is_not_made_again_for_finished_slides(
    untrained: Checkpoint, cohort: Path, monkeypatch: pytest.MonkeyPatch
):
    first = audited(untrained, cohort)
    files = {path: path.read_bytes() for path in (cohort.parent / "audit").glob("audit*")}

    def fail(*_: object) -> None:
        raise AssertionError("the slide was opened again")

    with monkeypatch.context() as patch:
        patch.setattr(LiveInputs, "open", fail)
        options = {"device": "cpu"}
        again = audit(cohort.parent / "run", cohort, cohort.parent / "audit", **options)
        assert again.slides == first.slides
        assert {path: path.read_bytes() for path in files} == files
        with pytest.raises(AuditError, match="all 4 slides failed"):
            audit(cohort.parent / "run", cohort, cohort.parent / "audit", again=True, **options)


def test_an_audit_in_which_every_slide_fails_names_the_first_reason(untrained, cohort):
    cohort.write_text("slide_id,path,label\ngone,gone.tif,normal\n")
    with pytest.raises(AuditError, match=r"the only slide failed; the first: .*gone\.tif"):
        audited(untrained, cohort)


def test_tissue_out_of_reach_is_regret():
    own, whole = (
        Look(torch.tensor([0]), torch.ones(1)),
        Look(torch.arange(2), torch.tensor([0.6, 0.4])),
    )
    assert regret_of(own, whole, 0.25) == pytest.approx(0.25 + 0.75 * 0.4)
    assert regret_of(whole, whole, 0.25) == 0.25


@pytest.mark.parametrize("roots", ["share", "descendants"])
def test_the_audit_counts_tissue_without_a_patch(untrained, tmp_path, roots):
    pixels = np.full((1024, 1024, 3), 245, dtype=np.uint8)
    pixels[:512, :512] = pixels[900:930, 700:900] = (200, 110, 170)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    cohort = tmp_path / "cohort.csv"
    cohort.write_text("slide_id,path,label,mpp\na,a.png,normal,1.0\n")
    slide = replace(untrained.slide, min_tissue=0.15, roots=roots)
    result = audited(replace(untrained, slide=slide), cohort)
    (regret,) = (slide.regret for slide in result.slides)
    summary = json.loads((tmp_path / "audit/audit.json").read_text())
    if roots == "descendants":
        assert summary["unreachable"]["value"] == regret[0] == 0
        assert "; 0.0% of the tissue out of reach; visited" in result.summary
    else:
        assert summary["unreachable"]["value"] == pytest.approx(0.019, abs=0.01)
        assert regret[0] > 0.005
        assert regret[1] > summary["unreachable"]["value"]
        with (tmp_path / "audit/audit.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert float(row["unreachable"]) == pytest.approx(summary["unreachable"]["value"], rel=1e-4)


def test_a_budget_limits_the_zoomed_prediction_only(untrained: Checkpoint, cohort: Path):
    own = audited(untrained, cohort)
    run = cohort.parent / "run"
    limited = audit(run, cohort, cohort.parent / "few", device="cpu", budget="patches=9")
    for ours, theirs in zip(limited.slides, own.slides, strict=True):
        assert ours.visited <= 9 < theirs.visited
        assert ours.exhaustive == theirs.exhaustive
        # Nothing of the highest magnification was visited.
        assert ours.regret[1] == pytest.approx(1)
    content = json.loads((cohort.parent / "few" / "audit.json").read_text())
    assert content["budget"] == "patches=9"
    assert content["sufficiency"]["share"] == 0.05


NUMBERS = {
    "regression": {"targets": ["a", "b"], "means": [2.0, 5.0], "deviations": [2.0, 4.0]},
    "multilabel": {"targets": ["er", "pr"]},
    "hazards": {"time": "t", "event": "e", "bins": 2, "edges": [4.0]},
}


@pytest.fixture
def numbers(cohort: Path) -> Path:
    """The three slides that can be read, with targets of several tasks; b of one is missing."""
    rows = ["slide_id,path,a,b,er,pr,t,e", "0,0.tif,1,2,0,1,3,1", "1,1.tif,4,,1,0,5,0"]
    cohort.write_text("\n".join([*rows, "2,2.tif,3,7,0,1,8,1"]))
    return cohort


@pytest.mark.parametrize("name", NUMBERS)
def test_a_task_without_classes_is_audited_by_its_scores(untrained, numbers, name):
    task = {"name": name, **NUMBERS[name]}
    result = audited(replace(untrained, task=task, labels=("one", "two")), numbers)
    content = json.loads((numbers.parent / "audit" / "audit.json").read_text())
    first = result.task.compared[0]
    scores = content["scores"]
    difference = scores["exhaustive"][first]["value"], scores["zoomed"][first]["value"]
    if None not in difference:
        lost = scores["exhaustive_minus_zoomed"][first]["value"]
        assert lost == pytest.approx(difference[0] - difference[1])
    assert result.agreement is None
    assert "accuracy" not in content
    assert content["sufficiency"] is None
    assert content["task"]["name"] == name
    assert content["regret"][0]["value"] == 0
    assert result.summary.startswith("3 slides: ")
    assert "; predictions differ by " in result.summary
    with (numbers.parent / "audit" / "audit.csv").open() as file:
        rows = list(csv.DictReader(file))
    outputs = list(result.task.answer(torch.zeros(2)).outputs)
    for row, each in zip(rows, result.slides, strict=True):
        assert [float(row[f"zoomed_{key}"]) for key in outputs] == pytest.approx(
            each.zoomed, rel=1e-4
        )
        assert float(row["loss_increase"]) == pytest.approx(each.loss_increase, rel=1e-4, abs=1e-6)
    if name == "regression":
        gaps = np.abs(np.subtract(result.slides[0].zoomed, result.slides[0].exhaustive))
        assert result.slides[0].difference == pytest.approx((gaps / [2, 4]).max())


def test_the_loss_of_cox_has_no_increase_on_one_slide(untrained, numbers):
    settings = {**untrained.model_settings, "num_classes": 1}
    task = {"name": "survival", "time": "t", "event": "e"}
    with torch.random.fork_rng():
        model = build_model("zoommil", settings).eval()
    trained = replace(untrained, model=model, model_settings=settings, task=task, labels=("risk",))
    result = audited(trained, numbers)
    assert result.loss_increase is None
    assert all(each.loss_increase is None for each in result.slides)
    assert result.summary.startswith("3 slides: concordance (Harrell) ")


def test_the_increase_of_the_loss_of_classes_is_that_of_the_cross_entropy(untrained, cohort):
    result = audited(untrained, cohort)
    for each in result.slides:
        c = untrained.labels.index(each.slide.label)
        expected = np.log(each.exhaustive[c]) - np.log(each.zoomed[c])
        assert each.loss_increase == pytest.approx(expected, abs=1e-6)
