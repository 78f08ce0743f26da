"""The models of all folds of a run answer together."""

import json
from dataclasses import replace
from statistics import mean, stdev

import numpy as np
import pytest
import torch

from parfocal.explain.read_record import RecordError, read_prediction
from parfocal.models.checkpoint import build_model
from parfocal.models.description import CheckpointError
from parfocal.models.ensemble import as_ensemble, load_trained
from parfocal.models.visit import given_budget
from parfocal.operating_point import OperatingPoint, Threshold
from parfocal.predict import predict
from parfocal.slide.slide import Slide

FOLDS = 3


@pytest.fixture(scope="module")
def run(untrained, tmp_path_factory):
    """A run with three folds of different weights; each has its own threshold."""
    folder = tmp_path_factory.mktemp("ensemble")
    for number in range(FOLDS):
        with torch.random.fork_rng():
            torch.manual_seed(number)
            model = build_model("zoommil", untrained.model_settings).eval()
            for weights in model.parameters():
                weights.data += 0.3 * torch.randn_like(weights)
        point = OperatingPoint("youden", {"tumor": Threshold(0.1 + 0.2 * number)}, slides=5)
        member = replace(untrained, model=model, operating_point=point)
        member.save(folder / f"fold-{number}")
    return folder


@pytest.fixture
def reads(monkeypatch):
    """The boxes that are read from the slide at the magnifications of the model."""
    boxes = []
    original = Slide.read

    def read(self, box, mpp, **options):
        if not options:  # else to find tissue
            boxes.append((box, mpp))
        return original(self, box, mpp, **options)

    monkeypatch.setattr(Slide, "read", read)
    return boxes


def test_the_answer_is_the_mean_of_the_folds_and_each_patch_is_read_once(run, slide, reads):
    record = predict(slide, load_trained(run))
    assert len(reads) == len(set(reads))
    together = set(reads)
    alone, boxes = [], []
    for number in range(FOLDS):
        reads.clear()
        alone.append(predict(slide, load_trained(run / f"fold-{number}")))
        boxes.append(set(reads))
    assert together == set.union(*boxes)
    assert len(together) < sum(map(len, boxes))
    for label in ("normal", "tumor"):
        values = [each.probabilities[label] for each in alone]
        assert record.probabilities[label] == mean(values)
        assert record.spread[label] == stdev(values)
    assert record.spread["tumor"] > 0
    assert [each.name for each in record.members] == ["fold-0", "fold-1", "fold-2"]
    for member, own in zip(record.members, alone, strict=True):
        assert member.probabilities == own.probabilities
        assert member.weights_sha256 == own.model.weights_sha256
        assert member.patches == own.cost.patches
    added = [member.added.patches for member in record.members]
    assert record.cost.patches == tuple(map(sum, zip(*added, strict=True)))
    assert sum(record.cost.patches) == len(together)
    assert record.members[1].added.pixels_decoded < alone[1].cost.pixels_decoded


def test_the_reason_to_stop_is_the_common_one_or_that_of_each_fold(run, slide):
    trained = load_trained(run)
    assert predict(slide, trained).stop_reason == "every magnification was visited"
    lowest = predict(slide, trained).cost.patches[0]
    limited = given_budget(trained, f"patches={lowest + 16}")
    reason = f"the budget patches={lowest + 16} was spent"
    assert predict(slide, limited).stop_reason == reason
    first, *others = trained.members
    only_first = {first: limited.members[first], **{name: trained.members[name] for name in others}}
    mixed = predict(slide, replace(trained, members=only_first))
    others_text = "".join(f"; {name}: every magnification was visited" for name in others)
    assert mixed.stop_reason == f"{first}: {reason}{others_text}"


def test_patches_of_the_other_folds_are_kept_if_one_fold_did_not_zoom(run, slide, tmp_path):
    trained = load_trained(run)
    lowest = predict(slide, trained).cost.patches[0]
    members = dict(trained.members)
    members["fold-0"] = given_budget(members["fold-0"], f"patches={lowest}")
    record = predict(slide, replace(trained, members=members))
    reason = f"the budget patches={lowest} was spent on the lowest magnification"
    assert record.members[0].stop_reason == reason
    assert [len(each.patches) for each in record.members] == [1, 2, 2]
    assert len(record.mpps) == 2
    (tmp_path / "slide.json").write_text(json.dumps(record.to_dict()))
    assert len(read_prediction(tmp_path / "slide.json").regions) == len(record.regions)


def test_the_visited_patches_are_those_of_all_folds(run, slide):
    record = predict(slide, load_trained(run))
    alone = [predict(slide, load_trained(run / f"fold-{number}")) for number in range(FOLDS)]
    assert {region.id for region in record.regions} == {
        region.id for each in alone for region in each.regions
    }
    orders = [region.order for region in record.regions]
    assert sorted(orders) == list(range(len(orders)))
    for step in range(2):
        assert sum(region.score for region in record.regions_at(step)) == pytest.approx(1)
    parents = {region.id for region in record.regions_at(0) if region.selected}
    assert {region.parent for region in record.regions_at(1)} <= parents
    some = record.regions_at(1)[0]
    scores = [region.score for each in alone for region in each.regions if region.id == some.id]
    assert some.score == pytest.approx(sum(scores) / FOLDS)


