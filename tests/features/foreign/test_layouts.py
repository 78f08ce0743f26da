"""Folders by other tools are recognized by content, and read as these tools wrote them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foreign_layouts import (
    square_corners,
    write_clam,
    write_slide2vec,
    write_stamp,
    write_trident,
    write_zoommil,
)
from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import StoredInputs
from parfocal.features.foreign.folder import ForeignFolder, NamedSlide
from parfocal.features.header import SlideSettings
from parfocal.features.open_folder import open_features
from parfocal.features.slide_input import BagInput
from parfocal.slide.write import write_pyramid
from parfocal.train.checks import log_true_resolutions

ROWS = np.arange(64.0).reshape(16, 4)


def cohort_slide(path: Path, slide_id: str = "s1") -> CohortSlide:
    return CohortSlide(slide_id, path, "tumor", slide_id, row=2)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A slide of 4,096 x 4,096 pixels of 0.25 µm."""
    path = tmp_path / "slides" / "s1.tif"
    path.parent.mkdir()
    tile = np.full((512, 512, 3), 200, np.uint8)
    write_pyramid(
        path, lambda column, row: tile, (4096, 4096), mpp=0.25, downsamples=(1,), tile_size=512
    )
    return path


def open_one(features: Path, slide: CohortSlide) -> tuple[ForeignFolder, BagInput]:
    """Open a slide at the highest magnification of a folder."""
    folder = open_features(features, [slide])
    assert isinstance(folder, ForeignFolder)
    settings = SlideSettings(folder.facts.magnifications[-1:], folder.facts.patch_size)
    with StoredInputs(folder, settings).open(slide) as opened:
        return folder, opened


def test_trident_by_the_features_the_grid_and_the_job_folder(tmp_path: Path):
    folder = write_trident(tmp_path / "job", "s1", square_corners(1024), ROWS)
    slide = cohort_slide(tmp_path / "none.svs")
    for given in (folder, folder.parent, tmp_path / "job"):
        found, opened = open_one(given, slide)
        assert found.facts.tool == "TRIDENT"
        assert found.facts.magnifications == (10,)
        assert found.facts.patch_size == 256
        assert [(each.name, each.dim) for each in found.facts.encoders] == [("uni2-h", 4)]
        assert opened.model_input.features().numpy().tolist() == ROWS.tolist()
        assert opened.placed
        assert opened.grid.boxes(0)[5].x == 1024
        assert opened.grid.side_px(0) == 1024
        assert opened.grid.slide_size == (4096, 4096)
        assert opened.model_input.cells()[5].tolist() == [1, 1]


def test_a_moved_folder_of_trident_is_recognized_by_its_attributes(tmp_path: Path):
    folder = write_trident(tmp_path / "job", "s1", square_corners(1024), ROWS)
    moved = folder.rename(tmp_path / "anything")
    found, _ = open_one(moved, cohort_slide(tmp_path / "none.svs"))
    assert (found.facts.tool, found.facts.encoders[0].name) == ("TRIDENT", "uni2-h")


def test_magnifications_as_numbers_of_any_type(tmp_path: Path):
    folder = write_trident(
        tmp_path / "job",
        "s1",
        square_corners(1024),
        ROWS,
        magnification=np.float64(10.0),
        side=1024.0,
        scanned=np.float32(40),
    )
    found, opened = open_one(folder, cohort_slide(tmp_path / "none.svs"))
    assert found.facts.magnifications == (10,)
    assert opened.grid.mpps == (1.0,)
    without = write_trident(
        tmp_path / "job2", "s1", square_corners(1024), ROWS, side=1024, scanned="None"
    )
    assert open_one(without, cohort_slide(tmp_path / "none.svs"))[1].grid.side_px(0) == 1024


def test_clam_by_its_tables_and_by_its_tensors(tmp_path: Path, scan: Path):
    corners = square_corners(1024, start=0)
    whole = write_clam(tmp_path / "clam", "s1", corners, ROWS)
    tensors = write_clam(tmp_path / "tensors", "s1", corners, ROWS, tensors_only=True)
    for given in (whole, whole / "h5_files", whole / "pt_files", tensors):
        found, opened = open_one(given, cohort_slide(scan))
        assert found.facts.tool == "CLAM"
        assert found.facts.magnifications == (10,)  # level 1 of 0.25 µm/px, 4 times smaller
        assert found.facts.encoders[0].name == "unnamed"
        assert torch.equal(opened.model_input.features(), torch.from_numpy(ROWS).float())
        assert opened.grid.boxes(0)[1].x == 1024
        assert opened.grid.mpps == (1.0,)


def test_clam_without_the_slide_takes_the_magnification_given(tmp_path: Path):
    whole = write_clam(tmp_path / "clam", "s1", square_corners(1024), ROWS)
    folder = open_features({20.0: whole}, encoder="resnet50-layer3")
    assert folder.facts.magnifications == (20,)
    assert folder.facts.encoders[0].name == "resnet50-layer3"
    settings = SlideSettings((20.0,), 256)
    with StoredInputs(folder, settings).open(cohort_slide(tmp_path / "none.svs")) as opened:
        assert opened.grid.mpps == (0.5,)
    known = open_features(whole, magnification=10.0)  # that of the run
    assert known.facts.magnifications == (10,)


