"""Each fault of a folder by another tool is one line: the file, what was found, what to do."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import h5py
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
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.header import SlideSettings
from parfocal.features.open_folder import open_features
from parfocal.slide.write import write_pyramid

ROWS = np.arange(64.0).reshape(16, 4)
CORNERS = square_corners(1024)


def read(
    features: Path | dict[float, Path], slide_id: str = "s2", path: Path = Path("none.svs")
) -> torch.Tensor:
    """Open a slide at all magnifications of a folder, and read its features."""
    slide = CohortSlide(slide_id, path, "tumor", slide_id, row=2)
    folder = open_features(features, [CohortSlide("s1", path, "tumor", "s1", row=1)])
    settings = SlideSettings(folder.facts.magnifications, folder.facts.patch_size)
    with StoredInputs(folder, settings).open(slide) as opened:
        return opened.model_input.features()


def trident(tmp_path: Path, **second: object) -> Path:
    """Write a good slide `s1`, and `s2` with other arguments."""
    folder = write_trident(tmp_path / "job", "s1", CORNERS, ROWS)
    arguments = {"corners": CORNERS, "features": ROWS, **second}
    made = write_trident(tmp_path / "other", "s2", **arguments)  # type: ignore[arg-type]
    (made / "s2.h5").rename(folder / "s2.h5")
    return folder


def changed(change: Callable[[h5py.File], None]) -> Callable[[Path], Path]:
    """Return a function that writes a folder by TRIDENT and changes the file of `s2`."""

    def make(tmp_path: Path) -> Path:
        folder = trident(tmp_path)
        with h5py.File(folder / "s2.h5", "r+") as file:
            change(file)
        return folder

    return make


def without_coords(file: h5py.File) -> None:
    del file["coords"]


def without_side(file: h5py.File) -> None:
    del file["coords"].attrs["patch_size_level0"]
    file["coords"].attrs["level0_magnification"] = "None"


def without_magnification(file: h5py.File) -> None:
    del file["coords"].attrs["target_magnification"]


def with_nan(file: h5py.File) -> None:
    file["features"][3, 1] = np.nan


def fewer_coords(file: h5py.File) -> None:
    file["coords"].resize(15, axis=0)


FAULTS: dict[str, tuple[Callable[[Path], Path], type[StoreError], str]] = {
    "encoder": (
        lambda tmp: trident(tmp, encoder="virchow2"),
        MixedFeaturesError,
        r"s2\.h5: encoder virchow2, and other slides of the folder have uni2-h; they do not mix\. "
        r"Keep them in different folders, or extract again\.",
    ),
    "dim": (
        lambda tmp: trident(tmp, features=np.ones((16, 5))),
        MixedFeaturesError,
        r"s2\.h5: features per patch 5, and other slides of the folder have 4; they do not mix",
    ),
    "patch size": (
        lambda tmp: trident(tmp, patch_size=512, side=1024),
        MixedFeaturesError,
        r"s2\.h5: patch size 512, and other slides of the folder have 256; they do not mix",
    ),
    "magnification": (
        lambda tmp: trident(tmp, magnification=20),
        StoreError,
        r"slide s2 has features of 20x, and not of 10x\. Extract it again with TRIDENT\.",
    ),
    "no coords": (
        changed(without_coords),
        StoreError,
        r"s2\.h5: the file has features but no coords, so it is unknown where the patches lie\. "
        r"Extract this slide again with TRIDENT\.",
    ),
    "no side": (
        changed(without_side),
        StoreError,
        r"s2\.h5: patch_size_level0 is missing, so it is unknown where the patches lie",
    ),
    "no magnification": (
        changed(without_magnification),
        StoreError,
        r"s2\.h5: target_magnification is missing",
    ),
    "fewer coords": (
        changed(fewer_coords),
        StoreError,
        r"s2\.h5: 15 coordinates and features of shape \(16, 4\) do not belong together\. Delete "
        r"the file and extract again with TRIDENT\.",
    ),
    "another slide": (
        lambda tmp: trident(tmp, corners=CORNERS + 2048),
        StoreError,
        r"s2\.h5: coordinates reach x=5120, y=5120, and the slide has 4096 x 4096 pixels, so they "
        r"are of another slide\. Check the names, or extract this slide again\.",
    ),
    "before the slide": (
        lambda tmp: trident(tmp, corners=CORNERS - 2048),
        StoreError,
        r"s2\.h5: coordinates reach down to x=-2048, y=-2048, outside of any slide",
    ),
    "empty": (
        lambda tmp: trident(tmp, corners=CORNERS[:0], features=ROWS[:0]),
        StoreError,
        r"s2\.h5: the slide has no patches \(0 rows\): TRIDENT found no tissue on it\. Remove it "
        r"from the cohort, or extract it again with other tissue settings\.",
    ),
    "nan": (
        changed(with_nan),
        StoreError,
        r"s2\.h5: features are not finite in 1 of the 16 rows that were read\. Delete the file and "
        r"extract again with TRIDENT\.",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(tmp_path: Path, fault: str):
    make, kind, message = FAULTS[fault]
    folder = make(tmp_path)
    assert read(folder, "s1").shape == (16, 4)  # the other slide can be used
    with pytest.raises(kind, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_an_empty_slide_without_a_width_is_named(tmp_path: Path):
    folder = trident(tmp_path)
    with h5py.File(folder / "s2.h5", "r+") as file:
        attributes = dict(file["coords"].attrs)
        del file["features"], file["coords"]
        file["features"] = np.zeros(0, np.float32)
        file["coords"] = np.zeros((0, 2), np.int64)
        file["coords"].attrs.update(attributes)
    with pytest.raises(StoreError, match="no patches"):
        read(folder)


def test_features_that_overflow_float16_are_named(tmp_path: Path):
    with np.errstate(over="ignore"):
        write_stamp(tmp_path / "stamp", "s1", square_corners(256), ROWS + 1e5)
    with pytest.raises(
        StoreError,
        match=r"s1\.h5: features are not finite in 16 of the 16 rows that were read \(values "
        r"beyond 65,504 do not fit float16\)\. Extract this slide again with float32 features\.",
    ):
        read(tmp_path / "stamp", "s1")


def test_a_slide_of_another_size_or_resolution_is_named(tmp_path: Path):
    folder = trident(tmp_path)
    scan = tmp_path / "s2.tif"
    tile = np.full((256, 256, 3), 200, np.uint8)
    write_pyramid(scan, lambda column, row: tile, (2048, 2048), mpp=0.25, downsamples=(1,))
    with pytest.raises(
        StoreError,
        match=r"of a slide of \(4096, 4096\) pixels, and the slide file has \(2048, 2048",
    ):
        read(folder, "s2", scan)
    write_pyramid(scan, lambda column, row: tile, (4096, 4096), mpp=1.0, downsamples=(1,))
    with pytest.raises(
        StoreError,
        match=r"the features are of 10x, and on this slide of 1 µm/px the patches have 4 µm/px, "
        r"which is 2\.5x\. Check the mpp of the slide, or extract it again\.",
    ):
        read(folder, "s2", scan)


def test_a_missing_slide_is_named(tmp_path: Path):
    folder = trident(tmp_path)
    with pytest.raises(
        StoreError,
        match=r"features_uni_v2: there are no features of slide s3\. Extract them with TRIDENT, or "
        r"remove the slide from the cohort\.",
    ):
        read(folder, "s3")


class Attack:
    """An object whose unpickling would run a program."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("unpickled",))


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_tensor_file_that_is_a_pickle_is_refused(tmp_path: Path, capsys, protocol: int):
    out = write_slide2vec(tmp_path, "s1", CORNERS, ROWS)
    (out / "tile_embeddings" / "s1.pt").write_bytes(pickle.dumps(Attack(), protocol))
    message = (
        r"s1\.pt: the file is a pickle of other objects than tensors, which parfocal does not load,"
        r" because a pickle can run any program\. Save the tensor of features alone with torch"
    )
    with pytest.raises(StoreError, match=message):
        open_features(out)
    torch.save({"features": Attack()}, out / "tile_embeddings" / "s1.pt")
    with pytest.raises(StoreError, match=message):
        open_features(out)
    assert capsys.readouterr().out == ""


