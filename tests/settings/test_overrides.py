"""`--set section.key=value` is parsed and checked in the same way by every command."""

import re
import shlex
from pathlib import Path

import pytest

from parfocal.dataset.spelling import labels_option
from parfocal.models.checkpoint import Checkpoint, CheckpointError
from parfocal.settings import SettingsError, load_settings, model_overrides, parse_override


@pytest.fixture
def run(untrained: Checkpoint, tmp_path: Path) -> Path:
    untrained.save(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("model.x=False", False),
        ("model.x=false", False),
        ("model.x=True", True),
        ("model.x=10", 10),
        ("model.x='10'", "10"),
        ('model.x="10"', "10"),
        ("model.x=[4, 2]", [4, 2]),
        ("model.x=null", None),
        ("model.x=", None),
        ("model.x=topk", "topk"),
        ("model.x=a=b", "a=b"),
        ("model.x=.5", 0.5),
    ],
)
def test_a_value_is_yaml(text, value):
    assert parse_override(text) == ("model", "x", value)


@pytest.mark.parametrize("text", ["model.x", "x=3", ".x=3", "model.=3", "a.b.c=3", "=3", ""])
def test_a_text_without_section_key_and_value_is_refused(text):
    message = f"{text!r} is not SECTION.KEY=VALUE; write it as model.k=10."
    with pytest.raises(SettingsError, match=re.escape(message)):
        parse_override(text)


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("[0, 1]", ("0", "1")),
        ("[0, 3+3, 4+4]", ("0", "3+3", "4+4")),
        ("[No, Yes]", ("No", "Yes")),
        ("[1.0, 007, ~]", ("1.0", "007", "~")),
        ("['<5%', '>=5%']", ("<5%", ">=5%")),
        ("3", ("3",)),
        ("null", None),
    ],
)
def test_labels_are_texts_as_they_are_written(tmp_path, value, texts):
    assert load_settings("zoommil", overrides=[f"train.labels={value}"]).train.labels == texts
    config = tmp_path / "labels.yaml"
    config.write_text(f"train:\n  labels: {value}\n  epochs: 3\n")
    train = load_settings("zoommil", config).train
    assert (train.labels, train.epochs) == (texts, 3)


@pytest.mark.parametrize(
    "labels", [("0", "3+3"), ("No", "Yes"), ("ER-", "ER+"), ("<5%", ">=5%"), ("a, b", "Barrett's")]
)
def test_the_option_that_a_message_suggests_is_accepted(labels):
    _, override = shlex.split(labels_option(labels))
    assert load_settings("zoommil", overrides=[override]).train.labels == labels


def test_training_converts_values_to_the_types_of_the_settings():
    settings = load_settings(
        "zoommil",
        overrides=[
            "slide.magnifications=2.5,10",
            "model.k=[4]",
            "model.scale_free=False",
            "train.labels=[b, a]",
            "encoder.weights=lite0.pth",
            "train.refit=true",
            "train.learning_rate=1e-3",
            "train.gradient_clip_norm=null",
        ],
    )
    assert settings.slide.magnifications == (2.5, 10)
    assert settings.model.arguments["k"] == [4]
    assert settings.model.arguments["scale_free"] is False
    assert settings.train.labels == ("b", "a")
    assert settings.encoder.weights == Path("lite0.pth")
    assert (settings.train.refit, settings.train.learning_rate) == (True, 1e-3)
    assert settings.train.gradient_clip_norm is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("model.scale_free=False", False),
        ("model.scale_free=false", False),
        ("model.sigma=1e-3", 1e-3),
        ("model.k=[3]", [3]),
        ("model.k=3", 3),
        ("model.heads='single'", "single"),
    ],
)
def test_a_trained_model_gets_values_of_the_types_of_its_settings(run, text, value):
    (found,) = model_overrides(run, [text]).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.kk=3", "unknown zoommil setting 'kk'; known: dim, k, "),
        ("model.sigm=3", "Did you mean sigma?"),
        ("model.scale_free=maybe", "model.scale_free: 'maybe' is invalid; use true or false."),
        ("model.k=abc", "model.k: 'abc' is invalid; use a whole number or a list."),
        ("model.sigma=null", "model.sigma: None is invalid; use a number."),
        ("model.in_dim=3", "unknown zoommil setting 'in_dim'"),
        ("model.name=abmil", "the model of a trained run cannot be changed"),
        ("train.epochs=3", "the settings of section train cannot be changed after training"),
        ("k=3", "'k=3' is not SECTION.KEY=VALUE"),
    ],
)
def test_a_trained_model_refuses_other_values(run, text, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        model_overrides(run, [text])


def test_a_changed_setting_reaches_the_model(run):
    trained = Checkpoint.load(run, overrides=model_overrides(run, ["model.k=2"]))
    assert trained.model_settings["k"] == 2
    assert model_overrides(run, []) == {}


def test_overrides_need_a_trained_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint\.json"):
        model_overrides(tmp_path, [])
