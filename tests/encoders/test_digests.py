import json
import os

import pytest
import torch

from parfocal.encoders import digests
from parfocal.encoders.digests import digest_once, user_cache_folder
from parfocal.encoders.weights import digest

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7)}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache folder of the user; every size of weights is remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "MIN_BYTES", 0)
    return tmp_path / "cache" / "parfocal" / digests.FILE


@pytest.fixture
def counted(monkeypatch):
    """The number of hashes that were computed, as the length of a list."""
    calls = []

    def counting(weights):
        calls.append(weights)
        return digest(weights)

    monkeypatch.setattr(digests, "digest", counting)
    return calls


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "w.bin"
    path.write_bytes(b"weights")
    return path


def test_weights_of_a_file_are_hashed_once(cache, counted, file):
    hashes = {digest_once(WEIGHTS, [file], recipe="uni") for _ in range(3)}
    assert hashes == {digest(WEIGHTS)}
    assert len(counted) == 1
    assert json.loads(cache.read_text())


@pytest.mark.parametrize("change", ["content", "time", "recipe", "path"])
def test_a_changed_file_is_hashed_again(cache, counted, file, tmp_path, change):
    digest_once(WEIGHTS, [file], recipe="uni")
    recipe = "uni2-h" if change == "recipe" else "uni"
    if change == "content":
        file.write_bytes(b"other weights")
    if change == "time":
        os.utime(file, ns=(1, 1))
    if change == "path":
        file = file.rename(tmp_path / "moved.bin")
    digest_once(WEIGHTS, [file], recipe=recipe)
    assert len(counted) == 2


def test_a_link_is_the_file_that_it_leads_to(cache, counted, file, tmp_path):
    (tmp_path / "link.bin").symlink_to(file)  # as in the cache of the Hub
    for path in (file, tmp_path / "link.bin"):
        digest_once(WEIGHTS, [path], recipe="uni")
    assert len(counted) == 1


def test_small_weights_and_weights_of_unknown_files_are_not_remembered(
    cache, counted, file, monkeypatch
):
    digest_once(WEIGHTS, [], recipe="uni")
    monkeypatch.setattr(digests, "MIN_BYTES", 1000)
    digest_once(WEIGHTS, [file], recipe="uni")
    assert len(counted) == 2
    assert not cache.exists()


def test_a_folder_that_cannot_be_written_or_found_is_no_error(cache, counted, file, monkeypatch):
    cache.parent.parent.write_text("a file where the folder should be")
    assert digest_once(WEIGHTS, [file], recipe="uni") == digest(WEIGHTS)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(digests, "user_cache_folder", no_home)
    assert digest_once(WEIGHTS, [file], recipe="uni") == digest(WEIGHTS)
    assert len(counted) == 2


@pytest.mark.parametrize("damage", [b"{", b"[1]", b"\xff", b'{"key": 3}'])
def test_a_damaged_memory_is_replaced(cache, file, damage):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(damage)
    assert digest_once(WEIGHTS, [file], recipe="uni") == digest(WEIGHTS)
    assert list(json.loads(cache.read_text()).values()) == [digest(WEIGHTS)]


def test_the_newest_hashes_are_kept(cache, file, monkeypatch):
    monkeypatch.setattr(digests, "MAX_ENTRIES", 2)
    for recipe in ("a", "b", "c"):
        digest_once(WEIGHTS, [file], recipe=recipe)
    assert len(json.loads(cache.read_text())) == 2


def test_the_cache_folder_is_that_of_the_system(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(digests.sys, "platform", "linux")
    assert user_cache_folder() == tmp_path / ".cache" / "parfocal"
    monkeypatch.setattr(digests.sys, "platform", "darwin")
    assert user_cache_folder() == tmp_path / "Library" / "Caches" / "parfocal"
    monkeypatch.setattr(digests.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert user_cache_folder() == tmp_path / "local" / "parfocal"


def test_weights_in_bfloat16_have_a_hash():
    assert digest({"a": torch.ones(2, dtype=torch.bfloat16)}) != digest({"a": torch.ones(2).half()})
