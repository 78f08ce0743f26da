"""The text of the page of a comparison."""

import base64
import re

import pytest

from compare.test_scores import BROKEN, GOOD, HALF, POOR, RIGHT, predictions
from parfocal.compare.picture import draw_comparison
from parfocal.compare.report import comparison_page
from parfocal.compare.scores import ModelResult, score_results


def page(*results: ModelResult, metric: str = "accuracy") -> str:
    rows = score_results(results, metric, resamples=100)
    return comparison_page(rows, metric, draw_comparison(rows, metric))


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL).split())


def test_each_model_has_its_scores_with_intervals_and_its_cost():
    text = text_of(page(GOOD, POOR))
    assert "good benign 3, cancer 3 1.000 (no interval) 1.000 (0.541 to 1.000)" in text
    assert text.count("it is the same in all 100 resamples") == 1
    assert "No interval (it is the same in all 100 resamples): weighted F1 of good." in text
    assert (
        "Resamples in which a score is defined (others are ignored): macro AUROC of poor 9" in text
    )
    assert " 1.000 (0.541 to 1.000) " in text
    assert "Warning: fewer than 10 patients of a class (benign 3, cancer 3)" in text
    assert "The area under it is the AUROC of the table." in text
    assert "best 500 2 T 2.00" in text
    assert re.search(r"poor benign 3, cancer 3 0.667 \(0.\d+ to 1.000\)", text)
    assert "50 1 T –" in text


def test_several_runs_have_a_standard_deviation():
    assert "0.833 (0.359 to 0.996), ± 0.236 over runs" in text_of(
        page(ModelResult("m", (RIGHT, HALF), macs=1e12))
    )


def test_the_pareto_front_is_listed_and_drawn():
    html = page(GOOD, POOR, ModelResult("dear", (HALF,), macs=9e12))
    assert "no cheaper model scores better): poor, good." in text_of(html)
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_the_confusion_matrix_sums_all_runs():
    text = text_of(
        page(ModelResult("m", (RIGHT, HALF, predictions(0.1, 0.2, 0.3, 0.7, 0.8, 0.1)), macs=1e12))
    )
    assert "3 runs, 18 predictions." in text
    assert "benign cancer benign 8 1 cancer 2 7" in text


def test_each_model_has_its_line_in_every_chart():
    html = page(GOOD, POOR)
    assert len(re.findall(r'aria-label="[^"]*: good, poor"', html)) == 3


def test_a_failed_model_has_its_reason_and_the_others_are_shown():
    text = text_of(page(GOOD, BROKEN))
    assert "broken failed: it broke" in text
    assert "Curves" in text


def test_slides_without_a_prediction_are_counted():
    assert "1 test slides without a prediction" in text_of(page(POOR))


def test_if_all_models_failed_the_page_has_only_the_reasons():
    text = text_of(page(BROKEN))
    assert text.endswith("broken failed: it broke")


def test_the_page_refers_to_no_other_file():
    html = page(GOOD, POOR)
    assert re.findall(r'(?:src|href)="(?!data:)', html) == []
    assert "<script" not in html


@pytest.mark.parametrize("name", ["<script>", "a & b"])
def test_a_name_is_escaped(name):
    html = page(ModelResult(name, (RIGHT,), macs=1e12))
    assert name not in html.replace("&amp;", "+")
