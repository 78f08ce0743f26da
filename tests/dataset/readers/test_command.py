from parfocal.cli.cohorts import DATA_SETS
from parfocal.dataset.readers import panda
from parfocal.dataset.readers.make import READERS

from .conftest import PICTURE


def test_a_complete_data_set_becomes_a_table(parfocal, tmp_path, camelyon17):
    folder, out = camelyon17(tmp_path / "CAMELYON17"), tmp_path / "c.csv"
    found = parfocal("cohort", "camelyon17", folder, "--out", out, "--verify")
    assert found.code == 0
    assert found.err == f"Next: parfocal inspect {out} --picture sheet.html\n"
    assert found.out.splitlines() == [
        "note: excluded 2 slides: those with only isolated tumor cells (ITC) are used for testing, "
        "not for training",
        "note: excluded 1 slides: labels of patients 100 to 199 are not public",
        f"14 slides: 8 normal, 6 tumor; train 7; val 3; test 4; wrote {out}",
    ]


def test_damaged_and_missing_slides_are_printed(parfocal, tmp_path, camelyon16):
    folder, out = camelyon16(tmp_path / "CAMELYON16"), tmp_path / "c.csv"
    (folder / "images" / "normal_001.tif").unlink()
    (folder / "images" / "normal_002.tif").write_bytes(PICTURE[:-9])
    refused = parfocal("cohort", "camelyon16", folder, "--out", out)
    assert refused.code == 1
    assert "2 of 10 slides are missing or damaged" in refused.err
    assert refused.err.count("\n") == 1
    found = parfocal("cohort", "camelyon16", folder, "--out", out, "--partial")
    assert found.code == 1
    assert "parfocal: 1 missing: normal_001.tif" in found.err
    assert "normal_002.tif: " in found.err
    assert "8 slides: 4 normal, 4 tumor; train 3; test 5" in found.out


def test_missing_slides_alone_fail_unless_that_is_meant(parfocal, tmp_path, put, monkeypatch):
    monkeypatch.setattr(panda, "PUBLISHED", 40)
    lines = ["image_id,data_provider,isup_grade,gleason_score"]
    lines += [f"{n:03},radboud,{n % 2},{('0+0', '3+3')[n % 2]}" for n in range(40)]
    put(tmp_path / "train.csv", "\n".join(lines))
    for number in range(39):
        put(tmp_path / "train_images" / f"{number:03}.tiff")
    arguments = ("cohort", "panda", tmp_path, "--out", tmp_path / "c.csv")
    assert parfocal(*arguments).code == 1
    assert parfocal(*arguments, "--partial").code == 0


def test_nothing_to_do_is_wrong_usage(parfocal, tmp_path):
    found = parfocal("cohort", "camelyon16", tmp_path)
    assert found.code == 2
    assert "give --out, --download or both" in " ".join(found.err.split())


def test_slides_are_downloaded_and_listed(parfocal, tmp_path, bucket):
    found = parfocal(
        *("cohort", "camelyon16", tmp_path / "here", "--download", "normal_001,tumor_001"),
        *("--bucket", bucket.url, "--out", tmp_path / "c.csv", "--partial"),
    )
    assert found.code == 0
    assert found.out.startswith("4 files of 0.0 MB to download")
    assert f"images/tumor_001.tif: {len(PICTURE):,} bytes" in found.out
    assert "2 slides: 1 normal, 1 tumor; train 2" in found.out
    assert "parfocal: 8 missing: normal_002.tif" in found.err


def test_every_data_set_is_a_subcommand(parfocal):
    assert list(READERS) == list(DATA_SETS)
    found = parfocal("cohort", "nothing", "FOLDER")
    assert found.code == 2
    assert "there is no command nothing. See `parfocal cohort --help`" in found.err
    listed = parfocal("cohort", "--help").out
    assert all(name in listed for name in ("convert", *DATA_SETS))
