import errno
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from parfocal.features.errors import MixedFeaturesError, UnwritableError
from parfocal.features.extract import extract_cohort, extract_slide
from parfocal.features.header import SlideSettings
from parfocal.features.store import FeatureFile

SETTINGS = SlideSettings(magnifications=(2.5, 10.0), patch_size=32)


@pytest.fixture
def cohort(tmp_path):
    """Three pictures of purple tissue on white, at 1 micron per pixel."""
    slides = []
    for seed in range(3):
        pixels = np.full((512, 640, 3), 245, dtype=np.uint8)
        noise = np.random.default_rng(seed).integers(0, 60, (384, 448, 3))
        pixels[64:448, 96:544] = noise + np.array([150, 60, 140])
        path = tmp_path / "slides" / f"S-00{seed}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
        slides.append((f"00{seed}", path, 1.0))
    return slides


@pytest.fixture
def out(tmp_path):
    return tmp_path / "features"


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".work")


def interrupt_at(encoder, call, error, *, times=1):
    """Make an encoder fail at one or more batches."""
    calls = iter(range(1_000_000))

    def fail(*_):
        if call <= next(calls) < call + times:
            raise error

    encoder.network.register_forward_hook(fail)


def test_every_patch_of_every_magnification_is_written(tmp_path, slide, grid, encoder, settings):
    extract_slide(slide, grid, encoder, tmp_path / "a.h5", settings=settings)
    for step, rows in enumerate(FeatureFile(tmp_path / "a.h5").levels):
        written = rows[torch.arange(grid.counts[step])].any(dim=1)
        assert written.tolist() == grid.valid(step).tolist()
    expected = tuple(int(grid.valid(step).sum()) for step in range(3))
    assert slide.cost_meter.total().patches == expected


def test_a_missing_mpp_is_reported_with_the_column_of_the_cohort(cohort, out, encoder):
    _, path, _ = cohort[0]
    result = extract_cohort([("000", path, None)], out, encoder=encoder, settings=SETTINGS)
    assert "Set it in the cohort's mpp column" in result.failed["000"]


def test_float32_keeps_what_float16_rounds_off(tmp_path, slide, grid, encoder, settings):
    for dtype in ("float16", "float32"):
        extract_slide(slide, grid, encoder, tmp_path / dtype, settings=settings, dtype=dtype)
    half, single = (
        FeatureFile(tmp_path / dtype).bag().features() for dtype in ("float16", "float32")
    )
    assert torch.equal(single.half().float(), half)
    assert not torch.equal(single, half)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left")])
def test_an_interrupted_extraction_leaves_no_file(cohort, out, encoder, error):
    interrupt_at(encoder, 3, error)
    with pytest.raises((KeyboardInterrupt, OSError)):
        extract_cohort(cohort, out, encoder=encoder, settings=SETTINGS)
    assert names(out) == []


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ((RuntimeError("shapes differ"), 1), "unexpected RuntimeError: shapes differ"),
        # Batches of 4, 2 and 1 patches.
        ((RuntimeError("CUDA out of memory"), 3), "encoder tiny: cpu has no memory for a single"),
        ((MemoryError(), 3), "encoder tiny: cpu has no memory for a single patch"),
    ],
)
def test_any_error_is_the_failure_of_its_slide(cohort, out, encoder, failure, reason):
    error, times = failure
    interrupt_at(encoder, 3, error, times=times)
    result = extract_cohort(cohort, out, encoder=encoder, settings=SETTINGS)
    assert list(result.failed) == ["000"]
    assert result.failed["000"].startswith(reason)
    assert names(out) == ["001.h5", "002.h5"]


def test_memory_that_is_used_up_outside_of_the_encoder_fails_the_slide(
    cohort, out, encoder, monkeypatch
):
    find = SlideSettings.grid

    def grid(self, slide):
        if slide.path == cohort[0][1]:
            raise MemoryError
        return find(self, slide)

    monkeypatch.setattr(SlideSettings, "grid", grid)
    result = extract_cohort(cohort, out, encoder=encoder, settings=SETTINGS)
    assert list(result.failed) == ["000"]
    assert result.failed["000"].startswith("there is not enough memory for this slide")
    assert names(out) == ["001.h5", "002.h5"]


