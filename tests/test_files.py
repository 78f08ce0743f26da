import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from parfocal.files import (
    PNG_MARK,
    OutputError,
    PositionedFile,
    refuse_binary_file,
    refuse_slide_folder,
    whole_file,
    write_together,
    write_whole,
)
from parfocal.processes import this_process


def test_a_file_gets_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with whole_file(path) as part:
        part.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_leaves_the_existing_file(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, b"before")

    def interrupted() -> None:
        with whole_file(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_with_the_path(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device; nothing was written: '.*a\.txt'"):
        write_whole(tmp_path / "a.txt", b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_reported_with_the_requested_path(tmp_path):
    path = tmp_path / "nowhere" / "a.txt"
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(path, b"content")
    assert caught.value.filename == str(path)


def test_several_files_are_all_written_or_none(tmp_path, monkeypatch):
    contents = {tmp_path / name: name.encode() for name in ("a", "b", "c")}
    write_together(contents)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents
    synced = []

    def full_at_the_last(handle: int) -> None:
        synced.append(handle)
        if len(synced) == len(contents):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_at_the_last)
    with pytest.raises(OSError, match=r"No space left on device; nothing was written: '.*c'"):
        write_together(dict.fromkeys(contents, b"new"))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_two_writers_of_one_file_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "a.txt"
    with whole_file(path) as first, whole_file(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # renamed last
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_of_the_longest_length_can_be_written(tmp_path):
    path = tmp_path / ("a" * 255)
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"


def test_temporary_files_of_ended_processes_are_removed(tmp_path):
    dead = replace(this_process(), start=1)
    left = tmp_path / f".{dead.token}-0.part"
    own = tmp_path / f".{this_process().token}-9999.part"
    elsewhere = tmp_path / ".0123456789-1-1-0.part"
    old = tmp_path / ".0123456789-1-2-0.part"
    foreign = tmp_path / ".download.part"
    for path in (left, own, elsewhere, old, foreign):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(foreign, (0, 0))
    write_whole(tmp_path / "a.txt", b"content")
    assert not left.exists()
    assert not old.exists()
    assert own.exists()
    assert elsewhere.exists()
    assert foreign.exists()


@pytest.mark.parametrize("pread", [True, False])
def test_a_file_is_read_at_positions_with_and_without_pread(tmp_path, monkeypatch, *, pread):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    if not pread:
        monkeypatch.delattr(os, "pread")  # as on Windows
    file = PositionedFile(tmp_path / "a")
    assert file.read(3, 50) == bytes([50, 51, 52])
    assert file.read(10, 95) == bytes(range(95, 100))
    assert file.read(2, 0) == bytes([0, 1])
    file.close()
    file.close()


def test_only_text_and_our_own_pictures_are_replaced(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n")
    (tmp_path / "empty").touch()
    Image.new("RGB", (8, 8)).save(tmp_path / "slide.png")
    mark = PngInfo()
    mark.add_text(*PNG_MARK)
    Image.new("RGB", (8, 8)).save(tmp_path / "ours.png", pnginfo=mark)
    for name in ("table.csv", "empty", "ours.png"):
        refuse_binary_file(tmp_path / name)
    with pytest.raises(OutputError, match=r"slide\.png: the file exists and is not text"):
        refuse_binary_file(tmp_path / "slide.png")


def test_an_odd_slide_is_left_to_fail_by_itself(tmp_path):
    loop = tmp_path / "loop.tif"
    loop.symlink_to(loop)
    slides = [loop, tmp_path / ("a" * 300), tmp_path / "a\0b", Path(os.fsdecode(b"\xff.tif"))]
    refuse_slide_folder(tmp_path / "out", slides)
    (tmp_path / "out").mkdir()
    refuse_slide_folder(tmp_path / "out", slides)
