"""The page of a comparison, read as a person reads it."""

import base64
import re

import pytest

from compare.test_table import BROKEN, GOOD, HALF, POOR, RIGHT, answers
from parfocal.compare.picture import draw
from parfocal.compare.report import page_of
from parfocal.compare.table import Result, rows_of


def page(*results: Result, metric: str = "accuracy") -> str:
    rows = rows_of(results, metric, resamples=100)
    return page_of(rows, metric, draw(rows, metric))


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL).split())


def test_each_model_has_its_scores_with_intervals_and_its_cost():
    text = text_of(page(GOOD, POOR))
    assert "good 1.000 (1.000 to 1.000) 1.000 (1.000 to 1.000)" in text
    assert "best 500 2 T 2.00" in text
    assert re.search(r"poor 0.667 \(0.\d+ to 1.000\)", text)
    assert "50 1 T –" in text


def test_runs_are_told_with_their_deviation():
    assert "0.833 (0.667 to 1.000), ± 0.236 over runs" in text_of(
        page(Result("m", (RIGHT, HALF), macs=1e12))
    )


def test_the_front_is_named_and_drawn():
    html = page(GOOD, POOR, Result("dear", (HALF,), macs=9e12))
    assert "as little, in MACs: poor, good." in text_of(html)
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_confusion_is_that_of_all_runs():
    text = text_of(
        page(Result("m", (RIGHT, HALF, answers(0.1, 0.2, 0.3, 0.7, 0.8, 0.1)), macs=1e12))
    )
    assert "3 runs, 18 answers." in text
    assert "benign cancer benign 8 1 cancer 2 7" in text


def test_each_model_has_its_line_in_every_chart():
    html = page(GOOD, POOR)
    assert len(re.findall(r'aria-label="[^"]*: good, poor"', html)) == 3


def test_a_model_that_failed_is_told_and_the_others_are_shown():
    text = text_of(page(GOOD, BROKEN))
    assert "broken failed: it broke" in text
    assert "Curves" in text


def test_slides_without_an_answer_are_told():
    assert "1 test slides without an answer" in text_of(page(POOR))


def test_when_all_failed_the_page_says_so_alone():
    text = text_of(page(BROKEN))
    assert text.endswith("broken failed: it broke")


def test_the_page_stands_alone():
    html = page(GOOD, POOR)
    assert re.findall(r'(?:src|href)="(?!data:)', html) == []
    assert "<script" not in html


@pytest.mark.parametrize("name", ["<script>", "a & b"])
def test_a_name_is_text_whatever_it_holds(name):
    html = page(Result(name, (RIGHT,), macs=1e12))
    assert name not in html.replace("&amp;", "+")