def test_a_tensor_file_with_something_else_is_refused(tmp_path: Path):
    out = write_slide2vec(tmp_path, "s1", CORNERS, ROWS)
    torch.save({"features": torch.ones(2, 2)}, out / "tile_embeddings" / "s1.pt")
    with pytest.raises(StoreError, match=r"s1\.pt: the file holds a dict, not a table of features"):
        open_features(out)
    (out / "tile_embeddings" / "s1.pt").write_bytes(b"")
    with pytest.raises(StoreError, match=r"s1\.pt: the file is (incomplete or damaged|a pickle)"):
        open_features(out)


def test_faults_of_clam(tmp_path: Path):
    out = write_clam(tmp_path / "clam", "s1", CORNERS, ROWS)
    with pytest.raises(
        StoreError, match=r"CLAM does not store the magnification, .* as M=.*h5_files\."
    ):
        open_features(out)
    with h5py.File(out / "h5_files" / "s1.h5", "r+") as file:
        file["coords"][0] = (7, 7)
    with pytest.raises(StoreError, match=r"s1\.h5: the coordinates are not those of .*patches"):
        open_features({20.0: out})
    (out / "patches" / "s1.h5").unlink()
    with pytest.raises(
        StoreError, match=r"there is no patches/s1\.h5 .* Copy or link CLAM's folder patches to"
    ):
        open_features({20.0: out})


