import pytest

from parfocal.files import whole_file, write_together, write_whole


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
