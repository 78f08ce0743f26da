"""Features are written in TRIDENT's layout, and read back as they were."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import StoredInputs
from parfocal.encoders.loading import load_encoder
from parfocal.features.errors import MixedFeaturesError
from parfocal.features.extract import extract_cohort
from parfocal.features.foreign.trident_writer import TridentLayout
from parfocal.features.header import SlideSettings

SETTINGS = SlideSettings((2.5, 10.0), 64)


@pytest.fixture
def slide(tmp_path: Path) -> CohortSlide:
    """A slide of 1,024 x 512 pixels of 0.5 µm, with tissue on its left."""
    pixels = np.full((512, 1024, 3), 245, dtype=np.uint8)
    pixels[:, :600] = np.random.default_rng(0).integers(90, 200, (512, 600, 3))
    Image.fromarray(pixels).save(tmp_path / "s1.png")
    return CohortSlide("s1", tmp_path / "s1.png", "tumor", "p1", row=2, mpp=0.5)


def extract(slide: CohortSlide, out: Path, *, trident: bool) -> tuple[str, ...]:
    result = extract_cohort(
        [(slide.slide_id, slide.path, slide.mpp)],
        out,
        encoder=load_encoder("tiny"),
        settings=SETTINGS,
        layout=TridentLayout(out) if trident else None,
    )
    assert not result.failed
    return result.done


def test_the_files_are_those_of_trident(slide: CohortSlide, tmp_path: Path):
    extract(slide, tmp_path / "job", trident=True)
    files = sorted(
        str(path.relative_to(tmp_path / "job")) for path in (tmp_path / "job").rglob("*.h5")
    )
    assert files == [
        "10x_64px_0px_overlap/features_tiny/s1.h5",
        "10x_64px_0px_overlap/patches/s1_patches.h5",
        "2.5x_64px_0px_overlap/features_tiny/s1.h5",
        "2.5x_64px_0px_overlap/patches/s1_patches.h5",
    ]
    assert [path.name for path in (tmp_path / "job").glob(".*")] == [".work"]
    grid = tmp_path / "job" / "10x_64px_0px_overlap"
    for path in (grid / "patches" / "s1_patches.h5", grid / "features_tiny" / "s1.h5"):
        with h5py.File(path) as file:
            coords = file["coords"]
            assert coords.dtype == np.int64
            assert (coords.chunks, coords.maxshape) == ((1, 2), (None, 2))
            assert {**coords.attrs} == {
                "patch_size": 64,
                "patch_size_level0": 128,
                "level0_magnification": 20,
                "target_magnification": 10,
                "overlap": 0,
                "name": "s1",
                "savetodir": str(path.parent),
                "level0_width": 1024,
                "level0_height": 512,
            }
            assert (coords[:] % 128 == 0).all()
    with h5py.File(grid / "features_tiny" / "s1.h5") as file:
        features = file["features"]
        assert features.dtype == np.float32
        assert features.shape == (len(file["coords"]), 32)
        assert (features.chunks, features.maxshape) == ((1, 32), (None, 32))
        assert {**features.attrs} == {
            "encoder": "tiny",
            "name": "s1",
            "savetodir": str(grid / "features_tiny"),
        }


def test_features_read_back_are_those_of_our_own_files(slide: CohortSlide, tmp_path: Path):
    extract(slide, tmp_path / "job", trident=True)
    extract(slide, tmp_path / "own", trident=False)
    with (
        StoredInputs(tmp_path / "job", SETTINGS).open(slide) as theirs,
        StoredInputs(tmp_path / "own", SETTINGS).open(slide) as own,
    ):
        first, second = theirs.model_input, own.model_input
        for _ in range(2):
            assert first.features().equal(second.features())
            assert first.valid.equal(second.valid)
            assert first.cells().equal(second.cells())
            if first.rows.shape[0] <= 4:
                first, second = first.zoom(None), second.zoom(None)
        assert theirs.grid.mpps == own.grid.mpps
        assert theirs.sharpest == own.sharpest
        assert theirs.grid.reach.unreachable == own.grid.reach.unreachable == 0


def test_a_second_call_skips_what_is_done(slide: CohortSlide, tmp_path: Path):
    out = tmp_path / "job"
    assert extract(slide, out, trident=True) == ("s1",)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")}
    assert extract(slide, out, trident=True) == ()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")} == before
    next(iter(out.rglob("2.5x*/features_tiny/s1.h5"))).unlink()
    assert extract(slide, out, trident=True) == ("s1",)


def test_a_file_of_another_width_is_refused(slide: CohortSlide, tmp_path: Path):
    out = tmp_path / "job"
    extract(slide, out, trident=True)
    path = out / "10x_64px_0px_overlap" / "features_tiny" / "s1.h5"
    with h5py.File(path, "r+") as file:
        del file["features"]
        file["features"] = np.ones((3, 5), np.float32)
    layout = TridentLayout(out)
    specs = (load_encoder("tiny").spec,) * 2
    with pytest.raises(MixedFeaturesError, match=r"has 5 features per patch, and tiny gives 32"):
        layout.is_done("s1", specs, SETTINGS.magnifications, SETTINGS.patch_size)
