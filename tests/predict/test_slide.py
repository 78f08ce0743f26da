import csv
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from parfocal.encoders.encoder import Encoder, load_encoder
from parfocal.explain.geojson import to_geojson
from parfocal.explain.record import PredictionRecord
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.slide import FailedSlide, classify, predict, predict_slides
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import open_slide, slide_from_array

# A patch of 64 px at 2.5x covers 256 px of 1024: 4 columns of 4, of which 2 are tissue. Each
# has 16 children at 10x, and 2 are zoomed into.
KEPT, CHILDREN, ZOOMED = 8, 16, 2
LOOKED_AT = KEPT + ZOOMED * CHILDREN


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "one.tif")


@pytest.fixture(scope="module")
def record(slide: Path, untrained: Checkpoint) -> PredictionRecord:
    return predict(slide, untrained)


def test_only_what_the_model_zooms_into_is_read(record: PredictionRecord):
    assert record.cost.patches == (KEPT, ZOOMED * CHILDREN)


def test_the_pixels_on_the_bill_are_those_of_tissue_search_and_patches(
    slide: Path, record: PredictionRecord
):
    # The search shrinks so small a slide to 512 px, from level 0. At 2.5x a patch is 64 x 64 px of
    # level 1, at 10x of level 0.
    assert record.cost.pixels_decoded == 1024**2 + LOOKED_AT * 64**2


def test_looking_at_everything_is_all_tissue_patches_at_the_sharpest_magnification(
    record: PredictionRecord,
):
    everything = record.cost.exhaustive
    assert everything is not None
    assert everything.magnification == 10
    assert everything.patches == everything.descendants == KEPT * CHILDREN
    assert everything.pixels == KEPT * CHILDREN * 64**2
    assert everything.macs == KEPT * CHILDREN * load_encoder("tiny").macs_per_patch(64)
    assert record.cost.share_patches == LOOKED_AT / (KEPT * CHILDREN)


@pytest.mark.parametrize(("children", "looked_at"), [("tissue", 4 + 2 * 4), ("all", 4 + 2 * 16)])
def test_on_thin_tissue_it_takes_leaving_out_glass_to_look_at_less_than_everything(
    untrained: Checkpoint, children: Literal["tissue", "all"], looked_at: int
):
    pixels = np.full((1024, 1024, 3), 245, dtype=np.uint8)
    pixels[:, 270:306] = (200, 110, 170)  # in one column of patches, and one of their children
    trained = replace(untrained, slide=replace(untrained.slide, children=children))
    cost = classify(slide_from_array(pixels, mpp=1.0), trained, load_encoder("tiny")).cost
    assert cost.exhaustive is not None
    assert cost.exhaustive.patches == 16
    assert cost.exhaustive.descendants == {"tissue": 16, "all": 64}[children]
    assert cost.share_patches == looked_at / 16


def test_macs_are_those_of_the_patches_and_the_model(record: PredictionRecord):
    encoding = LOOKED_AT * load_encoder("tiny").macs_per_patch(64)
    # Both steps: a linear layer of 32 to 512, attention of 512 to 256, twice, to 1, and pooling;
    # at the first step another attention, which zooms. Then 512 to 2 classes.
    attention = 512 * 256 * 2 + 256
    looking = LOOKED_AT * (32 * 512 + attention + 512)
    assert record.cost.macs == encoding + looking + KEPT * attention + 512 * 2


def test_each_region_but_the_first_ones_lies_in_a_selected_parent(record: PredictionRecord):
    known = {region.id: region for region in record.regions}
    assert [region.order for region in record.regions] == list(range(LOOKED_AT))
    for region in record.regions:
        if region.step == 0:
            assert region.parent is None
            continue
        parent = known[str(region.parent)]
        assert parent.selected
        assert parent.step == 0
        assert parent.x <= region.x < parent.x + parent.width
        assert parent.y <= region.y < parent.y + parent.height


def test_the_patches_zoomed_into_are_those_of_the_highest_zoom_scores(record: PredictionRecord):
    first = [region for region in record.regions if region.step == 0]
    ranked = sorted(first, key=lambda region: region.zoom_score or 0.0, reverse=True)
    assert {region.id for region in ranked[:ZOOMED]} == {r.id for r in first if r.selected}
    assert all(region.zoom_score is None for region in record.regions if region.step == 1)


