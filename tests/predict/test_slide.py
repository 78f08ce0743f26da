import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from parfocal.encoders.encoder import NetworkEncoder
from parfocal.encoders.loading import load_encoder
from parfocal.explain.geojson import to_geojson
from parfocal.explain.record import PredictionRecord
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.slide import classify, predict
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import open_slide, slide_from_array

# A patch of 64 px at 2.5x covers 256 px of 1024: 4 columns of 4, of which 2 are tissue. Each
# has 16 children at 10x, and 2 are zoomed into.
KEPT, CHILDREN, ZOOMED = 8, 16, 2
VISITED = KEPT + ZOOMED * CHILDREN


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
    assert record.cost.pixels_decoded == 1024**2 + VISITED * 64**2


def test_the_exhaustive_cost_is_of_all_tissue_patches_at_the_highest_magnification(
    record: PredictionRecord,
):
    exhaustive = record.cost.exhaustive
    assert exhaustive is not None
    assert exhaustive.magnification == 10
    assert exhaustive.patches == exhaustive.descendants == KEPT * CHILDREN
    assert exhaustive.pixels == KEPT * CHILDREN * 64**2
    assert exhaustive.macs == KEPT * CHILDREN * load_encoder("tiny").macs_per_patch()
    assert record.cost.share_patches == VISITED / (KEPT * CHILDREN)


@pytest.mark.parametrize(("children", "visited"), [("tissue", 4 + 2 * 4), ("all", 4 + 2 * 16)])
def test_on_thin_tissue_leaving_out_glass_makes_the_share_of_patches_less_than_one(
    untrained: Checkpoint, children: Literal["tissue", "all"], visited: int
):
    pixels = np.full((1024, 1024, 3), 245, dtype=np.uint8)
    pixels[:, 270:306] = (200, 110, 170)  # in one column of patches, and one of their children
    trained = replace(untrained, slide=replace(untrained.slide, children=children))
    cost = classify(slide_from_array(pixels, mpp=1.0), trained, load_encoder("tiny")).cost
    assert cost.exhaustive is not None
    assert cost.exhaustive.patches == 16
    assert cost.exhaustive.descendants == {"tissue": 16, "all": 64}[children]
    assert cost.share_patches == visited / 16


def test_macs_are_those_of_the_patches_and_the_model(record: PredictionRecord):
    encoding = VISITED * load_encoder("tiny").macs_per_patch()
    # Both steps: a linear layer of 32 to 512, attention of 512 to 256, twice, to 1, and pooling;
    # at the first step another attention, which zooms. Then 512 to 2 classes.
    attention = 512 * 256 * 2 + 256
    looking = VISITED * (32 * 512 + attention + 512)
    assert record.cost.macs == encoding + looking + KEPT * attention + 512 * 2


def test_each_region_but_the_first_ones_lies_in_a_selected_parent(record: PredictionRecord):
    by_id = {region.id: region for region in record.regions}
    assert [region.order for region in record.regions] == list(range(VISITED))
    for region in record.regions:
        if region.step == 0:
            assert region.parent is None
            continue
        parent = by_id[str(region.parent)]
        assert parent.selected
        assert parent.step == 0
        assert parent.x <= region.x < parent.x + parent.width
        assert parent.y <= region.y < parent.y + parent.height