def test_memory_that_is_used_up_once_fails_no_slide(cohort, out, encoder):
    interrupt_at(encoder, 3, RuntimeError("CUDA out of memory"))
    result = extract_cohort(cohort, out, encoder=encoder, settings=SETTINGS)
    assert result.failed == {}
    assert encoder.batch_size == 2


def test_a_cohort_becomes_a_folder_of_feature_files(cohort, out, encoder):
    result = extract_cohort(cohort, out, encoder=encoder, settings=SETTINGS)
    assert result.done == ("000", "001", "002")
    assert (result.skipped, result.failed) == ((), {})
    assert names(out) == ["000.h5", "001.h5", "002.h5"]
    assert FeatureFile(out / "000.h5").header.slide_id == "S-000"


def test_a_second_run_continues_where_the_first_stopped(cohort, out, encoder):
    interrupt_at(encoder, 300 // encoder.batch_size, KeyboardInterrupt)  # in the second slide
    with pytest.raises(KeyboardInterrupt):
        extract_cohort(cohort, out, encoder=encoder, settings=SETTINGS)
    assert names(out) == ["000.h5"]
    result = extract_cohort(cohort, out, encoder=encoder, settings=SETTINGS)
    assert (result.skipped, result.done) == (("000",), ("001", "002"))


def test_a_slide_that_fails_is_recorded_and_the_others_are_extracted(cohort, out, encoder, caplog):
    caplog.set_level("INFO")
    cohort[1][1].write_bytes(b"not a slide")
    missing = ("003", cohort[0][1].with_name("none.svs"), None)
    result = extract_cohort([*cohort, missing], out, encoder=encoder, settings=SETTINGS)
    assert result.done == ("000", "002")
    assert list(result.failed) == ["001", "003"]
    assert "no such file" in result.failed["003"]
    assert caplog.messages[-1] == "4/4 003 failed"
    assert names(out) == ["000.h5", "002.h5"]


def test_a_magnification_sharper_than_the_scan_fails_that_slide(cohort, out, encoder):
    settings = replace(SETTINGS, magnifications=(2.5, 20.0))
    result = extract_cohort(cohort[:1], out, encoder=encoder, settings=settings)
    assert "sharper than the scan" in result.failed["000"]


def test_a_folder_made_with_other_settings_is_refused_before_any_work(cohort, out, encoder):
    extract_cohort(cohort[2:], out, encoder=encoder, settings=SETTINGS)
    other = replace(SETTINGS, patch_size=64)
    with pytest.raises(MixedFeaturesError, match=r"002.h5: .* patch size 32, and now it is 64"):
        extract_cohort(cohort, out, encoder=encoder, settings=other)
    assert names(out) == ["002.h5"]


def test_features_of_a_changed_slide_file_are_not_skipped(cohort, out, encoder):
    extract_cohort(cohort, out, encoder=encoder, settings=SETTINGS)
    cohort[0][1].write_bytes(cohort[1][1].read_bytes())
    result = extract_cohort(cohort, out, encoder=encoder, settings=SETTINGS)
    assert "slide fingerprint" in result.failed["000"]
    assert result.skipped == ("001", "002")


def test_features_of_a_slide_with_another_mpp_are_not_skipped(cohort, out, encoder):
    extract_cohort(cohort[:1], out, encoder=encoder, settings=SETTINGS)
    slide_id, path, _ = cohort[0]
    result = extract_cohort([(slide_id, path, 0.5)], out, encoder=encoder, settings=SETTINGS)
    assert "slide mpp 1.0, and now it is 0.5" in result.failed["000"]


def test_a_damaged_feature_file_is_recorded_and_the_others_are_extracted(cohort, out, encoder):
    out.mkdir()
    (out / "000.h5").write_bytes(b"cut short")
    result = extract_cohort(cohort, out, encoder=encoder, settings=SETTINGS)
    assert "Delete it and extract again" in result.failed["000"]
    assert result.done == ("001", "002")


def test_a_folder_that_cannot_be_written_stops_the_run(cohort, out, encoder):
    out.touch()
    with pytest.raises(UnwritableError, match=r"features: the folder of the feature files cannot"):
        extract_cohort(cohort, out, encoder=encoder, settings=SETTINGS)
