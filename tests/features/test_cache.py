import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.distribute.mounts import Mount
from parfocal.features.cache import FeatureCache
from parfocal.features.errors import StoreError, UnwritableError
from parfocal.features.live import live_bag

COORDS = np.array([[0, 0], [16, 0], [0, 16]])

# Encodes every patch of the slide of conftest.py; kills itself after some batches.
VISIT = """
import os, signal, sys
import numpy as np
import torch
from parfocal.encoders.loading import load_encoder
from parfocal.features import FeatureCache, live_bag
from parfocal.grid import PatchGrid
from parfocal.slide.slide import slide_from_array
from pathlib import Path

folder, max_batches = Path(sys.argv[1]), int(sys.argv[2])
pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
roots = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]])
grid = PatchGrid((4.0, 2.0, 0.5), 16, (300, 200), 0.5, roots, 200)
encoder, calls = load_encoder("tiny"), iter(range(10**6))

def count(*_):
    if next(calls) == max_batches:
        os.kill(os.getpid(), signal.SIGKILL)

encoder.macs_per_patch()  # counted with a forward pass, so before the hook is set
encoder.network.register_forward_hook(count)
bag = live_bag(slide_from_array(pixels, mpp=0.5), grid, encoder, cache=FeatureCache(folder))
bag.zoom(torch.eye(6)).zoom(torch.eye(24)).features()
"""


