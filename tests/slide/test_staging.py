"""Slides are copied to a scratch folder ahead of their use; the copies are bounded and removed."""

import logging
import os
from pathlib import Path

import pytest

from parfocal.distribute.worklist import WorkList
from parfocal.processes import this_process
from parfocal.slide.slide import Box, open_slide
from parfocal.slide.staging import PREFIX, Scratch, Stage, current_stage, in_place, stage_slides
from shared_work import Writing, calls, names


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory, write_slide) -> list[Path]:
    folder = tmp_path_factory.mktemp("slides")
    return [write_slide(folder / f"{number}.tif", seed=number) for number in range(3)]


@pytest.fixture
def stage(tmp_path: Path, slides: list[Path]):
    """Stage slides in a folder with room for two of them."""
    stage_slides(Scratch(tmp_path / "scratch", 2 * max(s.stat().st_size for s in slides)))
    yield current_stage()
    stage_slides(None)


def copies(tmp_path: Path) -> list[str]:
    folder = tmp_path / "scratch"
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def pixels_of(slide):
    return slide.read(Box(0, 0, *slide.size), 8 * slide.mpp)


def test_a_slide_is_read_from_its_copy_and_stays_the_same_slide(slides, stage, tmp_path):
    with in_place(), open_slide(slides[0]) as slide:
        expected, fingerprint = pixels_of(slide), slide.fingerprint
        assert copies(tmp_path) == []
    with open_slide(slides[0]) as slide:
        assert copies(tmp_path) == ["0.tif"]
        assert (pixels_of(slide) == expected).all()
        assert (slide.path, slide.fingerprint) == (slides[0], fingerprint)
        read = {
            str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()
        }
        assert any(str(tmp_path / "scratch") in each for each in read)
        assert str(slides[0]) not in read


def test_copies_are_bounded_and_the_one_used_longest_ago_is_removed(slides, stage, tmp_path):
    for path in (slides[0], slides[1], slides[0], slides[2]):
        with open_slide(path):
            pass
    assert copies(tmp_path) == ["0.tif", "2.tif"]


def test_a_slide_for_which_there_is_no_room_is_read_in_place(slides, stage, tmp_path, caplog):
    caplog.set_level(logging.INFO, "parfocal")
    with open_slide(slides[0]), open_slide(slides[1]), open_slide(slides[2]) as slide:
        assert copies(tmp_path) == ["0.tif", "1.tif"]
        assert pixels_of(slide).any()
    (message,) = caplog.messages
    assert message.startswith(f"2.tif: {tmp_path / 'scratch'} has no room for its ")
    assert message.endswith("it is read in place")


def test_copies_are_made_ahead_and_removed_after(slides, stage, tmp_path):
    stage.ahead(lambda: slides[:2])
    with open_slide(slides[0]):  # waits for its copy
        pass
    with open_slide(slides[1]):
        stage.discard(slides[:2])
        assert copies(tmp_path) == ["1.tif"]  # which is in use
    stage_slides(None)
    assert copies(tmp_path) == []
    assert (tmp_path / "scratch").is_dir()


def test_a_missing_slide_is_named_as_it_was_given(stage, tmp_path):
    with pytest.raises(Exception, match=f"{tmp_path / 'none.tif'}: no such file"):
        open_slide(tmp_path / "none.tif")


def test_all_files_of_a_mirax_slide_are_copied(stage, tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a.mrxs", "a/Slidedat.ini", "a/Data0000.dat"):
        (tmp_path / name).write_bytes(b"x")
    copied, _ = stage.open(tmp_path / "a.mrxs")
    assert sorted(p.name for p in copied.parent.rglob("*.*")) == [
        *("Data0000.dat", "Slidedat.ini", "a.mrxs")
    ]


def test_what_killed_processes_left_is_removed(tmp_path):
    dead = this_process().token.replace(f"-{os.getpid()}-", "-999999999-")
    for token in (dead, "0123456789-1-1"):
        (tmp_path / f"{PREFIX}{token}").mkdir()
    Stage(Scratch(tmp_path)).end()
    assert [path.name for path in tmp_path.iterdir()] == [f"{PREFIX}0123456789-1-1"]


def test_a_command_copies_slides_ahead_and_removes_each_after_its_use(slides, stage, tmp_path):
    seen = []

    class Reading(Writing):
        def slide_files(self, item: str) -> tuple[Path, ...]:
            return (slides[self.items.index(item)],)

        def process(self, item: str) -> str:
            with open_slide(self.slide_files(item)[0]) as slide:
                seen.append((slide.path.name, slide.path.name in copies(tmp_path)))
            return super().process(item)

    work = Reading(tmp_path, names(3))
    list(WorkList(tmp_path, "reading", work).run())
    assert seen == [(path.name, True) for path in slides]
    assert copies(tmp_path) == []
    assert sum(calls(tmp_path).values()) == 3
