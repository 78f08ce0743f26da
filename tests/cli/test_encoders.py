import json
import sys

import pytest


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
        "license",
        "gated",
        "installed",
    ]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert rows["efficientnet-lite0"].endswith("  yes")
    assert rows["uni2-h"].split()[1:4] == ["1536", "or", "3072"]
    assert rows["uni2-h"].endswith("needs timm")
    assert len(rows) == 26


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
    one = json.loads(parfocal("encoders", "virchow2", "--json").out)
    assert one == by_name["virchow2"]
    assert (one["missing_packages"], one["has_weights"], one["gated"]) == (["timm"], False, True)


def test_an_unknown_encoder_is_refused_with_the_nearest_names(parfocal):
    result = parfocal("encoders", "virchov")
    assert result.code == 1
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