def visit(folder: Path, max_batches: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", VISIT, str(folder), str(max_batches)])


def all_features(bag):
    return bag.zoom(torch.eye(6)).zoom(torch.eye(24)).features()


@pytest.fixture
def cached(tmp_path, encoder):
    return FeatureCache(tmp_path / "cache").for_slide("ab" * 16, encoder.spec, patch_size=16)


@pytest.fixture
def connection(cached):
    with cached.connect() as connection:
        yield connection


@pytest.fixture
def features(encoder):
    return np.random.default_rng(0).normal(size=(3, encoder.spec.dim)).astype(np.float16)


def test_only_what_was_put_is_found(connection, features):
    connection.put(16.0, COORDS, features)
    found, values = connection.get(16.0, np.array([[16, 0], [99, 99], [0, 0]]))
    assert found.tolist() == [True, False, True]
    assert (values == features[[1, 0]]).all()


def test_nothing_is_found_in_an_empty_cache(connection, encoder):
    found, values = connection.get(16.0, COORDS)
    assert not found.any()
    assert values.shape == (0, encoder.spec.dim)


def test_patches_of_another_size_are_not_found(connection, features):
    connection.put(16.0, COORDS, features)
    assert not connection.get(64.0, COORDS)[0].any()


def test_existing_features_are_kept(connection, features):
    connection.put(16.0, COORDS, features)
    connection.put(16.0, COORDS, -features)
    assert (connection.get(16.0, COORDS)[1] == features).all()


def test_slides_encoders_and_patch_sizes_do_not_share_a_file(tmp_path, encoder):
    cache, spec = FeatureCache(tmp_path), encoder.spec
    paths = [
        cache.for_slide("ab" * 16, spec, patch_size=16).path,
        cache.for_slide("cd" * 16, spec, patch_size=16).path,
        cache.for_slide("ab" * 16, spec, patch_size=32).path,
        cache.for_slide("ab" * 16, replace(spec, weights_hash="other"), patch_size=16).path,
        cache.for_slide("ab" * 16, replace(spec, input_size=32), patch_size=16).path,
        cache.for_slide("ab" * 16, replace(spec, resize_px=72), patch_size=16).path,
        cache.for_slide("ab" * 16, replace(spec, output="cls"), patch_size=16).path,
    ]
    assert len(set(paths)) == len(paths)
    assert (
        cache.for_slide("ab" * 16, replace(spec, license="other"), patch_size=16).path == paths[0]
    )


def test_a_second_bag_reads_and_encodes_nothing(tmp_path, slide, grid, encoder):
    cache = FeatureCache(tmp_path)
    first = all_features(live_bag(slide, grid, encoder, cache=cache))
    before = slide.cost_meter.total()
    second = all_features(live_bag(slide, grid, encoder, cache=cache))
    after = slide.cost_meter.total()
    assert torch.equal(first, second)
    assert torch.equal(first, all_features(live_bag(slide, grid, encoder)))
    assert (after.patches, after.pixels_decoded, after.macs) == (
        before.patches,
        before.pixels_decoded,
        before.macs,
    )


def test_features_of_finished_batches_survive_a_kill(tmp_path, slide, grid, encoder):
    assert visit(tmp_path, max_batches=5).wait() == -9
    features = all_features(live_bag(slide, grid, encoder, cache=FeatureCache(tmp_path)))
    whole = int(grid.valid(2).sum())
    assert slide.cost_meter.total().patches[2] == whole - 5 * encoder.batch_size
    assert torch.equal(features, all_features(live_bag(slide, grid, encoder)))


@pytest.mark.slow
def test_two_processes_fill_one_cache(tmp_path, slide, grid, encoder):
    assert [run.wait() for run in [visit(tmp_path, -1), visit(tmp_path, -1)]] == [0, 0]
    features = all_features(live_bag(slide, grid, encoder, cache=FeatureCache(tmp_path)))
    assert slide.cost_meter.total().patches == ()
    assert torch.equal(features, all_features(live_bag(slide, grid, encoder)))


def test_a_process_that_opens_a_cache_waits_for_another_that_creates_it(cached, features):
    # Another process has created the file and has not yet switched to write-ahead mode.
    other = sqlite3.connect(cached.path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE t (a)")
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.2, other.close).start()
    with cached.connect() as connection:
        connection.put(16.0, COORDS, features)


def test_a_damaged_file_is_an_error(cached):
    cached.path.write_bytes(b"not a database" * 1000)
    message = r"sqlite: the feature cache is damaged .*Delete this"
    with pytest.raises(StoreError, match=message), cached.connect():
        pytest.fail("it opened")


def test_damage_found_later_is_an_error(cached, features):
    with cached.connect() as connection:
        connection.put(16.0, COORDS, features)
    content = bytearray(cached.path.read_bytes())
    content[4096:] = b"?" * (len(content) - 4096)
    cached.path.write_bytes(content)
    with (
        pytest.raises(StoreError, match="the feature cache is damaged"),
        cached.connect() as connection,
    ):
        connection.get(16.0, COORDS)


def test_a_path_that_cannot_be_used_is_an_error(cached):
    cached.path.mkdir()
    message = r"the feature cache cannot be used .*leave --cache out"
    with pytest.raises(UnwritableError, match=message), cached.connect():
        pytest.fail("it opened")


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path, encoder):
    (tmp_path / "file").touch()
    cache = FeatureCache(tmp_path / "file" / "cache")
    with pytest.raises(
        UnwritableError, match=r"cannot be created \(Not a directory\). Choose another"
    ):
        cache.for_slide("ab" * 16, encoder.spec, patch_size=16)


def test_a_cache_on_a_network_file_system_is_refused(tmp_path, monkeypatch, encoder):
    mount = Mount(tmp_path, "nfs4", "filer:/export")
    monkeypatch.setattr("parfocal.features.cache.mount_of", lambda path: mount)
    with pytest.raises(UnwritableError) as caught:
        FeatureCache(tmp_path / "cache").for_slide("0" * 64, encoder.spec, patch_size=16)
    assert str(caught.value) == (
        f"{tmp_path / 'cache'}: this folder is on a network file system, nfs4 (filer:/export), "
        "where the SQLite databases of the feature cache may be damaged. Choose a folder on a "
        "local disk with --cache, or leave it out."
    )
    assert not (tmp_path / "cache").exists()
