import copy
import json
from pathlib import Path

import pytest

from explain.demo_folder import prediction, with_folds, write_json
from parfocal.explain.geojson import to_geojson
from parfocal.explain.read_record import RecordError, read_prediction


@pytest.fixture
def content(tmp_path):
    return prediction(tmp_path / "a.tif", "f" * 32)


def test_a_record_is_read_back_as_written(content, tmp_path):
    record = read_prediction(write_json(tmp_path / "a.json", content))
    assert record.probabilities == {"normal": 0.2, "tumor": 0.8}
    assert [region.order for region in record.regions] == list(range(6))
    again = tmp_path / "again.json"
    again.write_text(record.to_json())
    assert read_prediction(again) == record


def test_unknown_keys_of_a_region_are_ignored(content, tmp_path):
    content["regions"][0]["seconds"] = 0.5
    assert len(read_prediction(write_json(tmp_path / "a.json", content)).regions) == 6


@pytest.mark.parametrize(("name", "value"), [("x", None), ("width", "200"), ("score", True)])
def test_a_region_without_position_or_score_is_refused(content, tmp_path, name, value):
    content["regions"][3][name] = value
    with pytest.raises(
        RecordError, match=f"a.json: a region has no valid {name}, so it cannot be drawn"
    ):
        read_prediction(write_json(tmp_path / "a.json", content))


def test_a_prediction_without_regions_is_refused(content, tmp_path):
    content["regions"] = []
    with pytest.raises(RecordError, match="the prediction has no regions"):
        read_prediction(write_json(tmp_path / "a.json", content))


def test_another_version_is_refused(content, tmp_path):
    content["format_version"] = 3
    with pytest.raises(RecordError, match="prediction format version 3 is not supported"):
        read_prediction(write_json(tmp_path / "a.json", content))


def test_an_incomplete_prediction_is_refused_with_the_missing_key(content, tmp_path):
    for name in ("model", "cost", "steps"):
        lacking = copy.deepcopy(content)
        del lacking[name]
        with pytest.raises(RecordError, match=rf"incomplete prediction \({name}: field required\)"):
            read_prediction(write_json(tmp_path / "a.json", lacking))


def rounds_of(*rounds: tuple[int, float]) -> list[dict]:
    return [
        {"patches": patches, "probabilities": {"normal": 0.5, "tumor": tumor}}
        for patches, tumor in rounds
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda content: content["prediction"].update(probabilities={}),
            "no class has a probability",
        ),
        (lambda content: content["regions"][2].update(step=7), "a region is at step 7 of 2"),
        (lambda content: content["cost"].update(exhaustive=None), "the exhaustive cost is missing"),
        (
            lambda content: content.update(rounds=rounds_of((4, 0.5), (3, 0.5))),
            "the patches of a round are impossible, or fewer than before",
        ),
        (
            lambda content: content.update(rounds=rounds_of((-5, 0.5))),
            "the patches of a round are impossible.*",
        ),
        (
            lambda content: content.update(rounds=rounds_of((4, 7.0))),
            r"a probability of a round is not in 0\.\.1",
        ),
        (
            lambda content: content.update(rounds=rounds_of((10**400, 0.5))),
            "the patches of a round are impossible.*",
        ),
        (
            lambda content: content.update(rounds=[{"patches": 4, "probabilities": {}}]),
            "a round has other classes than the prediction",
        ),
        (
            lambda content: content.update(with_folds(content, patches=[-4, 0])),
            "the patches of a member are impossible",
        ),
        (lambda content: content.update(budget="5%"), "budget: input should be an object"),
    ],
)
def test_inconsistent_parts_are_refused(content, tmp_path, change, reason):
    change(content)
    with pytest.raises(RecordError, match=rf"incomplete prediction \({reason}\)"):
        read_prediction(write_json(tmp_path / "a.json", content))


@pytest.mark.parametrize("other", [[1, 2], {"slides": []}, "text"])
def test_other_json_is_refused(tmp_path, other):
    with pytest.raises(RecordError, match="not a prediction"):
        read_prediction(write_json(tmp_path / "a.json", other))


def test_a_truncated_file_is_refused(content, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(content)[:-20])
    with pytest.raises(RecordError, match=r"a\.json: cannot be read \(not valid JSON\)"):
        read_prediction(tmp_path / "a.json")


VERSION_1 = Path(__file__).parents[1] / "fixtures" / "v1" / "predictions"


@pytest.mark.parametrize(
    ("name", "kinds", "summary"),
    [
        ("zoommil", {"attention"}, "slide-0043: tumor 1.00 · visited 50 of "),
        ("magnet", {"uniform", "class_probability"}, "painted: normal 0.51 · visited 7 of 256"),
        ("jsma", {"sampling_probability"}, "painted: tumor 0.50 · visited 3 of 64"),
    ],
)
def test_version_1_is_read_with_the_keys_of_version_2(name, kinds, summary, tmp_path):
    old = json.loads((VERSION_1 / f"{name}.json").read_text())
    record = read_prediction(VERSION_1 / f"{name}.json")
    assert {region.score_kind for region in record.regions} == kinds
    assert [r.zoom_attention for r in record.regions] == [r["zoom_score"] for r in old["regions"]]
    assert [r.score for r in record.regions] == [r["score"] for r in old["regions"]]
    assert record.model.parfocal_version == old["model"]["parfocal"]
    assert record.summary.startswith(summary)
    assert to_geojson(record)["features"] != []
    (tmp_path / "new.json").write_text(record.to_json())
    assert read_prediction(tmp_path / "new.json") == record
    assert json.loads(record.to_json())["format_version"] == 2
