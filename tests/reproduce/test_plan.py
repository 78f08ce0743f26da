"""A plan is estimated from label files, file sizes and a short measurement."""

import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from parfocal.reproduce import Reproduction, plan

from .conftest import small, write


def write_hole(path: Path, width: int, height: int, tile_bytes: int) -> int:
    """Write a BigTIFF of its true size whose tiles are a hole in the file: no disk is used."""
    tiles = -(-width // 512) * -(-height // 512)
    start = 16 + 8 + 6 * 20 + 8
    tags = [
        *[(256, 4, 1, width), (257, 4, 1, height), (322, 4, 1, 512), (323, 4, 1, 512)],
        *[(324, 16, tiles, start), (325, 4, tiles, start + 8 * tiles)],
    ]
    head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(tags))
    head += b"".join(struct.pack("<HHQQ", *tag) for tag in tags) + struct.pack("<Q", 0)
    first = start + 12 * tiles
    offsets = struct.pack(f"<{tiles}Q", *range(first, first + tiles * tile_bytes, tile_bytes))
    path.write_bytes(head + offsets + struct.pack(f"<{tiles}I", *[tile_bytes] * tiles))
    os.truncate(path, first + tiles * tile_bytes)
    return first + tiles * tile_bytes


def only(name: str, reproduction: Reproduction) -> Reproduction:
    """Leave one experiment."""
    return replace(reproduction, experiments={name: reproduction.experiments[name]})


@pytest.fixture(scope="module")
def true_size(tmp_path_factory) -> tuple[Path, int]:
    """CAMELYON16 with all of its 399 slides, each of its true size: one hole of many names."""
    folder = tmp_path_factory.mktemp("CAMELYON16")
    rows = [(f"normal_{number:03}", "normal") for number in range(1, 161) if number != 86]
    rows += [(f"tumor_{number:03}", "tumor") for number in range(1, 112)]
    rows += [
        (f"test_{number:03}", "tumor" if number < 50 else "normal")
        for number in range(1, 131)
        if number != 49
    ]
    write(
        folder / "evaluation/reference.csv",
        *("image,type", *(f"{name}.tif,{kind}" for name, kind in rows)),
    )
    (folder / "images").mkdir()
    size = write_hole(folder / "hole", 97_792, 221_184, 20_000)
    for name, _ in rows:
        os.link(folder / "hole", folder / "images" / f"{name}.tif")
    return folder, size


@pytest.fixture(scope="module")
def planned(true_size):
    # A short measurement of a bag as large as the paper's.
    return plan(small("zoommil-camelyon16"), true_size[0], true_size[0] / "out", device="cpu")


@pytest.mark.slow
def test_the_slides_and_their_size_are_described(planned, true_size):
    _, size = true_size
    assert size > 1.5e9
    expected = (
        "Slides or regions: 399, of which 129 are test slides, "
        f"in 399 files of {399 * size / 1e9:.0f}"
    )
    assert planned.facts[0].startswith(expected)


@pytest.mark.slow
def test_the_papers_patches_are_used_if_no_slide_can_be_read(planned):
    assert planned.facts[1].startswith("Patches per slide: 2,284 at 10x, 9,138 at 20x; from the")


@pytest.mark.slow
def test_a_stored_feature_takes_two_bytes(planned):
    features = planned.steps[0]
    assert features.name == "features, for all models"
    assert features.patches == pytest.approx(9138 * 1.25, rel=1e-3)
    assert features.gigabytes == pytest.approx(features.patches * 399 * 32 * 2 / 1e9)


@pytest.mark.slow
def test_every_row_is_a_step_with_hours(planned):
    assert [step.name for step in planned.steps[1:]] == [
        *("ABMIL (20x)", "CLAM-SB (20x)", "TransMIL (20x)", "ZoomMIL (10x → 20x)"),
    ]
    assert all(step.hours > 0 for step in planned.steps)
    assert planned.hours == pytest.approx(sum(step.hours for step in planned.steps))
    assert "| ABMIL (20x) | 3 x 1 epochs | 9,13" in planned.to_markdown()
    assert "GB are free." in planned.to_markdown()


@pytest.mark.slow
def test_the_measurement_is_described(planned):
    assert planned.facts[2].startswith(
        "Measured on cpu with 1 threads: reading and encoding a patc"
    )


@pytest.mark.slow
def test_nothing_is_written(planned, true_size):
    assert not (true_size[0] / "out").exists()


def test_patches_are_counted_in_slides_that_can_be_read(camelyon16, tmp_path):
    reproduction = only("zoommil", small("zoommil-camelyon16", "slide.patch_size=32"))
    found = plan(reproduction, camelyon16(tmp_path / "data"), tmp_path, device="cpu")
    assert found.facts[0].endswith("; 391 more are missing or damaged.")
    assert "counted in 3 of 8 slides" in found.facts[1]
    # 512 px at 0.5 um hold 8 x 8 patches of 32 px at 10x; half are tissue, one column has some.
    counts = [int(count) for count in re.findall(r"(\d+) at \d+x", found.facts[1])]
    assert counts in ([32, 128], [40, 160])


def test_a_model_that_takes_pixels_visits_the_papers_cells(bach, tmp_path):
    reproduction = small("jsma-bach", "slide.patch_size=299")
    patches = {
        step.name: step.patches
        for step in plan(reproduction, bach(tmp_path / "data"), tmp_path, device="cpu").steps
    }
    alone = [patches[label] for label in ("50X", "100X", "200X", "multiple magnifications")]
    assert alone == [4, 5, 5, 5]
    ends = ", all patches, for the time"
    assert [patches[f"{label}{ends}"] for label in ("50X", "100X", "200X")] == [4, 12, 42]


def test_regions_take_disk_space(prad, tmp_path):
    reproduction = only("25x", small("jsma-prad"))
    regions = plan(reproduction, prad(tmp_path / "data"), tmp_path, device="cpu").steps[0]
    assert (regions.name, regions.gigabytes) == ("regions", pytest.approx(9 * 2000**2 * 3 / 1e9))
