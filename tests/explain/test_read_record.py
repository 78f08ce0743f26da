import copy
import json

import pytest

from explain.demo_folder import prediction, write_json
from parfocal.explain.read_record import RecordError, read_prediction


@pytest.fixture
def content(tmp_path):
    return prediction(tmp_path / "a.tif", "f" * 32)


def test_a_record_is_read_as_it_was_written(content, tmp_path):
    record = read_prediction(write_json(tmp_path / "a.json", content))
    assert record.probabilities == {"normal": 0.2, "tumor": 0.8}
    assert [region.order for region in record.regions] == list(range(6))
    again = tmp_path / "again.json"
    again.write_text(record.to_json())
    assert read_prediction(again) == record


def test_keys_that_only_some_methods_write_are_let_pass(content, tmp_path):
    content["regions"][0]["seconds"] = 0.5
    assert len(read_prediction(write_json(tmp_path / "a.json", content)).regions) == 6


@pytest.mark.parametrize(
    ("name", "value"), [("x", None), ("width", "200"), ("score", float("nan"))]
)
def test_nothing_is_drawn_at_a_guess(content, tmp_path, name, value):
    content["regions"][3][name] = value
    with pytest.raises(
        RecordError, match=f"a.json: a region has no {name}, so its place or weight"
    ):
        read_prediction(write_json(tmp_path / "a.json", content))


def test_a_prediction_without_regions_is_refused(content, tmp_path):
    content["regions"] = []
    with pytest.raises(RecordError, match="the prediction has no regions to show"):
        read_prediction(write_json(tmp_path / "a.json", content))


def test_another_version_is_refused(content, tmp_path):
    content["format_version"] = 2
    with pytest.raises(RecordError, match="a prediction of format 2, and this parfocal reads 1"):
        read_prediction(write_json(tmp_path / "a.json", content))


def test_what_lacks_a_part_is_refused_by_name(content, tmp_path):
    for name in ("model", "cost", "steps"):
        lacking = copy.deepcopy(content)
        del lacking[name]
        with pytest.raises(
            RecordError, match=rf"not a whole prediction \({name}: field required\)"
        ):
            read_prediction(write_json(tmp_path / "a.json", lacking))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda whole: whole["prediction"].update(probabilities={}), "no class has a probability"),
        (lambda whole: whole["regions"][2].update(step=7), "a region of step 7, of 2"),
        (lambda whole: whole["cost"].update(exhaustive=None), "no cost of looking at everything"),
    ],
)
def test_parts_that_cannot_belong_together_are_refused(content, tmp_path, change, told):
    change(content)
    with pytest.raises(RecordError, match=rf"not a whole prediction \({told}\)"):
        read_prediction(write_json(tmp_path / "a.json", content))


@pytest.mark.parametrize("other", [[1, 2], {"slides": []}, "text"])
def test_other_json_is_refused(tmp_path, other):
    with pytest.raises(RecordError, match="not a prediction, which has a slide and regions"):
        read_prediction(write_json(tmp_path / "a.json", other))


def test_a_file_cut_short_is_refused(content, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(content)[:-20])
    with pytest.raises(RecordError, match=r"a\.json: cannot be read \(no whole JSON\)"):
        read_prediction(tmp_path / "a.json")