def test_faults_of_stamp_and_slide2vec(tmp_path: Path):
    whole = write_stamp(tmp_path / "slides", "s1", square_corners(256), ROWS, kind="slide")
    with pytest.raises(StoreError, match=r"features are of a slide, and parfocal needs those of"):
        open_features(whole)
    unknown = write_stamp(tmp_path / "old", "s1", square_corners(100), ROWS, side_um=None)
    with pytest.raises(StoreError, match=r"tile_size_um is missing, .* their unit is unknown"):
        open_features(unknown)
    empty = write_slide2vec(tmp_path / "empty", "s1", CORNERS, ROWS[:0])
    with pytest.raises(StoreError, match=r"no patches \(0 rows\): slide2vec found no tissue"):
        open_features(empty)
    out = write_slide2vec(tmp_path / "out", "s1", CORNERS, ROWS)
    (out / "tiles" / "s1.coordinates.npz").unlink()
    with pytest.raises(StoreError, match=r"s1\.coordinates\.npz: there is no such file\. Extract"):
        open_features(out)


def test_chains_of_zoommil_of_another_length_are_damage(tmp_path: Path):
    out = write_zoommil(
        tmp_path / "release", "s1", {"5.0": np.zeros((2, 4), int)}, {"5.0": np.ones((2, 4))}
    )
    with pytest.raises(StoreError, match=r"s1\.h5: .* damaged \(coordinates of shape \(2, 4\)"):
        open_features(out)


def test_ambiguous_folders_are_refused(tmp_path: Path):
    for encoder in ("uni_v2", "virchow2"):
        write_trident(tmp_path / "job", "s1", CORNERS, ROWS, encoder=encoder)
    with pytest.raises(
        StoreError,
        match=re.escape(
            "(10x_256px_0px_overlap/features_uni_v2, 10x_256px_0px_overlap/features_virchow2). "
            "Give one of them"
        ),
    ):
        open_features(tmp_path / "job")
    write_trident(tmp_path / "sizes", "s1", CORNERS, ROWS)
    write_trident(tmp_path / "sizes", "s1", CORNERS, ROWS, patch_size=512, magnification=20)
    with pytest.raises(
        MixedFeaturesError, match=r"the patches have 256 px at 10x, 512 px at 20x, and a model"
    ):
        open_features(tmp_path / "sizes")
    with pytest.raises(StoreError, match=r"none: the folder of features does not exist\."):
        open_features({10.0: tmp_path / "none"})
    uneven = {
        10.0: write_trident(tmp_path / "a", "s1", CORNERS, ROWS),
        15.0: write_trident(tmp_path / "b", "s1", CORNERS, ROWS, magnification=15),
    }
    with pytest.raises(MixedFeaturesError, match="15x is not a whole multiple of 10x"):
        open_features(uneven)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path):
    with pytest.raises(StoreError, match=r"nope: the folder of features does not exist\. Check"):
        open_features(tmp_path / "nope")
    with pytest.raises(StoreError, match=r"2\.5:job: .* does not exist\. Name .*, as 2\.5=job\."):
        open_features(Path("2.5:job"))
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file: the folder of features is a file, not a folder"):
        open_features(tmp_path / "file")


def test_places_without_features_name_the_folders_to_give(tmp_path: Path):
    folder = write_trident(tmp_path / "job", "s1", CORNERS, ROWS)
    clam = write_clam(tmp_path / "clam", "s1", CORNERS, ROWS)
    for patches in (folder.parent / "patches", clam / "patches"):
        with pytest.raises(StoreError, match=r"no features\. Give the folder features_<encoder>"):
            open_features(patches)


def test_a_magnification_of_clam_that_the_patches_contradict_is_refused(tmp_path: Path):
    out = write_clam(tmp_path / "clam", "s1", CORNERS, ROWS)
    scan = tmp_path / "s1.tif"
    tile = np.full((512, 512, 3), 200, np.uint8)
    write_pyramid(scan, lambda column, row: tile, (4096, 4096), mpp=0.25, downsamples=(1,))
    with pytest.raises(
        MixedFeaturesError,
        match=r"h5_files: 20x was given, and the size of the patches on the first slide means "
        r"10x\. Write 10=.*h5_files, or check",
    ):
        read({20.0: out}, "s1", scan)
    assert read({10.0: out}, "s1", scan).shape == (16, 4)


def test_features_of_whole_slides_are_refused(tmp_path: Path):
    folder = write_trident(tmp_path / "job", "s1", CORNERS, ROWS)
    slides = folder.rename(folder.with_name("slide_features_titan"))
    with pytest.raises(StoreError, match=r"titan: the features are of whole slides, .* Give the"):
        open_features(slides)
