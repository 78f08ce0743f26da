"""Whether a model learned where to zoom: the rule on numbers, and what is measured."""

import json
import logging
from dataclasses import replace

import pytest
import torch

from parfocal.explain.report import write_report
from parfocal.models.zoommil import ZoomMIL
from parfocal.prediction import Look, Prediction
from parfocal.train import train
from parfocal.train.zoom_check import ZoomCheck, _choices, _remedy, _visited, zoom_warning

LEARNED = ZoomCheck(
    slides=16,
    share=0.15,
    attention=0.7,
    visited_share=0.11,
    visited_attention=0.95,
    auroc=0.99,
    auroc_low=0.96,
    auroc_exhaustive=1.0,
)
AT_CHANCE = replace(LEARNED, auroc=0.55, auroc_low=0.3, auroc_exhaustive=0.52)


def test_a_zoom_that_was_learned_has_no_warning():
    assert zoom_warning(LEARNED) is None


def test_a_flat_attention_is_no_problem_if_the_classes_are_right():
    assert zoom_warning(replace(LEARNED, attention=0.16, visited_attention=0.12)) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"attention": 0.16},
            "the zoom was not learned: validation AUROC is 0.55 with the selected patches and 0.52 "
            "with every patch, which is no better than chance, and the zoom attention on the "
            "selected patches is 16.0% (15.0% in a random selection).",
        ),
        (
            {"visited_attention": 0.12},
            "and with every patch, the attention on those that zooming visits is 12.0% (11.0% in a "
            "random selection).",
        ),
        ({}, "the model has not learned the classes: validation AUROC is 0.55"),
        (
            {"auroc_exhaustive": 0.98},
            "the zoom misses decisive patches: validation AUROC is 0.55 with the selected patches "
            "and 0.98 with every patch. Train on more slides, select more patches (model.k)",
        ),
        (
            {"attention": 0.16, "auroc_exhaustive": None, "visited_attention": None},
            "the zoom was not learned: validation AUROC is 0.55 with the selected patches, which",
        ),
    ],
)
def test_what_was_not_learned_is_said_with_the_numbers(change, expected):
    assert expected in (zoom_warning(replace(AT_CHANCE, **change)) or "")


def test_a_model_that_learns_in_hindsight_is_not_sent_to_itself():
    for check in (replace(AT_CHANCE, attention=0.16), replace(AT_CHANCE, auroc_exhaustive=0.98)):
        assert "zoommil-hindsight" in (zoom_warning(check) or "")
        warning = zoom_warning(check, remedy=_remedy(ZoomMIL(4, 2, hindsight=True))) or ""
        assert "or try model.start_share=1 or an exhaustive model" in warning
        everything = ZoomMIL(4, 2, hindsight=True, start_share=1)
        assert "or try an exhaustive model" in (
            zoom_warning(check, remedy=_remedy(everything)) or ""
        )


def test_a_zoom_that_loses_much_is_said_even_above_chance():
    worse = replace(LEARNED, auroc=0.8, auroc_low=0.7)
    assert (zoom_warning(worse) or "").startswith("the zoom misses decisive patches")


def test_a_wide_interval_is_no_proof_of_chance():
    few = replace(LEARNED, auroc=0.8, auroc_low=0.45, auroc_exhaustive=0.85, attention=0.16)
    assert zoom_warning(few) is None
    warning = zoom_warning(replace(few, visited_attention=0.11))  # both are at random
    assert warning is not None
    assert "may not have been learned: validation AUROC is 0.80" in warning
    assert "which the validation slides are too few to distinguish from chance; the" in warning


def test_without_an_interval_a_score_near_a_half_is_chance():
    three_classes = replace(AT_CHANCE, auroc_low=None, attention=0.16)
    assert "not learned" in (zoom_warning(three_classes) or "")
    assert zoom_warning(replace(three_classes, auroc=0.65)) is None


def test_nothing_is_said_without_a_choice():
    assert zoom_warning(replace(AT_CHANCE, attention=0.1, slides=0)) is None
    assert zoom_warning(replace(AT_CHANCE, attention=0.1, slides=0, auroc=None)) is None


def test_without_a_score_the_attention_alone_is_judged():
    without = replace(LEARNED, auroc=None, auroc_low=None, auroc_exhaustive=None)
    assert zoom_warning(without) is None
    assert (zoom_warning(replace(without, attention=0.1)) or "").startswith(
        "the zoom may not have been learned: the zoom attention on the selected patches is 10.0% "
        "(15.0% in a random selection). Train on more slides, or compare with zoommil-hindsight or"
    )
    most_selected = {"share": 0.7, "visited_share": 0.7}
    assert zoom_warning(replace(without, attention=0.9, **most_selected)) is None
    assert zoom_warning(replace(without, attention=0.8, **most_selected)) is not None


def test_the_share_and_the_attention_of_a_selection_are_measured():
    attention = torch.tensor([0.5, 0.1, 0.0, 0.4])  # the third does not exist
    look = Look(torch.arange(4), attention, torch.tensor([0, 3]), attention)
    everything = replace(look, selected=torch.tensor([0, 1, 3]))
    last = Look(torch.arange(4), attention)
    ((share, on_selected),) = _choices(Prediction(torch.zeros(2), (look, everything, last)))
    assert (share, on_selected) == pytest.approx((2 / 3, 0.9))


def test_the_patches_of_a_slide_that_the_fusion_leaves_out_do_not_count():
    attention = torch.tensor([0.6, 0.3, 0.1, 0.0, 0.0, 0.0])  # max: the first slide of two
    look = Look(torch.arange(6), attention, torch.tensor([0, 3]), attention)
    ((share, on_selected),) = _choices(Prediction(torch.zeros(2), (look,)))
    assert (share, on_selected) == pytest.approx((1 / 3, 0.6))


def test_the_attention_on_visited_patches_is_measured_among_all():
    visited = Look(torch.tensor([4, 5, 6]), torch.tensor([0.2, 0.3, 0.5]))
    score = torch.tensor([0.1, 0.0, 0.2, 0.1, 0.4, 0.2, 0.0])  # two do not exist
    share, attention = _visited(visited, Look(torch.arange(7), score))
    assert (share, attention) == pytest.approx((2 / 5, 0.6))


def test_training_records_the_check_and_the_report_shows_it(cohort, settings, tmp_path, caplog):
    once = replace(settings, train=replace(settings.train, epochs=1, learning_rate=1e-9))
    features, run = cohort.source.parent / "features", tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        summary = train(cohort, once, run, features=features, device="cpu", progress=False)
    content = json.loads((run / "summary.json").read_text())
    stored = content["zoom"]
    assert summary.zoom == stored
    assert stored["slides"] == 2
    assert stored["share"] == pytest.approx(1 / 6)
    assert stored["visited_share"] == pytest.approx(1 / 6)
    assert stored["auroc_exhaustive"] is not None
    assert ZoomCheck(**stored).warning == zoom_warning(ZoomCheck(**stored))
    warned = [each.message for each in caplog.records if "zoom" in each.message]
    assert len(warned) == (stored["warning"] is not None)
    without = {name: value for name, value in content.items() if name != "zoom"}  # as before
    for changed, shown in (
        ({**content, "zoom": {**stored, "warning": "it is <flat>."}}, True),
        ({**content, "zoom": None}, False),
        (without, False),
    ):
        (run / "summary.json").write_text(json.dumps(changed))
        write_report((run,), tmp_path / "report.html")
        assert ("Zoom: it is &lt;flat&gt;." in (tmp_path / "report.html").read_text()) is shown
