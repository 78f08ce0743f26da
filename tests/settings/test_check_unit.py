"""Settings of patients and covariates that do not go with a model are refused."""

import pytest

from parfocal.settings import SettingsError, load_settings
from parfocal.settings.check_unit import require_covariates


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        (
            "abmil",
            ["train.fusion=mean"],
            r"train\.fusion=mean joins the predictions.*--per patient",
        ),
        (
            "jsma",
            ["train.per=patient"],
            r"takes pixels, and reads one slide at a time.*--fusion mean",
        ),
        (
            "meanrgb",
            ["train.per=patient", "train.fusion=attention"],
            r"takes pixels, and reads one slide at a time",
        ),
        ("patchsupervised", ["train.per=patient"], r"is trained on outlines of lesions, slide by"),
        ("abmil", ["train.covariates=[age, age]"], r"train\.covariates: .*age is named twice"),
        ("abmil", ["train.covariates=[label]"], r"train\.covariates: label is what the model pred"),
        (
            "abmil",
            [
                "train.covariates=[os]",
                *("train.task=survival", "train.time=os", "train.event=event"),
            ],
            r"train\.covariates: os is what the model predicts",
        ),
        (
            "abmil",
            ["train.per=patient", "train.fusion=max", "train.target=[msi, area:regression]"],
            r"train\.fusion: fusion max with several targets .* the classes of msi; ",
        ),
        ("abmil", ["train.covariates=[slide_id]"], r"slide_id identifies a slide or its part"),
        ("abmil", ["train.covariates=[age:text]"], r"train\.covariates: .*unknown kind 'text'"),
        ("abmil", ["train.per=case"], r"train\.per: "),
    ],
)
def test_settings_that_do_not_go_together_are_refused(recipe, overrides, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(recipe, overrides=overrides)


def test_a_model_of_covariates_alone_needs_their_columns():
    with pytest.raises(SettingsError, match=r"model covariates predicts from covariates alone; "):
        require_covariates(load_settings("covariates"))
    require_covariates(load_settings("covariates", overrides=["train.covariates=age"]))


def test_settings_of_patients_are_read():
    settings = load_settings(
        "meanrgb", overrides=["train.per=patient", "train.fusion=mean", "train.covariates=age"]
    ).train
    assert (settings.per, settings.fusion, settings.covariates) == ("patient", "mean", ("age",))
    assert load_settings("abmil").train.per == "slide"


def test_a_model_that_opens_no_slide_has_no_encoder():
    with pytest.raises(SettingsError, match=r"encoder: model covariates opens no slide; leave"):
        load_settings("covariates", overrides=["train.covariates=age", "encoder.name=tiny"])
