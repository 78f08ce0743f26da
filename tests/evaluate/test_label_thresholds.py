"""Decisions about several labels, each at its own threshold."""

from pathlib import Path

import numpy as np
import pytest

from parfocal.cost import CostMeter
from parfocal.dataset.cohort import CohortSlide
from parfocal.evaluate.clinical import label_predictions, multilabel_entries, operating_text
from parfocal.evaluate.result import SlideResult
from parfocal.metrics import exact_interval
from parfocal.operating_point import OperatingPoint, Threshold
from parfocal.tasks import build_task

TASK = build_task("multilabel", target=["er", "pr"])
ER = ("1", "1", "0", "0", "", "1")
PR = ("0", "0", "1", "0", "1", "1")
CHANCES = (0.9, 0.4, 0.6, 0.1, 0.8, 0.7)


def results():
    found = []
    for n, (er, pr, chance) in enumerate(zip(ER, PR, CHANCES, strict=True)):
        cells = {"er": er, "pr": pr}
        slide = CohortSlide(f"s{n}", Path(f"s{n}.svs"), "", f"p{n}", n + 2, values=cells)
        outputs = {"er": chance, "pr": 1 - chance}
        found.append(SlideResult(slide, (), (), None, CostMeter().total(), outputs=outputs))
    return found


def test_each_label_has_its_rates_over_the_slides_where_it_is_known():
    point = OperatingPoint("youden", {"er": Threshold(0.5), "pr": Threshold(0.3)}, slides=9)
    entries = multilabel_entries(TASK, results(), point)
    found = entries["operating_point"]["thresholds"]
    sensitivity = found["er"]["slides"]["sensitivity"]  # 0.9 and 0.7 of 0.9, 0.4, 0.7
    assert sensitivity["value"] == pytest.approx(2 / 3)
    assert (sensitivity["low"], sensitivity["high"]) == exact_interval(2, 3)
    assert found["er"]["patients"]["specificity"]["value"] == pytest.approx(1 / 2)
    assert found["pr"]["slides"]["sensitivity"]["value"] == pytest.approx(2 / 3)
    assert found["pr"]["slides"]["specificity"]["value"] == pytest.approx(1 / 3)
    aurocs = entries["auroc_delong"]
    positive, negative = np.array([0.9, 0.4, 0.7]), np.array([0.6, 0.1])
    expected = (positive[:, None] > negative[None]).mean()
    assert aurocs["er"]["value"] == pytest.approx(expected)
    text = operating_text(label_predictions(TASK, results())[0], point)
    assert text.startswith("; at er >= 0.500: sensitivity 0.667 (")
    assert "; at pr >= 0.300: sensitivity 0.667 (" in text


def test_without_thresholds_there_are_no_decisions():
    assert "operating_point" not in multilabel_entries(TASK, results(), None)
    assert multilabel_entries(build_task("regression", target=["a"]), results(), None) == {}
