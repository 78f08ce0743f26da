import os
import time

from parfocal.cost import CostMeter
from parfocal.slide import open_slide
from parfocal.slide.slide import Box
from parfocal.slide.sources import local
from parfocal.slide.sources.local import LocalSource

BOXES = [Box(x, y, 256, 256) for y in range(0, 2048, 256) for x in range(0, 2048, 256)]


class SlowDisk:
    """A disk whose every read takes 10 ms on its clock, on which nothing really waits."""

    def __init__(self, monkeypatch):
        self.reads, self.now, pread = 0, 0.0, os.pread

        def slow_pread(*arguments):
            self.reads, self.now = self.reads + 1, self.now + 0.01
            return pread(*arguments)

        monkeypatch.setattr(local.os, "pread", slow_pread)
        monkeypatch.setattr(local.time, "perf_counter", lambda: self.now)


def read_all(path):
    with open_slide(path) as slide:
        slide.read_ahead(BOXES, 0.5)
        return [slide.read(box, 0.5) for box in BOXES]


def test_reads_of_a_slow_disk_are_joined_and_the_pixels_are_the_same(noisy, monkeypatch):
    expected = read_all(noisy / "noisy.tif")
    disk = SlowDisk(monkeypatch)
    found = read_all(noisy / "noisy.tif")
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    assert disk.reads < len(BOXES) / 3


def test_reads_of_a_fast_disk_are_not_made_ahead(noisy):
    with open_slide(noisy / "noisy.tif") as slide:
        opened = slide.cost_meter.total().requests
        assert not slide.reads_ahead
        assert slide.read_ahead(BOXES, 0.5) == len(BOXES)
        assert slide.cost_meter.total().requests == opened
        slide.read(BOXES[9], 0.5)
        assert slide.cost_meter.total().requests == opened + 1


def test_a_disk_is_judged_by_the_mean_of_its_reads(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    source = LocalSource(tmp_path / "a", CostMeter())
    SlowDisk(monkeypatch)
    for count in range(local.JUDGED_READS):
        assert not source.reads_ahead, count
        assert source.read(3, 2) == b"\x03\x04"
    assert source.reads_ahead
    assert source.read_ahead([(0, 50)]) == 1
    assert source.read_many([(0, 3), (97, 9)]) == [b"\0\1\2", b"abc"]
    source.close()
    assert time is local.time


def test_small_reads_of_a_slow_disk_that_follow_one_another_are_made_together(
    tmp_path, monkeypatch
):
    content = bytes(range(256)) * 400
    (tmp_path / "a").write_bytes(content)
    source = LocalSource(tmp_path / "a", CostMeter())
    disk = SlowDisk(monkeypatch)
    for position in range(0, 100_000, 1000):
        assert source.read(position, 10) == content[position : position + 10]
    assert disk.reads == local.JUDGED_READS + 1
    source.close()
