import multiprocessing
import pickle
import resource
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from parfocal.features.errors import MixedFeaturesError, StoreError, UnwritableError
from parfocal.features.header import RENAMED_SETTINGS, Header
from parfocal.features.rows import contiguous_runs
from parfocal.features.store import FeatureFile, feature_path
from parfocal.features.writer import create


@pytest.fixture
def header(encoder, settings, grid):
    encoders = (encoder.spec,) * len(settings.magnifications)
    return Header(encoders, settings, grid, "S-001", "ab" * 16, "file: openslide.mpp-x")


@pytest.fixture
def tables(grid, encoder):
    generator = torch.Generator().manual_seed(0)
    shape = encoder.spec.dim
    return [torch.randn(count, shape, generator=generator).half() for count in grid.counts]


@pytest.fixture
def path(tmp_path, header, tables):
    write(tmp_path / "S-001.h5", header, tables)
    return tmp_path / "S-001.h5"


def write(path, header, tables, **options):
    with create(path, header, **options) as writer:
        for step, table in enumerate(tables):
            writer.write(step, np.arange(len(table)), table.numpy())


@contextmanager
def limited_disk(max_bytes: int) -> Iterator[None]:
    """Limit the size of files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def set_attribute(path, name, value):
    with h5py.File(path, "r+") as file:
        file.attrs[name] = value


def test_every_row_is_read_as_it_was_written(path, tables):
    for rows, table in zip(FeatureFile(path).levels, tables, strict=True):
        assert torch.equal(rows[torch.arange(len(table))], table)


def test_the_header_is_read_as_it_was_written(path, header, grid):
    stored = FeatureFile(path)
    assert stored.header == replace(header, grid=stored.header.grid)
    assert stored.header.grid.counts == grid.counts
    assert stored.magnifications == (2.5, 5.0, 20.0)
    assert stored.mpps == (4.0, 2.0, 0.5)
    assert stored.patch_size == 16
    assert stored.fingerprint == "ab" * 16
    assert (stored.coords(2) == grid.coords(2)).all()


@pytest.mark.parametrize(("old", "new"), RENAMED_SETTINGS.items())
def test_a_file_with_the_old_name_of_a_setting_is_read(path, old, new):
    settings = FeatureFile(path).header.settings
    with h5py.File(path, "r+") as file:
        value = file.attrs[new]
        del file.attrs[new]
        file.attrs[old] = value
    assert FeatureFile(path).header.settings == settings


def test_other_programs_find_coordinates_and_validity_with_the_features(path, grid):
    with h5py.File(path) as file:
        assert (file["5x/coords"][:] == grid.coords(1)).all()
        assert (file["5x/valid"][:] == grid.valid(1)).all()
        assert file["20x"].attrs["mpp"] == 0.5
        assert file["20x/features"].dtype == np.float16
        assert file["20x/features"].chunks[0] >= 256


def test_rows_are_returned_in_the_requested_order_and_can_repeat(path, tables):
    rows = torch.tensor([300, 7, 8, 300, 0])
    assert torch.equal(FeatureFile(path).levels[2][rows], tables[2][rows])


def test_no_rows_give_an_empty_tensor(path, encoder):
    empty = FeatureFile(path).levels[2][torch.arange(0)]
    assert empty.shape == (0, encoder.spec.dim)


def test_a_bag_zooms_into_the_children(path, tables):
    select = torch.zeros(1, 6)
    select[0, 2] = 1
    bag = FeatureFile(path).bag().zoom(select)
    assert torch.equal(bag.features(), tables[1][8:12].float())
    assert bag.valid.tolist() == [True, True, False, False]  # the right half is off the scan


def test_a_bag_can_skip_a_magnification(path, tables):
    select = torch.zeros(1, 6)
    select[0, 5] = 1
    bag = FeatureFile(path).bag((2.5, 20.0)).zoom(select)
    assert torch.equal(bag.features(), tables[2][320:384].float())


def test_a_bag_of_a_magnification_that_is_not_stored_is_refused(path):
    with pytest.raises(MixedFeaturesError, match=r"features are of 2.5x, 5x, 20x, and not of 10x"):
        FeatureFile(path).bag((2.5, 10.0))


def test_features_can_be_stored_as_float32(tmp_path, header, tables):
    exact = [torch.full(table.shape, 1 / 3) for table in tables]
    write(tmp_path / "a.h5", header, exact, dtype="float32")
    assert (FeatureFile(tmp_path / "a.h5").levels[0][torch.arange(6)] == exact[0]).all()


def test_rows_never_written_are_zero(tmp_path, header, encoder):
    with create(tmp_path / "a.h5", header) as writer:
        writer.write(0, np.array([0, 4]), np.ones((2, encoder.spec.dim), dtype=np.float16))
    rows = FeatureFile(tmp_path / "a.h5").levels[0][torch.arange(6)]
    assert rows[:, 0].tolist() == [1, 0, 0, 0, 1, 0]


def test_a_feature_file_can_be_sent_to_another_process(path, tables):
    sent = pickle.loads(pickle.dumps(FeatureFile(path)))
    assert torch.equal(sent.bag().features(), tables[0].float())


def column_sum(file):
    return file.bag().features()[:, 0].sum().item()


def test_a_forked_process_reads_what_its_parent_has_read(path):
    file = FeatureFile(path)
    expected = column_sum(file)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        assert pool.submit(column_sum, file).result() == expected


def test_runs_are_split_at_large_gaps():
    rows = np.array([3, 4, 9, 100])
    assert [run.tolist() for run in contiguous_runs(rows, 5)] == [[3, 4, 9], [100]]


def test_the_reserved_disk_space_is_released(path):
    assert path.stat().st_size < 300_000  # more than a megabyte was reserved


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_no_file(tmp_path, header, tables, error):
    def interrupted():
        yield tables[0]
        raise error

    with pytest.raises(error):
        write(tmp_path / "a.h5", header, interrupted())
    assert list(tmp_path.iterdir()) == []


def test_a_whole_file_survives_an_interrupted_rewrite(path, header, tables):
    with pytest.raises(KeyboardInterrupt), create(path, header):
        raise KeyboardInterrupt
    assert [file.name for file in path.parent.iterdir()] == ["S-001.h5"]
    assert torch.equal(FeatureFile(path).levels[0][torch.arange(6)], tables[0])


@pytest.mark.parametrize("max_bytes", [100, 10_000, 500_000])
def test_a_full_disk_is_reported_before_the_work_and_leaves_no_file(tmp_path, header, max_bytes):
    message = r"a.h5: the feature file could not be written \(File too large\).*Free space"
    full = limited_disk(max_bytes)
    with full, pytest.raises(UnwritableError, match=message), create(tmp_path / "a.h5", header):
        pytest.fail("the work began")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path, header):
    (tmp_path / "file").touch()
    message = r"file: the folder of the feature files cannot be created \(File exists\)"
    with pytest.raises(UnwritableError, match=message), create(tmp_path / "file" / "a.h5", header):
        pytest.fail("the work began")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(StoreError, match=r"a.h5: there is no such feature file. Run `parfocal ext"):
        FeatureFile(tmp_path / "a.h5")


def test_a_file_that_is_not_hdf5_is_an_error(tmp_path):
    (tmp_path / "a.h5").write_text("not HDF5")
    with pytest.raises(
        StoreError, match=r"a.h5: the feature file is incomplete .*Delete it and extract"
    ):
        FeatureFile(tmp_path / "a.h5")


def test_a_truncated_file_is_an_error(path):
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(StoreError, match=r"S-001.h5: the feature file is incomplete .*Delete it"):
        FeatureFile(path)


def test_a_file_without_a_table_is_an_error(path):
    with h5py.File(path, "r+") as file:
        del file["20x/features"]
    with pytest.raises(StoreError, match=r"incomplete or damaged \(.*features.*\). Delete it"):
        FeatureFile(path)


def test_hdf5_files_of_other_programs_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.zeros((3, 4))
    with pytest.raises(StoreError, match=r"a.h5: an HDF5 file, but not a feature file of parf"):
        FeatureFile(tmp_path / "a.h5")


def test_a_newer_format_is_refused(path):
    set_attribute(path, "format_version", 3)
    with pytest.raises(StoreError, match=r"format version 3, and this parfocal reads up to 2"):
        FeatureFile(path)


def test_features_of_the_expected_encoder_and_patches_pass(path, encoder, settings):
    FeatureFile(path).check(encoder.spec, settings)
    FeatureFile(path).check(encoder.spec, replace(settings, magnifications=(2.5, 20.0)))


def test_another_encoder_is_refused_naming_both(path, encoder, settings):
    other = replace(encoder.spec, name="resnet50-layer3", weights_hash="0123456789abcdef")
    message = r"made with encoder tiny \(weights [\w-]+\), and now it is resnet50-layer3 \("
    with pytest.raises(MixedFeaturesError, match=message):
        FeatureFile(path).check(other, settings)


def test_the_same_encoder_of_other_weights_is_refused(path, encoder, settings):
    other = replace(encoder.spec, weights_hash="0123456789abcdef")
    with pytest.raises(
        MixedFeaturesError, match=r"and now it is tiny \(weights 0123.* do not mix. Use the former"
    ):
        FeatureFile(path).check(other, settings)


def test_another_preparation_of_pixels_is_refused(path, encoder, settings):
    other = replace(encoder.spec, mean=(0.0, 0.0, 0.0))
    with pytest.raises(
        MixedFeaturesError, match=r"made with preparation of pixels \d+ px bilinear, m"
    ):
        FeatureFile(path).check(other, settings)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"patch_size": 256}, "patch size 16, and now it is 256"),
        ({"tissue_method": "gray"}, "slide.tissue_method otsu, and now it is gray"),
        ({"min_tissue": 0.5}, "min_tissue 0.1, and now it is 0.5"),
        ({"children": "all"}, "children tissue, and now it is all"),
        ({"magnifications": (2.5, 5.0, 40.0)}, "of 2.5x, 5x, 20x, and not of 40x"),
    ],
)
def test_other_patches_are_refused_naming_both(path, encoder, settings, other, message):
    with pytest.raises(MixedFeaturesError, match=message):
        FeatureFile(path).check(encoder.spec, replace(settings, **other))


def test_features_of_another_slide_are_refused(path, encoder, settings, slide):
    message = rf"fingerprint {'ab' * 16}, and now it is {slide.fingerprint}"
    with pytest.raises(MixedFeaturesError, match=message):
        FeatureFile(path).check(encoder.spec, settings, slide=slide)


def test_an_id_that_cannot_be_a_file_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"slide id '../S-1' cannot name its feature file"):
        feature_path(tmp_path, "../S-1")
