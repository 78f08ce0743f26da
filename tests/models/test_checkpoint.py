import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.encoders.loading import load_encoder
from parfocal.features.header import SlideSettings
from parfocal.models.checkpoint import Checkpoint, CheckpointError, TrainingProvenance, build_model

SETTINGS = {"in_dim": 32, "num_classes": 2, "num_magnifications": 2, "dim": 8, "k": 3}


@pytest.fixture
def trained() -> Checkpoint:
    return Checkpoint(
        model=build_model("zoommil", SETTINGS).eval(),
        model_name="zoommil",
        model_settings=SETTINGS,
        labels=("benign", "tumor"),
        encoders=(load_encoder("tiny").spec,) * 2,
        slide=SlideSettings((1.25, 2.5), patch_size=64, children="all"),
        training=TrainingProvenance(seed=3, epoch=7, slides={"train": ["007"], "val": ["8"]}),
        encoder_weights=(Path("some.pth"),) * 2,
    )


def edit(folder: Path, **changes: object) -> None:
    path = folder / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_loaded_checkpoint_equals_the_saved_one(trained, tmp_path):
    trained.save(tmp_path)
    loaded = Checkpoint.load(tmp_path)
    bag = StoredBag((torch.rand(5, 32), torch.rand(20, 32)))
    assert torch.equal(loaded.model(bag).logits, trained.model(bag).logits)
    assert not loaded.model.training
    assert replace(loaded, model=trained.model, stored_hash=None).__dict__ == trained.__dict__
    assert loaded.weights_hash == trained.weights_hash
    assert loaded.mpps == (8.0, 4.0)
    assert (loaded.magnifications, loaded.patch_size) == ((1.25, 2.5), 64)


def test_a_checkpoint_of_version_2_with_the_old_name_of_a_setting_is_loaded(trained, tmp_path):
    trained.save(tmp_path)
    slide = json.loads((tmp_path / "checkpoint.json").read_text())["slide"]
    slide["tissue"] = "gray"
    del slide["tissue_method"]
    edit(tmp_path, slide=slide)
    assert Checkpoint.load(tmp_path).slide.tissue_method == "gray"


@pytest.mark.parametrize(
    ("old", "name", "settings"),
    [
        ("meanmlp", "mean-mlp", {"in_dim": 32, "num_classes": 2}),
        ("coarsestudent", "coarse-student", {"in_dim": 32, "num_classes": 2, "dim": 8}),
    ],
)
def test_a_checkpoint_with_the_old_name_of_its_model_is_loaded(
    trained, tmp_path, old, name, settings
):
    model = build_model(name, settings).eval()
    replace(trained, model=model, model_name=name, model_settings=settings).save(tmp_path)
    edit(tmp_path, model={"name": old, "settings": settings})
    loaded = Checkpoint.load(tmp_path)
    assert loaded.model_name == name
    bag = StoredBag((torch.rand(5, 32), torch.rand(20, 32)))
    assert torch.equal(loaded.model(bag).logits, model(bag).logits)


def test_only_two_whole_files_are_left(trained, tmp_path):
    trained.save(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint.json", "checkpoint.safetensors"]
    assert json.loads((tmp_path / "checkpoint.json").read_text())["format_version"] == 2


def test_a_save_that_fails_leaves_no_checkpoint(trained, tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trained.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_encoder_of_the_training_is_loaded(trained):
    trained = replace(trained, encoder_weights=())
    loaded = trained.load_encoders()
    assert tuple(each.spec for each in loaded) == trained.encoders
    assert loaded[0] is loaded[1]


def test_another_encoder_under_the_same_name_is_refused(trained):
    other = (replace(trained.encoders[0], weights_hash="other"),) * 2
    with pytest.raises(
        CheckpointError, match="encoder tiny: the model was trained with weights_hash other, and"
    ):
        replace(trained, encoders=other, encoder_weights=()).load_encoders()


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint\.json, so this is not the folder"):
        Checkpoint.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"none: no such folder; give the folder of a f"):
        Checkpoint.load(tmp_path / "none")


def test_a_run_with_folds_is_refused_and_a_fold_is_named(trained, tmp_path):
    for number in range(2):
        trained.save(tmp_path / f"fold-{number}")
    with pytest.raises(
        CheckpointError, match=r"a run with 2 folds; give one of them, for example .*/fold-0"
    ):
        Checkpoint.load(tmp_path)


@pytest.mark.parametrize("versions", [{"parfocal": "8.1"}, "8.1"])
def test_a_newer_format_is_refused_whatever_else_the_file_holds(trained, tmp_path, versions):
    trained.save(tmp_path)
    edit(tmp_path, format_version=9, versions=versions)
    with pytest.raises(
        CheckpointError, match=r"format version 9; this parfocal \(0\..* reads up to 2"
    ):
        Checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged (Expecting"),
        ("[]", "not a checkpoint of parfocal"),
        ('{"format": "other"}', "not a checkpoint of parfocal"),
        ('{"format": "parfocal checkpoint"}', "damaged (KeyError: 'encoder')"),
        ('{"format": "parfocal checkpoint", "format_version": 1}', "damaged (KeyError: 'encoder')"),
        ('{"format": "parfocal checkpoint", "format_version": 2}', "damaged (KeyError: 'encoder')"),
    ],
)
def test_a_damaged_description_is_refused(trained, tmp_path, content, message):
    trained.save(tmp_path)
    (tmp_path / "checkpoint.json").write_text(content)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        Checkpoint.load(tmp_path)


