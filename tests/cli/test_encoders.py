import json
import sys
from dataclasses import replace

import pytest

from parfocal.encoders.catalog import CARDS
from parfocal.models.checkpoint import build_model
from small import write_table


@pytest.fixture(autouse=True)
def _no_packages(monkeypatch, tmp_path):
    """A machine without timm and transformers, and with an empty cache of the Hub."""
    monkeypatch.setattr("parfocal.encoders.listing.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def test_all_encoders_are_listed_with_what_is_missing(parfocal):
    lines = parfocal("encoders").out.splitlines()
    assert lines[0].split() == [
        "name",
        "features",
        "patch",
        "µm/px",
        "GMAC",
        "license",
        "gated",
        "installed",
    ]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert rows["efficientnet-lite0"].endswith("  yes")
    assert rows["uni2-h"].split()[1:4] == ["1536", "or", "3072"]
    assert rows["uni2-h"].split()[4:8] == ["256", "px", "0.5", "185"]
    assert rows["uni2-h"].endswith("needs timm")
    assert rows["tiny"].endswith("yes, for tests")
    assert len(rows) == 28


def test_an_encoder_is_described_with_the_steps_to_use_it(parfocal):
    text = parfocal("encoders", "uni_v2").out
    assert text.startswith("uni2-h\n")
    assert "1536 (cls), 3072 (cls+mean)" in text
    assert "Install: pip install 'parfocal[timm]'\n" in text
    assert "Ask for access at https://huggingface.co/MahmoodLab/UNI2-h, then set HF_TOKEN" in text
    assert "--magnifications 20 --encoder uni2-h" in text


def test_what_is_there_is_not_asked_for_again(parfocal, monkeypatch, tmp_path):
    monkeypatch.setattr("parfocal.encoders.listing.find_spec", lambda name: name)
    folder = tmp_path / "hub" / "models--owkin--phikon" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    text = parfocal("encoders", "phikon").out
    assert "installed    yes" in text
    assert "pip install 'parfocal[transformers]'  (done)" in text
    assert "(done: they are in the Hub's cache)" in text
    assert "installed    no weights" in parfocal("encoders", "phikon-v2").out


def test_code_of_a_repository_is_mentioned(parfocal):
    assert "Allow this: --trust-remote-code" in parfocal("encoders", "hibou-l").out


def test_the_list_is_printed_as_json(parfocal):
    facts = json.loads(parfocal("encoders", "--json").out)
    by_name = {each["name"]: each for each in facts}
    assert by_name["virchow2"]["features"] == {"cls+mean": 2560, "cls": 1280}
    assert by_name["prov-gigapath"]["resize_px"] == 256
    assert by_name["prov-gigapath"]["macs_per_patch"] == 228_095_090_688
    one = json.loads(parfocal("encoders", "virchow2", "--json").out)
    assert one == by_name["virchow2"]
    assert (one["missing_packages"], one["has_weights"], one["gated"]) == (["timm"], False, True)


def test_an_unknown_encoder_is_refused_with_the_nearest_names(parfocal):
    result = parfocal("encoders", "virchov")
    assert result.code == 2
    assert "encoder 'virchov' is not known; similar names: virchow, virchow2" in result.err


def test_extraction_at_a_resolution_that_an_encoder_was_not_made_for_is_refused(
    parfocal, cohort, tmp_path
):
    flags = ("--magnifications", "2.5,20", "--encoder", "uni2-h", "--device", "cpu")
    result = parfocal("extract", cohort, "--out", tmp_path / "features", *flags)
    assert result.code == 1
    assert "uni2-h was made for 0.4 to 0.625 µm/px, and 2.5x has 4." in result.err
    assert "--any-mpp" in result.err
    mixed = ("--magnifications", "2.5,20", "--encoder", "2.5=tiny,20=uni2-h", "--device", "cpu")
    result = parfocal("extract", cohort, "--out", tmp_path / "features", *mixed)
    assert "uni2-h: timm cannot be imported" in result.err  # now the weights are asked for
    result = parfocal("extract", cohort, "--out", tmp_path / "features", *flags, "--any-mpp")
    assert "uni2-h: timm cannot be imported" in result.err
    assert result.err.count("\n") == 1


def test_encoders_for_tests_are_described(parfocal):
    text = parfocal("encoders", "tiny").out
    assert "features     32 (pooled)" in text
    assert "weights      random" in text
    assert "installed    yes, for tests" in parfocal("encoders", "resnet50-layer3-random").out


def test_names_that_are_not_near_are_not_suggested(parfocal):
    assert "'nope:thing' is not known. `parfocal enc" in parfocal("encoders", "nope:thing").err


def test_commands_that_take_one_encoder_refuse_encoders_by_magnification(
    parfocal, cohort, tmp_path
):
    text = "names an encoder for a magnification; give the name without the magnification"
    served = parfocal("serve-encoder", "2.5=tiny,10=x")
    assert (served.code, f"'2.5=tiny,10=x' {text}" in served.err) == (2, True)
    probed = parfocal("probe", cohort, "--encoders", "tiny,10=tiny", "--out", tmp_path / "out")
    assert (probed.code, f"'10=tiny' {text}" in probed.err) == (2, True)
    for command in ("serve-encoder", "probe"):
        assert "one per magnification" not in parfocal(command, "--help").out


def test_encoders_and_slides_that_fail_are_printed_once_and_counted_apart(
    parfocal, cohort, tmp_path
):
    header, *rows = (line.split(",") for line in cohort.read_text().splitlines())
    absolute = [(name, str(cohort.parent / path), *rest) for name, path, *rest in rows]
    (tmp_path / "bad.tif").write_text("no slide")
    bad = ("bad", "bad.tif", "tumor", "test")
    table = write_table(tmp_path / "cohort.csv", header, *absolute, bad)
    flags = ("--encoders", "tiny,timm:nope", "--out", tmp_path / "out", "--patches", 2)
    result = parfocal("probe", table, *flags, "--magnification", 2.5, "--device", "cpu")
    assert result.code == 1
    assert (result.out + result.err).count("timm:nope: ") == 1
    assert "parfocal: 1 of 2 encoders failed:\nparfocal: timm:nope: " in result.err
    assert f"parfocal: 1 of {len(rows) + 1} slides failed:\nparfocal: bad" in result.err


def test_a_trained_model_without_its_weights_says_what_predict_takes(
    parfocal, untrained, slide, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, package in (("uni2-h", "timm cannot be imported"), ("resnet50-layer3", "as a file")):
        spec = replace(CARDS[name].spec(), weights_hash="0" * 16)
        settings = {**untrained.model_settings, "in_dim": spec.dim}
        model = build_model("zoommil", settings).eval()
        run = tmp_path / name
        replace(untrained, model=model, model_settings=settings, encoders=(spec, spec)).save(run)
        result = parfocal("predict", run, slide, "--out", tmp_path / "out", "--device", "cpu")
        assert result.code == 1
        assert package in result.err
        assert "encoder.weights" not in result.err
        assert "choose an encoder" not in result.err
    assert "--encoder-at PATH" in result.err
