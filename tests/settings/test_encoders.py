"""An encoder for each magnification, in YAML, in single values and on a command line."""

import logging
from pathlib import Path

import pytest
from torch import nn

from parfocal.encoders import right_use
from parfocal.encoders.catalog import CARDS
from parfocal.encoders.encoder import Encoder, NetworkEncoder
from parfocal.encoders.weights import EncoderError
from parfocal.settings import EncoderSettings, RunSettings, SettingsError, load_settings
from parfocal.settings.encoders import encoder_settings, load_encoders, parse_per_magnification
from parfocal.settings.load import load_run_settings

TWO = {2.5: "tiny", 10.0: "uni2-h"}
LADDER = "slide.magnifications=[2.5, 10]"


def load(*overrides: str, **flags: object) -> RunSettings:
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings("zoommil-hindsight", overrides=[LADDER, *overrides], flags=named)


def names(settings: RunSettings) -> object:
    assert settings.encoder is not None
    return settings.encoder.name


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("uni2-h", "uni2-h"),
        ("2.5=tiny,10=uni2-h", TWO),
        ("2.5x=tiny, 10x = uni2-h", TWO),
        ("10=timm:hf-hub:owner/name", {10.0: "timm:hf-hub:owner/name"}),
        (
            "1.25=http://host:80/a?b=c,d,10=timm:local-dir:/a,b/c",
            {1.25: "http://host:80/a?b=c,d", 10.0: "timm:local-dir:/a,b/c"},
        ),
        ("http://host/?level=10", "http://host/?level=10"),
        ("timm:vit_base_patch16_224.dino", "timm:vit_base_patch16_224.dino"),
    ],
)
def test_a_text_is_one_value_or_a_value_for_each_magnification(text, value):
    assert parse_per_magnification(text) == value


@pytest.mark.parametrize(
    "section",
    [
        "{2.5: tiny, 10: uni2-h}",
        "{2.5x: tiny, 10x: uni2-h}",
        "2.5=tiny,10=uni2-h",
        "{name: {2.5: tiny, 10: uni2-h}}",
        "{name: '2.5=tiny,10=uni2-h'}",
        "{2.5: tiny, 10: uni2-h, runtime: auto}",
    ],
)
def test_a_file_names_an_encoder_for_each_magnification(tmp_path, section):
    config = yaml_file(tmp_path, f"encoder: {section}\n")
    settings = load_settings("zoommil-hindsight", config, [LADDER])
    assert names(settings) == TWO


def test_a_file_names_one_encoder_for_all_magnifications(tmp_path):
    config = yaml_file(tmp_path, "encoder: tiny\n")
    assert names(load_settings("zoommil-hindsight", config)) == "tiny"


@pytest.mark.parametrize(
    "override", ["encoder.name=2.5=tiny,10=uni2-h", "encoder.name={2.5: tiny, 10: uni2-h}"]
)
def test_single_values_name_an_encoder_for_each_magnification(override):
    assert names(load(override)) == TWO


def test_a_flag_replaces_the_encoders_of_a_file(tmp_path):
    config = yaml_file(tmp_path, "encoder: {2.5: tiny, 10: uni2-h}\n")
    settings = load_settings("zoommil", config, [LADDER], {"encoder.name": "tiny"})
    assert names(settings) == "tiny"
    assert names(load(encoder__name="2.5=tiny,10=uni2-h")) == TWO


def test_settings_are_read_back_from_a_run_folder(tmp_path):
    settings = load("encoder.name=2.5=tiny,10=efficientnet-lite0", "encoder.weights=10=lite0.pth")
    path = yaml_file(tmp_path, settings.to_yaml())
    assert load_run_settings(path) == (settings, 2)
    assert settings.encoder is not None
    assert [settings.encoder.weights_at(each) for each in (2.5, 10.0)] == [None, Path("lite0.pth")]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "encoder.name=2.5=tiny",
            "encoder.name (--encoder): 10x has no encoder, and the magnifications are 2.5, 10; "
            "add 10=NAME.",
        ),
        (
            "encoder.name=2.5=tiny,10=tiny,20=uni2-h",
            "encoder.name: 20x has uni2-h, but the magnifications are 2.5, 10; remove it, or",
        ),
        (
            "encoder.name=2.5=tiny,10=tiny,10x=uni2-h",
            "'2.5=tiny,10=tiny,10x=uni2-h': 10x is listed twice; list it once.",
        ),
        (
            "encoder.name={2.5: tiny, 2.5x: tiny}",
            "encoder.name: 2.5x is listed twice.",
        ),
        (
            "encoder.name={low: tiny, high: tiny}",
            "encoder.name: 'low' is not a magnification; write {1.25: NAME, 10: NAME}.",
        ),
        (
            "encoder.name={2.5: 3, 10: tiny}",
            "encoder.name: {2.5: 3, 10.0: 'tiny'} is invalid; use text",
        ),
        ("encoder.name=[tiny, tiny]", "encoder.name: ['tiny', 'tiny'] is invalid; use "),
        (
            "encoder.weights=5=a.pth",
            "encoder.weights: 5x has a.pth, but the magnifications are 2.5, 10; remove it, or",
        ),
    ],
)
def test_encoders_that_do_not_fit_the_magnifications_are_refused(override, message):
    with pytest.raises(SettingsError) as error:
        load(override)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_names_by_magnification_and_a_name_for_all_are_refused(tmp_path):
    config = yaml_file(tmp_path, "encoder: {name: tiny, 10: uni2-h}\n")
    with pytest.raises(SettingsError, match="encoder: name and 10 are given; write the encoders"):
        load_settings("zoommil", config)