def test_weights_of_another_run_or_none_are_refused(trained, tmp_path):
    trained.save(tmp_path)
    weights = tmp_path / "checkpoint.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"not the weights that checkpoint\.json describes"):
        Checkpoint.load(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: missing"):
        Checkpoint.load(tmp_path)


def test_a_model_this_version_does_not_have_is_refused(trained, tmp_path):
    trained.save(tmp_path)
    edit(tmp_path, model={"name": "oracle", "settings": {}})
    with pytest.raises(
        CheckpointError, match=r"unknown model 'oracle'; this parfocal .* has zoommil"
    ):
        Checkpoint.load(tmp_path)
    edit(tmp_path, model={"name": "zoommil", "settings": {**SETTINGS, "magic": 1}})
    with pytest.raises(CheckpointError, match=r"model zoommil: .*magic"):
        Checkpoint.load(tmp_path)
    edit(tmp_path, model={"name": "zoommil", "settings": {**SETTINGS, "dim": 9}})
    with pytest.raises(CheckpointError, match="the weights do not fit the model"):
        Checkpoint.load(tmp_path)


def test_loading_needs_neither_lightning_nor_sklearn_nor_pydantic():
    code = (
        "import sys, parfocal.models.checkpoint as c; "
        "print([m for m in ('pytorch_lightning', 'sklearn', 'scipy', 'h5py', 'pydantic') "
        "if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert found.strip() == "[]"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(trained, tmp_path, value):
    name, weights = next(iter(trained.model.named_parameters()))
    with torch.no_grad():
        weights.view(-1)[0] = value
    trained.save(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'checkpoint.safetensors'}: the weights {name} are not all finite, so every "
        "prediction would be meaningless. Train again, with a lower train.learning_rate."
    )


SLIDE = {"magnifications": [1.25, 2.5], "patch_size": 64}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("labels", ["tumor", "tumor"], "labels: 'tumor' is there twice"),
        ("labels", ["a", "b", "c"], "labels: 3 for 2 classes"),
        ("labels", ["a", 3], r"labels: \['a', 3\] is not a list of texts"),
        ("labels", "ab", "labels: 'ab' is not a list of texts"),
        (
            "slide",
            {**SLIDE, "tissue_method": "magic"},
            "tissue_method: 'magic' is not one of otsu, gray, all",
        ),
        ("slide", {**SLIDE, "roots": "all"}, "roots: 'all' is not one of "),
        ("slide", {**SLIDE, "patch_size": "big"}, "patch_size: 'big' is not a whole number"),
        ("slide", {**SLIDE, "magnifications": [5, 2]}, r"magnifications: \[5, 2\] do not ascend"),
        ("slide", {**SLIDE, "min_tissue": float("nan")}, "min_tissue: nan is not in 0..1"),
        ("slide", {**SLIDE, "color": 3}, "color: unknown key"),
        ("slide", [1], r"\[1\] is not a mapping"),
        ("training", {"seed": "x", "epoch": 1}, "seed: 'x' is not a whole number"),
        ("encoder", {"name": "tiny"}, "dim: missing"),
        ("model", {"name": "zoommil", "settings": {**SETTINGS, "k": -1}}, "k=-1: at least 1 patch"),
        ("model", {"name": "zoommil", "settings": 3}, "'int' object is not iterable"),
        ("versions", 3, "'int' object is not iterable"),
        ("format_version", "two", "format version 'two'"),
    ],
)
def test_a_wrong_value_in_the_description_is_refused(trained, tmp_path, key, value, message):
    trained.save(tmp_path)
    edit(tmp_path, **{key: value})
    with pytest.raises(CheckpointError, match=rf"checkpoint\.json: damaged \(.*{message}"):
        Checkpoint.load(tmp_path)


def test_a_description_nested_too_deeply_is_refused(tmp_path):
    (tmp_path / "checkpoint.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="damaged"):
        Checkpoint.load(tmp_path)