def test_scores_sum_to_one_at_each_step(record: PredictionRecord):
    for step in (0, 1):
        scores = [region.score for region in record.regions if region.step == step]
        assert sum(scores) == pytest.approx(1)


def test_a_patch_beyond_the_scan_is_no_region(untrained: Checkpoint):
    # One column of 4 patches at 2.5x; of the 4 columns of children in it the last is beyond.
    pixels = np.full((1024, 180, 3), (200, 110, 170), dtype=np.uint8)
    record = classify(slide_from_array(pixels, mpp=1.0), untrained, load_encoder("tiny"))
    assert record.cost.patches == (4, 2 * 12)
    assert len(record.regions) == 4 + 2 * 12
    assert all(region.x < 180 for region in record.regions)


def test_the_json_holds_what_the_format_promises(record: PredictionRecord):
    found = json.loads(record.to_json())
    assert list(found) == [
        *("format_version", "slide", "model", "prediction"),
        *("stop_reason", "steps", "regions", "cost"),
    ]
    assert list(found["slide"]) == ["id", "path", "fingerprint", "size", "mpp", "mpp_source"]
    assert list(found["prediction"]) == ["label", "probabilities"]
    assert found["steps"] == [
        {"mpp": 4.0, "magnification": 2.5, "patches": KEPT},
        {"mpp": 1.0, "magnification": 10.0, "patches": ZOOMED * CHILDREN},
    ]
    assert list(found["regions"][0]) == [
        *("id", "step", "x", "y", "width", "height", "mpp", "score", "score_kind"),
        *("parent", "selected", "order", "zoom_score", "probabilities"),
    ]
    cost = found["cost"]
    assert {"patches", "pixels_decoded", "bytes_read", "macs", "seconds", "exhaustive"} < set(cost)
    assert {"share_patches", "share_macs"} < set(cost)
    assert list(cost["seconds"]) == ["open", "tissue", "read", "encode", "model", "total"]
    assert set(cost["exhaustive"]) > {"magnification", "patches", "descendants", "macs"}


def test_steps_are_named_as_they_were_asked_for_on_every_slide(untrained: Checkpoint):
    pixels = np.full((1024, 1024, 3), (200, 110, 170), dtype=np.uint8)
    record = classify(slide_from_array(pixels, mpp=0.96), untrained, load_encoder("tiny"))
    assert record.mpps == (3.84, 0.96)  # the scan's own, within 5% of those asked for
    steps = record.to_dict()["steps"]
    assert isinstance(steps, list)
    assert [step["magnification"] for step in steps] == [2.5, 10.0]
    assert record.cost.exhaustive is not None
    assert record.cost.exhaustive.magnification == 10.0
    measured = json.dumps(to_geojson(record))
    assert "attention at 2.5x" in measured
    assert "attention at 10x" in measured
    assert "10.4x" not in measured


def test_a_share_above_all_there_is_is_explained(record: PredictionRecord):
    why = "s; over 100%, as lower magnifications and the search for tissue count, too"
    assert "(31.2%), 231.2% of the pixels" in record.bill
    assert record.bill.endswith(why)
    everything = record.cost.exhaustive
    assert everything is not None
    larger = replace(record.cost, exhaustive=replace(everything, pixels=10**7))
    assert "over 100%" not in replace(record, cost=larger).bill
    zoomed = replace(larger, patches=(KEPT, KEPT * CHILDREN))
    assert "looked at 136 of 128 patches (106.2%)" in replace(record, cost=zoomed).bill
    assert replace(record, cost=zoomed).bill.endswith(why)