def test_one_weights_file_for_several_encoders_is_refused():
    message = r"encoder.weights: a.pth is one file for several encoders; say for which, as 10=a.pth"
    with pytest.raises(SettingsError, match=message):
        load("encoder.name=2.5=tiny,10=uni2-h", "encoder.weights=a.pth")
    with pytest.raises(SettingsError, match=message):
        encoder_settings("2.5=tiny,10=uni2-h", [2.5, 10], weights=Path("a.pth"))


def test_a_model_at_one_magnification_takes_the_encoder_of_that_one():
    settings = load_settings("mean", flags={"encoder.name": "10=tiny"})
    assert names(settings) == {10.0: "tiny"}
    with pytest.raises(SettingsError, match=r"encoder.name: 2.5x has tiny, but the magnifi.* 10;"):
        load_settings("mean", flags={"encoder.name": "2.5=tiny,10=uni2-h"})


def test_a_model_that_takes_pixels_has_no_encoder_at_any_magnification():
    with pytest.raises(SettingsError, match="encoder: model jsma takes pixels"):
        load_settings("jsma", flags={"encoder.name": "2.5=tiny,10=tiny"})


def test_equal_encoders_are_loaded_once():
    settings = encoder_settings("2.5=tiny,5=tiny,10=efficientnet-lite0", [2.5, 5, 10])
    low, middle, high = load_encoders(settings, [2.5, 5, 10])
    assert low is middle
    assert [each.spec.dim for each in (low, high)] == [32, 1280]


@pytest.fixture
def stub_loading(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Load no weights: encoders have the descriptions of their cards; calls are recorded."""
    calls: list[dict[str, object]] = []

    def load_encoder(name: str, **settings: object) -> Encoder:
        calls.append({"name": name, **settings})
        return NetworkEncoder(CARDS[name].spec(), nn.Identity())

    monkeypatch.setattr("parfocal.settings.encoders.load_encoder", load_encoder)
    return calls


def test_an_encoder_outside_its_range_is_refused_before_its_weights_are_loaded(
    stub_loading: list[dict[str, object]],
) -> None:
    settings = EncoderSettings(name="uni2-h")
    with pytest.raises(EncoderError, match=r"uni2-h was made for 0\.4 to 0\.625 .* 2\.5x has 4"):
        load_encoders(settings, (2.5, 20))
    assert not stub_loading
    assert len(load_encoders(settings, (20,))) == 1
    any_mpp = EncoderSettings(name="uni2-h", any_mpp=True)
    assert len(load_encoders(any_mpp, (2.5, 20))) == 2


def test_each_magnification_has_the_range_of_its_own_encoder(
    stub_loading: list[dict[str, object]],
) -> None:
    settings = EncoderSettings(name={2.5: "efficientnet-lite0", 20.0: "uni2-h"})
    assert len(load_encoders(settings, (2.5, 20.0))) == 2


def test_output_and_trust_reach_the_loader(stub_loading: list[dict[str, object]]) -> None:
    settings = encoder_settings(
        "2.5=efficientnet-lite0,10=virchow2", (2.5, 10), output="10=cls", trust_remote_code=True
    )
    load_encoders(settings, (2.5, 10))
    found = [(call["name"], call["output"], call["trust_remote_code"]) for call in stub_loading]
    assert found == [("efficientnet-lite0", None, True), ("virchow2", "cls", True)]


def test_outputs_are_read_from_text_and_yaml(tmp_path: Path) -> None:
    encoder = load("encoder.output=10=cls").encoder
    assert encoder is not None
    assert (encoder.output_at(2.5), encoder.output_at(10)) == (None, "cls")
    file = yaml_file(tmp_path, "encoder: {name: uni, output: cls+mean}\n")
    encoder = load_settings("zoommil", file).encoder
    assert encoder is not None
    assert encoder.output == "cls+mean"


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(SettingsError, match="output 'all' is not known; choose pooled, cls, cls"):
        encoder_settings("uni", (20,), output="all")
    with pytest.raises(SettingsError, match=r"encoder\.output"):
        load("encoder.output=all")


def test_patches_of_another_size_are_logged(
    stub_loading: list[dict[str, object]], caplog: pytest.LogCaptureFixture
) -> None:
    right_use._warn_once.cache_clear()
    caplog.set_level(logging.WARNING)
    load_encoders(EncoderSettings(name="conch"), (20,), patch_size=256)
    assert "conch was made for patches of 512 px" in caplog.text