def test_the_threshold_is_the_mean_of_those_of_the_folds(run, slide):
    record = predict(slide, load_trained(run))
    assert record.threshold.value == pytest.approx(0.3)
    assert record.label == ("tumor" if record.probabilities["tumor"] >= 0.3 else "normal")
    assert record.answer == (
        f"{record.label} {record.probabilities[record.label]:.2f} ± "
        f"{record.spread[record.label]:.2g} over 3 models (threshold tumor >= 0.30)"
    )


def test_the_command_asks_all_folds_and_goes_on_where_it_stopped(run, slide, tmp_path, parfocal):
    out = tmp_path / "out"
    done = parfocal("predict", run, slide, "--out", out)
    assert done.code == 0
    assert "over 3 models" in done.out
    content = json.loads((out / "one.json").read_text())
    assert [member["name"] for member in content["members"]] == ["fold-0", "fold-1", "fold-2"]
    assert set(content["spread"]) == {"normal", "tumor"}
    record = read_prediction(out / "one.json")
    assert json.loads(record.to_json()) == content
    table = (out / "predictions.csv").read_text().splitlines()
    assert table[1].split(",")[2] == record.label
    before = (out / "one.json").read_bytes()  # with the seconds that it took
    assert parfocal("predict", run, slide, "--out", out).code == 0
    assert (out / "one.json").read_bytes() == before
    one = parfocal("predict", run / "fold-1", slide, "--out", tmp_path / "one")
    assert "over 3 models" not in one.out
    content = json.loads((tmp_path / "one" / "one.json").read_text())
    assert "members" not in content
    assert content["threshold"] == {"label": "tumor", "value": pytest.approx(0.3), "rule": "youden"}


def test_folds_that_cannot_answer_together_are_refused(run, untrained, tmp_path):
    other = replace(untrained, slide=replace(untrained.slide, magnifications=(5.0, 10.0)))
    untrained.save(tmp_path / "fold-0")
    other.save(tmp_path / "fold-1")
    with pytest.raises(CheckpointError, match=r"fold-1 has other magnifications \(5, 10\) than"):
        load_trained(tmp_path)
    encoders = tuple(replace(each, weights_hash="0" * 64) for each in untrained.encoders)
    replace(untrained, encoders=encoders).save(tmp_path / "fold-1")
    with pytest.raises(CheckpointError, match=r"fold-1 has another encoder .* answer together"):
        load_trained(tmp_path)
    (tmp_path / "fold-2").mkdir()
    with pytest.raises(CheckpointError, match="fold-2 is not finished, and the folds answer"):
        load_trained(tmp_path)


def test_folds_with_other_intervals_of_time_are_refused_and_baselines_stay_with_their_fold(
    untrained, tmp_path
):
    survival = {"name": "survival", "time": "t", "event": "e", "times": [1.0], "hazard": [0.1]}
    members = {f"fold-{n}": replace(untrained, task={**survival, "times": [n]}) for n in range(2)}
    assert as_ensemble(tmp_path, members).task == {**survival, "times": (), "hazard": ()}
    hazards = {"name": "hazards", "time": "t", "event": "e", "edges": [1.0]}
    for task in (hazards, {"name": "joint", "parts": [hazards]}):
        other = json.loads(json.dumps(task).replace("1.0", "2.0"))
        two = {"fold-0": replace(untrained, task=task), "fold-1": replace(untrained, task=other)}
        with pytest.raises(CheckpointError, match="fold-1 has other intervals of time than fold-0"):
            as_ensemble(tmp_path, two)


def test_a_temperature_divides_the_logits(untrained, slide):
    plain = predict(slide, untrained)
    point = OperatingPoint(temperature=2.0, slides=5)
    record = predict(slide, replace(untrained, operating_point=point))
    logits = np.log([plain.probabilities[label] for label in untrained.labels]) / 2
    expected = np.exp(logits) / np.exp(logits).sum()
    assert list(record.probabilities.values()) == pytest.approx(expected, rel=1e-5)
    assert record.threshold is None


def test_a_damaged_record_of_several_models_is_refused(run, slide, tmp_path):
    record = predict(slide, load_trained(run))
    file = tmp_path / "one.json"
    for key, value, message in (
        ("spread", {"other": 0.1}, "the spread is not that of the predicted numbers"),
        ("threshold", {"label": "x", "value": 0.5, "rule": "0.5"}, "'x', which is no class"),
    ):
        file.write_text(json.dumps({**record.to_dict(), key: value}))
        with pytest.raises(RecordError, match=message):
            read_prediction(file)
