"""The recipe of `parfocal train` without --model."""

import pytest

from command_result import assert_refused
from parfocal.cli.training import DEFAULT_RECIPE
from parfocal.settings import SettingsError, load_settings


def test_the_default_recipe_learns_where_to_zoom_in_hindsight(parfocal):
    assert load_settings(DEFAULT_RECIPE).model.arguments["hindsight"] is True
    shown = " ".join(parfocal("train", "--help").out.split())
    assert f"[default: {DEFAULT_RECIPE}]" in shown


@pytest.mark.parametrize("recipe", [DEFAULT_RECIPE, "zoommil", "paths"])
def test_one_magnification_with_a_model_that_zooms_is_refused(recipe):
    with pytest.raises(
        SettingsError,
        match=r"slide\.magnifications: \[10\] is one magnification, and model \w+ zooms from one "
        r"to the next; give at least two, as 2\.5,10, or choose a model of one magnification",
    ):
        load_settings(recipe, overrides=["slide.magnifications=10"])


def test_one_magnification_is_refused_on_the_command_line(parfocal, tmp_path):
    (tmp_path / "cohort.csv").write_text("slide_id,path,label\na,a.svs,x\nb,b.svs,y\n")
    result = parfocal(
        "train", tmp_path / "cohort.csv", "--out", tmp_path / "run", "--magnifications", "10"
    )
    refusal = "--magnifications: [10] is one magnification, and model zoommil zooms"
    assert_refused(result, refusal, code=2)
    assert not (tmp_path / "run").exists()
