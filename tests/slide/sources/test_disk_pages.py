"""Pages that are kept on a disk, also where files have no positioned reads and writes."""

import os
from pathlib import Path

import pytest

from parfocal.slide.sources.disk_pages import DiskPages, _bytes_on_disk
from parfocal.slide.sources.pages import PAGE_BYTES


@pytest.mark.parametrize("missing", [(), ("pread", "pwrite")])
def test_a_page_is_read_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
):
    for name in missing:
        monkeypatch.delattr(os, name)
    pages = DiskPages(tmp_path / "one.pages", 3)
    content = {page: bytes([page + 1]) * PAGE_BYTES for page in (2, 0)}
    for page, each in content.items():
        pages.put(page, each)
    pages.close()
    again = DiskPages(tmp_path / "one.pages", 3)
    assert {page: again.get(page) for page in (0, 2)} == content
    assert again.get(1) is None
    again.close()


def test_the_size_of_a_file_counts_where_the_system_has_no_blocks():
    status = os.stat_result((0, 0, 0, 0, 0, 0, 1000, 0, 0, 0))  # as on Windows
    assert _bytes_on_disk(status) == 1000
    blocks = os.stat_result((0, 0, 0, 0, 0, 0, 1000, 0, 0, 0), {"st_blocks": 8})
    assert _bytes_on_disk(blocks) == 8 * 512