def test_the_path_is_written_from_the_root(
    tmp_path: Path, slide: Path, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(slide.parent)
    (found, failed) = predict_slides([Path(slide.name), Path("none.tif")], untrained, tmp_path)
    assert isinstance(found, PredictionRecord)
    assert found.slide.path == str(slide)
    assert isinstance(failed, FailedSlide)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths == [str(slide), str(slide.with_name("none.tif"))]


def test_the_label_is_the_most_probable_class(record: PredictionRecord):
    other = replace(record, probabilities={"normal": 0.2, "tumor": 0.8})
    assert other.label == "tumor"
    assert other.line.startswith("one: tumor 0.80 · looked at 40 of 128 patches (31.2%), ")


def test_the_same_slide_gets_the_same_answer(
    slide: Path, record: PredictionRecord, untrained: Checkpoint
):
    again = predict(slide, untrained)
    assert again.regions == record.regions
    assert again.probabilities == record.probabilities


class SlowEncoder(Encoder):
    """Takes its time."""

    def __call__(self, patches: np.ndarray) -> Tensor:
        time.sleep(0.3)
        return super().__call__(patches)


def test_the_model_is_not_billed_for_waiting(slide: Path, untrained: Checkpoint):
    encoder = load_encoder("tiny")
    slow = SlowEncoder(encoder.spec, encoder.network)
    with open_slide(slide) as opened:
        seconds = classify(opened, untrained, slow).cost.seconds
    assert seconds["encode"] > 0.6
    assert seconds["model"] < 0.3


def test_a_slide_without_mpp_is_predicted_with_the_one_given(
    tmp_path: Path, untrained: Checkpoint, write_slide: Callable[..., Path]
):
    with open_slide(write_slide(tmp_path / "one.tif")) as whole:
        pixels = whole._scan.read_level(0, 0, 0, *whole.size)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    with pytest.raises(SlideError, match=r"one\.png: .* no microns per pixel"):
        predict(tmp_path / "one.png", untrained)
    assert predict(tmp_path / "one.png", untrained, mpp=1.0).slide.mpp_source == "given"


def test_a_slide_that_fails_does_not_stop_the_others(
    tmp_path: Path, slide: Path, untrained: Checkpoint
):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(slide.read_bytes()[:5000])
    found = list(predict_slides([broken, slide], untrained, tmp_path / "out"))
    assert isinstance(found[0], FailedSlide)
    assert "broken" in found[0].reason
    assert isinstance(found[1], PredictionRecord)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("one.json", "one.png", "predictions.csv")
    ]
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["slide_id"], row["predicted"] != "") for row in rows] == [
        ("broken", False),
        ("one", True),
    ]
    assert rows[0]["failed"] == found[0].reason
    assert float(rows[1]["prob_normal"]) + float(rows[1]["prob_tumor"]) == pytest.approx(1)


def test_slides_of_an_earlier_call_stay_listed(tmp_path: Path, slide: Path, untrained: Checkpoint):
    later = tmp_path / "later.tif"
    list(predict_slides([later, tmp_path / "none.tif"], untrained, tmp_path / "out"))
    later.write_bytes(slide.read_bytes())
    list(predict_slides([slide, later], untrained, tmp_path / "out"))
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["slide_id"] for row in rows] == ["later", "none", "one"]
    assert [row["failed"] != "" for row in rows] == [False, True, False]
    assert rows[0]["prob_tumor"] == rows[2]["prob_tumor"] != ""


def test_predictions_of_other_classes_are_not_mixed_in(
    tmp_path: Path, slide: Path, untrained: Checkpoint
):
    list(predict_slides([slide], untrained, tmp_path))
    other = replace(untrained, labels=("benign", "cancer"))
    with pytest.raises(
        ValueError, match=r"predictions\.csv: its columns are .*prob_normal.* benign, "
    ):
        next(predict_slides([slide], other, tmp_path))
    assert "prob_normal" in (tmp_path / "predictions.csv").read_text()


def test_a_file_that_is_written_says_what_was_returned(
    tmp_path: Path, slide: Path, untrained: Checkpoint
):
    (found,) = predict_slides([slide], untrained, tmp_path)
    assert isinstance(found, PredictionRecord)
    assert (tmp_path / "one.json").read_text() == found.to_json()


def test_two_slides_of_one_name_are_refused(tmp_path: Path, untrained: Checkpoint):
    paths = [tmp_path / "a" / "one.svs", tmp_path / "b" / "one.tif"]
    with pytest.raises(ValueError, match=r"a/one\.svs and .*b/one\.tif would both .* 'one'"):
        next(predict_slides(paths, untrained, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_slide_given_twice_is_refused(tmp_path: Path, untrained: Checkpoint):
    paths = [tmp_path / "one.svs", tmp_path / "one.svs"]
    with pytest.raises(ValueError, match=r"one\.svs: the slide is given twice; give it once"):
        next(predict_slides(paths, untrained, tmp_path / "out"))


def test_what_was_done_is_listed_when_interrupted(
    tmp_path: Path, slide: Path, untrained: Checkpoint
):
    answers = predict_slides([slide, tmp_path / "never.tif"], untrained, tmp_path / "out")
    next(answers)
    answers.close()
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 2