def test_patches_of_clam_may_lie_above_the_features(tmp_path: Path, scan: Path):
    whole = write_clam(tmp_path / "clam", "s1", square_corners(1024), ROWS)
    (tmp_path / "features").mkdir()
    (whole / "h5_files").rename(tmp_path / "features" / "h5_files")
    (whole / "patches").rename(tmp_path / "patches")
    assert open_one(tmp_path / "features", cohort_slide(scan))[0].facts.tool == "CLAM"


def test_stamp_in_micrometers(tmp_path: Path, scan: Path):
    folder = write_stamp(tmp_path / "stamp", "s1", square_corners(256), ROWS)
    found, opened = open_one(folder, cohort_slide(scan))
    assert found.facts.tool == "STAMP"
    assert found.facts.magnifications == (8.75,)  # 256 um in 224 px
    assert found.facts.patch_size == 224
    assert found.facts.encoders[0].name == "uni2-h"
    assert opened.placed
    assert opened.grid.boxes(0)[5].x == 1024  # 256 um of 0.25 um
    assert opened.grid.mpps == pytest.approx([256 / 224])
    assert opened.model_input.features().numpy().tolist() == ROWS.tolist()
    _, elsewhere = open_one(folder, cohort_slide(tmp_path / "none.svs"))
    assert not elsewhere.placed
    assert elsewhere.grid.mpps == pytest.approx([256 / 224])


def test_stamp_of_version_1_has_256_um_in_224_pixels(tmp_path: Path, scan: Path):
    folder = write_stamp(tmp_path / "stamp", "s1", square_corners(224), ROWS, side_um=None)
    _, opened = open_one(folder, cohort_slide(scan))
    assert opened.grid.boxes(0)[5].x == 1024


@pytest.mark.parametrize("npz", [False, True])
def test_slide2vec(tmp_path: Path, *, npz: bool):
    out = write_slide2vec(tmp_path / "out", "s1", square_corners(1024), ROWS, npz=npz)
    for given in (out, out / "tile_embeddings"):
        found, opened = open_one(given, cohort_slide(tmp_path / "none.svs"))
        assert found.facts.tool == "slide2vec"
        assert found.facts.magnifications == (10,)
        assert found.facts.encoders[0].name == "virchow2"
        assert opened.model_input.features().numpy().tolist() == ROWS.tolist()
        assert opened.grid.boxes(0)[5].x == 1024


def zoommil_levels() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return two patches at 5x and their eight children, in the order of the release."""
    parents = np.array([[3, 1], [4, 2]])
    inside = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    children = np.concatenate([parents.repeat(4, axis=0), np.tile(inside, (2, 1))], axis=1)
    features = {"5.0": np.arange(8.0).reshape(2, 4), "10.0": np.arange(32.0).reshape(8, 4)}
    return {"5.0": parents, "10.0": children}, features


def test_the_zoommil_release(tmp_path: Path):
    chains, features = zoommil_levels()
    out = write_zoommil(tmp_path / "release", "s1", chains, features)
    folder = open_features(out)
    assert folder.facts.tool == "ZoomMIL"
    assert folder.facts.magnifications == (5, 10)
    slide = cohort_slide(tmp_path / "none.svs")
    with StoredInputs(folder, SlideSettings((5.0, 10.0), 256)).open(slide) as opened:
        assert not opened.placed
        bag = opened.model_input
        assert bag.features().numpy().tolist() == features["5.0"].tolist()
        second = bag.zoom(torch.tensor([[0.0, 1.0]]))
        # Down each column, as child_order has them: the order of the release, too.
        assert second.features().numpy().tolist() == features["10.0"][4:].tolist()
        assert second.cells().tolist() == [[4, 8], [4, 9], [5, 8], [5, 9]]


def test_true_resolutions_are_recorded_beside_nominal_ones(tmp_path: Path, scan: Path, caplog):
    folder = open_features(write_trident(tmp_path / "job", "s1", square_corners(1024), ROWS))
    assert isinstance(folder, ForeignFolder)
    slide = replace(cohort_slide(scan), mpp=0.2325)
    with StoredInputs(folder, SlideSettings((10.0,), 256)).open(slide) as opened:
        assert opened.grid.mpps == pytest.approx([0.93])
    assert folder.true_mpps(10) == pytest.approx((0.93, 0.93, 0.93))
    caplog.set_level("INFO")
    for _ in range(2):
        log_true_resolutions(folder, (10.0,))
    assert caplog.messages == [
        f"{folder}: true resolutions differ from the nominal ones: 10x is 0.93 µm/px (0.93 to "
        "0.93), not 1"
    ]


def test_resolutions_that_differ_by_rounding_only_are_not_mentioned(
    tmp_path: Path, scan: Path, caplog
):
    folder = open_features(write_trident(tmp_path / "job", "s1", square_corners(1024), ROWS))
    slide = replace(cohort_slide(scan), mpp=0.2500001)
    with StoredInputs(folder, SlideSettings((10.0,), 256)).open(slide):
        pass
    caplog.set_level("INFO")
    log_true_resolutions(folder, (10.0,))
    assert caplog.messages == []


def test_a_slide_is_found_by_its_file_name_too(tmp_path: Path):
    folder = open_features(write_trident(tmp_path / "job", "TCGA-1.X", square_corners(1024), ROWS))
    slide = CohortSlide("patient-7", tmp_path / "TCGA-1.X.svs", "tumor", "p", row=2)
    assert [path.name for path in folder.files(slide)] == ["TCGA-1.X.h5"]
    assert folder.fingerprint(slide) is None
    assert NamedSlide("a").mpp is None