def test_the_patches_zoomed_into_are_those_of_the_highest_zoom_attention(record: PredictionRecord):
    first = [region for region in record.regions if region.step == 0]
    ranked = sorted(first, key=lambda region: region.zoom_attention or 0.0, reverse=True)
    assert {region.id for region in ranked[:ZOOMED]} == {r.id for r in first if r.selected}
    assert all(region.zoom_attention is None for region in record.regions if region.step == 1)


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
    content = json.loads(record.to_json())
    assert list(content) == [
        *("format_version", "slide", "model", "prediction"),
        *("stop_reason", "steps", "regions", "cost", "reach", "nothing_to_skip", "notes"),
        *("budget", "rounds"),
    ]
    reach = content["reach"]
    assert list(reach) == ["unreachable", "below_min_tissue", "min_tissue_met", "squares"]
    assert (reach["unreachable"], reach["below_min_tissue"], reach["min_tissue_met"]) == (
        0,
        0,
        True,
    )
    assert reach["squares"] == {
        "side": 64.0,
        "reachable": [[row, 0, 8] for row in range(16)],
        "out_of_reach": [],
    }
    assert content["nothing_to_skip"] is None
    assert list(content["slide"]) == [
        *("id", "path", "fingerprint", "size", "mpp", "mpp_source", "tissue_fingerprint"),
    ]
    assert list(content["prediction"]) == ["label", "probabilities"]
    assert content["steps"] == [
        {"mpp": 4.0, "magnification": 2.5, "patches": KEPT},
        {"mpp": 1.0, "magnification": 10.0, "patches": ZOOMED * CHILDREN},
    ]
    assert list(content["regions"][0]) == [
        *("id", "step", "x", "y", "width", "height", "mpp", "score", "score_kind"),
        *("parent", "selected", "order", "zoom_attention", "probabilities", "round"),
    ]
    cost = content["cost"]
    assert {"patches", "pixels_decoded", "bytes_read", "macs", "seconds", "exhaustive"} < set(cost)
    assert {"share_patches", "share_macs"} < set(cost)
    assert list(cost["seconds"]) == ["open", "tissue", "read", "encode", "model", "total"]
    assert set(cost["exhaustive"]) > {"magnification", "patches", "descendants", "macs"}


def test_steps_have_the_configured_magnification_on_every_slide(untrained: Checkpoint):
    pixels = np.full((1024, 1024, 3), (200, 110, 170), dtype=np.uint8)
    record = classify(slide_from_array(pixels, mpp=0.96), untrained, load_encoder("tiny"))
    assert record.mpps == (
        3.84,
        0.96,
    )  # the mpp of the scan, within 5% of that of the magnification
    steps = record.to_dict()["steps"]
    assert isinstance(steps, list)
    assert [step["magnification"] for step in steps] == [2.5, 10.0]
    assert record.cost.exhaustive is not None
    assert record.cost.exhaustive.magnification == 10.0
    exported = json.dumps(to_geojson(record))
    assert "attention at 2.5x" in exported
    assert "attention at 10x" in exported
    assert "10.4x" not in exported


def test_a_share_above_100_percent_is_explained(record: PredictionRecord):
    note = "more than 100% because lower magnifications and tissue detection are included"
    assert "(31.2%), 231.2% of the pixels" in record.bill
    assert re.search(
        r" s, read [\d.]+ of [\d.]+ kB .*, 0\.0% of the tissue out of reach; " + note, record.bill
    )
    exhaustive = record.cost.exhaustive
    assert exhaustive is not None
    larger = replace(record.cost, exhaustive=replace(exhaustive, pixels=10**7))
    assert "more than 100%" not in replace(record, cost=larger).bill
    zoomed = replace(larger, patches=(KEPT, KEPT * CHILDREN))
    assert "visited 136 of 128 patches (106.2%)" in replace(record, cost=zoomed).bill
    assert replace(record, cost=zoomed).bill.endswith(
        "; nothing to skip on this slide: encoding all 128 patches at 10x costs no more"
    )


def test_the_label_is_the_most_probable_class(record: PredictionRecord):
    other = replace(record, probabilities={"normal": 0.2, "tumor": 0.8})
    assert other.label == "tumor"
    assert other.summary.startswith("one: tumor 0.80 · visited 40 of 128 patches (31.2%), ")


def test_the_same_slide_gets_the_same_prediction(
    slide: Path, record: PredictionRecord, untrained: Checkpoint
):
    again = predict(slide, untrained)
    assert again.regions == record.regions
    assert again.probabilities == record.probabilities


class SlowEncoder(NetworkEncoder):
    """An encoder that waits."""

    def __call__(self, patches: np.ndarray) -> Tensor:
        time.sleep(0.3)
        return super().__call__(patches)


def test_waiting_for_features_is_not_counted_as_time_of_the_model(
    slide: Path, untrained: Checkpoint
):
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
