import sys
from pathlib import Path

import pytest

from parfocal.encoders.catalog import CARDS
from parfocal.encoders.hub import cache_folder, cached_files, download, is_offline, weights_files
from parfocal.encoders.weights import EncoderError

VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in (*VARIABLES, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def cached(folder, repository, *files, kind="models", revision="abc"):
    """Write empty files as huggingface_hub caches them."""
    snapshot = folder / f"{kind}--{repository.replace('/', '--')}" / "snapshots" / revision
    for file in files:
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).touch()
    return snapshot


def test_the_cache_is_where_huggingface_hub_has_it(monkeypatch, tmp_path):
    assert cache_folder() == Path("~/.cache/huggingface/hub").expanduser()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "huggingface" / "hub"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert cache_folder() == tmp_path / "hub"


def test_weights_in_the_cache_are_found(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert cached_files("owkin/phikon") == []
    snapshot = cached(tmp_path, "owkin/phikon", "config.json")
    assert cached_files("owkin/phikon") == []  # an interrupted download
    cached(tmp_path, "owkin/phikon", "pytorch_model.bin", "model.safetensors", "optimizer.bin")
    assert cached_files("owkin/phikon") == [snapshot / "model.safetensors"]
    file = "fm_v1/ctranspath/CHIEF_CTransPath.pth"
    snapshot = cached(tmp_path, "MahmoodLab/hest-bench", file, kind="datasets")
    assert cached_files("MahmoodLab/hest-bench", dataset=True, name=file) == [snapshot / file]


def test_weights_of_a_name_of_their_own_are_found_by_extension(tmp_path):
    for name in ("b.pth", "a.pth", "c.txt"):
        (tmp_path / name).touch()
    assert weights_files(tmp_path) == [tmp_path / "a.pth", tmp_path / "b.pth"]
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (tmp_path / name).touch()
    assert [path.suffix for path in weights_files(tmp_path)] == [".safetensors"] * 2


def test_without_the_package_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        EncoderError, match=r"huggingface_hub is not installed; run pip install 'pa"
    ):
        download(CARDS["uni2-h"])


def test_both_libraries_say_that_there_is_no_network(monkeypatch):
    assert not is_offline()
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "true")
    assert is_offline()
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert is_offline()
