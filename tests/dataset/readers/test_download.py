"""Downloads from a local server that can break connections, lie, and ignore ranges."""

import shutil
from types import SimpleNamespace

import pytest

from parfocal.dataset import CohortError
from parfocal.dataset.readers import download as module
from parfocal.dataset.readers import make_cohort
from parfocal.dataset.readers.download import fetch, plan_download

from .conftest import PICTURE


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "here"


def fetch_all(bucket, folder, *slides):
    plan = plan_download("camelyon16", folder, slides, bucket.url)
    for remote in plan.files:
        fetch(remote)
    return plan


def test_sizes_are_stated_before_any_slide_is_downloaded(bucket, folder):
    plan = plan_download("camelyon16", folder, ["tumor_001", "normal_002"], bucket.url)
    assert [remote.path.relative_to(folder).as_posix() for remote in plan.files] == [
        "evaluation/reference.csv",
        "images/tumor_001.tif",
        "annotations/tumor_001.xml",
        "images/normal_002.tif",
    ]
    assert plan.files[1].size == len(PICTURE)
    total = sum(remote.size for remote in plan.files) / 1e6
    assert plan.summary == (
        f"4 files of {total:.1f} MB to download, {total:.1f} MB remaining; 0 files exist already"
    )
    assert bucket.ranges_of("images/") == []
    assert sorted(path.name for path in folder.rglob("*")) == ["checksums.md5"]


def test_downloaded_slides_become_a_cohort(bucket, folder, tmp_path):
    fetch_all(bucket, folder, "tumor_001", "normal_002")
    assert (folder / "images" / "tumor_001.tif").read_bytes() == PICTURE
    made = make_cohort("camelyon16", folder, tmp_path / "c.csv", partial=True, verify=True)
    assert [row.slide_id for row in made.rows] == ["normal_002", "tumor_001"]
    assert made.rows[1].annotations is not None


def test_all_downloads_every_slide_that_does_not_exist_yet(bucket, folder):
    assert len(fetch_all(bucket, folder, "all").files) == 10 + 2 + 1
    again = plan_download("camelyon16", folder, ["all"], bucket.url)
    assert (again.files, again.num_existing) == ((), 13)


def test_a_download_resumes_after_a_broken_connection(bucket, folder):
    bucket.break_after = [1000, 500]
    fetch_all(bucket, folder, "normal_001")
    assert bucket.ranges_of("normal_001") == ["bytes=0-", "bytes=1000-", "bytes=1500-"]
    assert (folder / "images" / "normal_001.tif").read_bytes() == PICTURE


def test_a_second_command_resumes_the_first(bucket, folder):
    bucket.break_after = [100] * module.ATTEMPTS
    with pytest.raises(CohortError, match=r"500 bytes are kept; run the command again to resume"):
        fetch_all(bucket, folder, "normal_001")
    assert not (folder / "images" / "normal_001.tif").exists()
    left = len(PICTURE) - 500
    plan = plan_download("camelyon16", folder, ["normal_001"], bucket.url)
    assert f"{left / 1e6:.1f} MB remaining" in plan.summary
    fetch(plan.files[0])
    assert bucket.ranges_of("normal_001")[-1] == "bytes=500-"
    assert (folder / "images" / "normal_001.tif").read_bytes() == PICTURE


def test_a_server_without_ranges_sends_the_whole_file_again(bucket, folder):
    bucket.ranges = False
    bucket.break_after = [1000]
    fetch_all(bucket, folder, "normal_001")
    assert (folder / "images" / "normal_001.tif").read_bytes() == PICTURE


def test_a_partial_file_that_is_too_long_is_replaced(bucket, folder, put):
    put(folder / "images" / ".normal_001.tif.part", PICTURE + b"more")
    fetch_all(bucket, folder, "normal_001")
    assert (folder / "images" / "normal_001.tif").read_bytes() == PICTURE


def test_a_file_with_a_wrong_checksum_is_deleted(bucket, folder, put):
    put(bucket.folder / "CAMELYON16" / "images" / "normal_001.tif", PICTURE[::-1])
    with pytest.raises(
        CohortError, match=r"its MD5 checksum is .*, not the published .*\. The file was deleted"
    ):
        fetch_all(bucket, folder, "normal_001")
    assert list((folder / "images").iterdir()) == []


@pytest.mark.parametrize(("status", "times"), [(403, 1), (503, module.ATTEMPTS)])
def test_a_client_error_is_final_and_a_server_error_is_retried(bucket, folder, status, times):
    plan = plan_download("camelyon16", folder, ["normal_001"], bucket.url)
    bucket.error = status
    with pytest.raises(
        CohortError, match=rf"cannot be downloaded \(HTTP Error {status}: .*--bucket"
    ):
        fetch(plan.files[1])
    assert len(bucket.ranges_of("normal_001")) == times


def test_a_server_that_states_no_sizes_is_refused(bucket, folder):
    bucket.sized = False
    with pytest.raises(CohortError, match=r"checksums\.md5: the server does not state the size"):
        plan_download("camelyon16", folder, ["normal_001"], bucket.url)


def test_a_disk_that_is_too_small_is_refused_first(bucket, folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(
        CohortError, match=r"0\.0 MB to download but only 0\.0 MB free; choose fewer"
    ):
        plan_download("camelyon16", folder, ["normal_001"], bucket.url)


def test_unknown_slides_data_sets_and_addresses_are_refused(bucket, folder):
    with pytest.raises(
        CohortError,
        match="no slide tumor_999; it has 10 slides, for example normal_001, normal_002",
    ):
        plan_download("camelyon16", folder, ["tumor_999"], bucket.url)
    with pytest.raises(ValueError, match="'bach' cannot be downloaded; camelyon16 and camelyon17"):
        plan_download("bach", folder, ["all"], bucket.url)
    with pytest.raises(ValueError, match="'file:///etc' is not an http:// or https:// address"):
        plan_download("camelyon16", folder, ["all"], "file:///etc")
    with pytest.raises(CohortError, match=r"checksums\.md5: cannot be downloaded \(HTTP Error 404"):
        plan_download("camelyon17", folder / "other", ["all"], bucket.url)


def test_a_file_without_checksums_is_refused(bucket, folder, put):
    put(folder / "checksums.md5", "<html>Not found</html>")
    with pytest.raises(CohortError, match=r"checksums\.md5: not a list of MD5 checksums and names"):
        plan_download("camelyon16", folder, ["all"], bucket.url)


def test_the_default_is_the_public_bucket():
    assert module.BUCKET == "https://camelyon-dataset.s3.us-west-2.amazonaws.com"
