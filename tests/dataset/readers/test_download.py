"""Fetching from a bucket on loopback, which breaks off, lies and knows no ranges when told to."""

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


def test_sizes_are_stated_before_any_slide_comes(bucket, folder):
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
        f"4 files of {total:.1f} MB to fetch, {total:.1f} MB still to come; 0 are here already"
    )
    assert bucket.ranges_of("images/") == []
    assert sorted(path.name for path in folder.rglob("*")) == ["checksums.md5"]


def test_what_was_fetched_becomes_a_cohort(bucket, folder, tmp_path):
    fetch_all(bucket, folder, "tumor_001", "normal_002")
    assert (folder / "images" / "tumor_001.tif").read_bytes() == PICTURE
    made = make_cohort("camelyon16", folder, tmp_path / "c.csv", partial=True, verify=True)
    assert [row.slide_id for row in made.rows] == ["normal_002", "tumor_001"]
    assert made.rows[1].drawing is not None


def test_all_means_every_slide_and_what_is_here_is_not_fetched_again(bucket, folder):
    assert len(fetch_all(bucket, folder, "all").files) == 10 + 2 + 1
    again = plan_download("camelyon16", folder, ["all"], bucket.url)
    assert (again.files, again.here) == ((), 13)


def test_a_broken_connection_is_gone_on_with(bucket, folder):
    bucket.break_after = [1000, 500]
    fetch_all(bucket, folder, "normal_001")
    assert bucket.ranges_of("normal_001") == ["bytes=0-", "bytes=1000-", "bytes=1500-"]
    assert (folder / "images" / "normal_001.tif").read_bytes() == PICTURE


def test_a_stopped_command_goes_on_where_it_stopped(bucket, folder):
    bucket.break_after = [100] * module.ATTEMPTS
    with pytest.raises(CohortError, match=r"500 bytes are kept: run the command again to go on"):
        fetch_all(bucket, folder, "normal_001")
    assert not (folder / "images" / "normal_001.tif").exists()
    left = len(PICTURE) - 500
    plan = plan_download("camelyon16", folder, ["normal_001"], bucket.url)
    assert f"{left / 1e6:.1f} MB still to come" in plan.summary
    fetch(plan.files[0])
    assert bucket.ranges_of("normal_001")[-1] == "bytes=500-"
    assert (folder / "images" / "normal_001.tif").read_bytes() == PICTURE


def test_a_server_without_ranges_sends_all_of_it_again(bucket, folder):
    bucket.ranges = False
    bucket.break_after = [1000]
    fetch_all(bucket, folder, "normal_001")
    assert (folder / "images" / "normal_001.tif").read_bytes() == PICTURE


def test_a_part_that_is_longer_than_the_file_is_begun_anew(bucket, folder, put):
    put(folder / "images" / ".normal_001.tif.part", PICTURE + b"more")
    fetch_all(bucket, folder, "normal_001")
    assert (folder / "images" / "normal_001.tif").read_bytes() == PICTURE


def test_a_file_with_a_wrong_sum_is_thrown_away(bucket, folder, put):
    put(bucket.folder / "CAMELYON16" / "images" / "normal_001.tif", PICTURE[::-1])
    with pytest.raises(
        CohortError, match=r"its MD5 sum is .*, not the published .*; it was thrown"
    ):
        fetch_all(bucket, folder, "normal_001")
    assert list((folder / "images").iterdir()) == []


@pytest.mark.parametrize(("status", "times"), [(403, 1), (503, module.ATTEMPTS)])
def test_a_refusal_is_final_and_a_busy_server_is_asked_again(bucket, folder, status, times):
    plan = plan_download("camelyon16", folder, ["normal_001"], bucket.url)
    bucket.error = status
    with pytest.raises(CohortError, match=rf"cannot be fetched \(HTTP Error {status}: .*--bucket"):
        fetch(plan.files[1])
    assert len(bucket.ranges_of("normal_001")) == times


def test_a_server_that_tells_no_sizes_is_refused(bucket, folder):
    bucket.sized = False
    with pytest.raises(CohortError, match=r"checksums\.md5: the server does not say how large it"):
        plan_download("camelyon16", folder, ["normal_001"], bucket.url)


def test_a_disk_too_small_is_told_before(bucket, folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CohortError, match=r"0\.0 MB to come and 0\.0 MB free; name fewer slides"):
        plan_download("camelyon16", folder, ["normal_001"], bucket.url)


def test_unknown_slides_sets_and_addresses_are_refused(bucket, folder):
    with pytest.raises(
        CohortError, match="no slide tumor_999; its 10 slides are named as normal_001, normal_002"
    ):
        plan_download("camelyon16", folder, ["tumor_999"], bucket.url)
    with pytest.raises(ValueError, match="'bach' cannot be downloaded; camelyon16 and camelyon17"):
        plan_download("bach", folder, ["all"], bucket.url)
    with pytest.raises(ValueError, match="'file:///etc' is not an http:// or https:// address"):
        plan_download("camelyon16", folder, ["all"], "file:///etc")
    with pytest.raises(CohortError, match=r"checksums\.md5: cannot be fetched \(HTTP Error 404"):
        plan_download("camelyon17", folder / "other", ["all"], bucket.url)


def test_sums_that_are_none_are_refused(bucket, folder, put):
    put(folder / "checksums.md5", "<html>Not found</html>")
    with pytest.raises(CohortError, match=r"checksums\.md5: not a list of MD5 sums and names"):
        plan_download("camelyon16", folder, ["all"], bucket.url)


def test_the_owners_bucket_is_the_one_asked_by_default():
    assert module.BUCKET == "https://camelyon-dataset.s3.us-west-2.amazonaws.com"
