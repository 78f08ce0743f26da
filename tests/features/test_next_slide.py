"""Extraction opens the next slide, and reads its first patches, while one is being finished."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

from parfocal.distribute.work_folder import file_name, work_folder
from parfocal.distribute.worklist import WorkList
from parfocal.encoders.queue import EncoderSource
from parfocal.features import extract
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings
from parfocal.slide.slide import open_slide
from parfocal.slide.sources.url import parse_slide_path

SETTINGS = SlideSettings(magnifications=(2.5, 10.0), patch_size=32)
WAIT_S = 20


@pytest.fixture
def cohort(tmp_path):
    slides = []
    for seed in range(3):
        pixels = np.full((256, 256, 3), 245, dtype=np.uint8)
        noise = np.random.default_rng(seed).integers(0, 60, (160, 160, 3))
        pixels[32:192, 32:192] = noise + np.array([150, 60, 140])
        path = tmp_path / f"{seed}.png"
        Image.fromarray(pixels).save(path)
        slides.append((f"{seed}", path, 1.0))
    return slides


class Opened:
    """Counts the slides that are open, and notes when each is opened."""

    def __init__(self):
        self.events = {name: threading.Event() for name in ("0.png", "1.png", "2.png")}
        self.slides, self.most = [], 0

    def __call__(self, path, **options):
        slide = open_slide(path, **options)
        self.slides.append(slide)
        self.most = max(self.most, sum(not each._is_closed for each in self.slides))
        self.events[path.name].set()
        return slide


@pytest.fixture
def waits(monkeypatch):
    """Let an encoder on the CPU open the next slide, as one on a GPU does."""
    monkeypatch.setattr(extract.ExtractionWork, "_waits", lambda *_: True)


@pytest.fixture
def opened(monkeypatch):
    opened = Opened()
    monkeypatch.setattr(extract, "open_slide", opened)
    return opened


def test_the_next_slide_is_opened_before_the_last_patches_of_one_are_encoded(
    cohort, encoder, opened, waits, tmp_path
):
    found, last = [], batches_of(cohort[0], encoder, tmp_path)
    opened.events["1.png"].clear()

    def wait(*_):
        is_last = len(found) == last - 1
        found.append(opened.events["1.png"].wait(WAIT_S if is_last else 0))

    encoder.network.register_forward_hook(wait)
    result = extract_cohort(cohort[:2], tmp_path / "out", encoder=encoder, settings=SETTINGS)
    assert result.done == ("0", "1")
    assert not found[0]  # not before the first patches
    assert found[last - 1]


def test_on_the_cpu_only_a_remote_slide_is_opened_ahead(
    cohort, encoder, opened, monkeypatch, tmp_path
):
    ahead = []
    usual = extract.ExtractionWork._waits
    monkeypatch.setattr(
        extract.ExtractionWork, "_waits", lambda *each: ahead.append(usual(*each)) or ahead[-1]
    )
    extract_cohort(cohort, tmp_path / "out", encoder=encoder, settings=SETTINGS)
    assert ahead == [False, False]
    remote = [(name, parse_slide_path(f"http://127.0.0.1:1/{name}.svs"), 1.0) for name in "ab"]
    work = extract.ExtractionWork(
        {name: (path, mpp) for name, path, mpp in remote},
        *(tmp_path, SETTINGS, (), EncoderSource([encoder]), "float16", None, {}),
        layout=None,
    )
    assert usual(work, "a")


def batches_of(slide, encoder, folder):
    """Return the number of batches in which a slide is encoded."""
    encoder.macs_per_patch()  # runs the network, too
    calls = []
    hook = encoder.network.register_forward_hook(lambda *_: calls.append(None))
    extract_cohort([slide], folder / "counted", encoder=encoder, settings=SETTINGS)
    hook.remove()
    return len(calls)


def test_the_files_are_those_of_slides_alone_and_at_most_two_slides_are_open(
    cohort, encoder, opened, waits, tmp_path
):
    extract_cohort(cohort, tmp_path / "all", encoder=encoder, settings=SETTINGS)
    assert opened.most <= 2
    assert all(slide._is_closed for slide in opened.slides)
    assert len(opened.slides) == 3
    for slide in cohort:
        extract_cohort([slide], tmp_path / "one", encoder=encoder, settings=SETTINGS)
        name = f"{slide[0]}.h5"
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_slide_that_cannot_be_opened_ahead_is_the_only_one_that_fails(
    cohort, encoder, waits, tmp_path
):
    cohort[1][1].write_bytes(b"torn")
    result = extract_cohort(cohort, tmp_path / "out", encoder=encoder, settings=SETTINGS)
    assert result.done == ("0", "2")
    assert list(result.failed) == ["1"]


class Recorded:
    """Work that notes which item it would begin with next."""

    items = ("a", "b", "c")

    def __init__(self, claims):
        self.claims, self.following, self.next = claims, None, {}

    def find(self, item):
        return True if item in self.next else None

    def expect(self, following):
        self.following = following

    def close(self):
        self.following = None

    def process(self, item):
        claimed = self.claims / file_name("b")  # by another process, for a moment
        if item == "a":
            claimed.touch()
        self.next[item] = self.following()
        if item == "a":
            claimed.unlink()
        return True


def test_a_slide_that_another_process_has_claimed_is_not_opened(tmp_path):
    work = Recorded(work_folder(tmp_path) / "claims")
    ended = list(WorkList(tmp_path, "extracting", work).run())
    assert [each.item for each in ended] == ["a", "b", "c"]
    assert work.next == {"a": "c", "b": "c", "c": None}
    assert work.following is None


def test_an_interruption_closes_the_next_slide(cohort, encoder, opened, waits, tmp_path):
    calls, last = [], batches_of(cohort[0], encoder, tmp_path)

    def interrupt(*_):
        calls.append(None)
        if len(calls) == last and opened.events["1.png"].wait(WAIT_S):
            raise KeyboardInterrupt

    opened.slides.clear()
    encoder.network.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract_cohort(cohort, tmp_path / "out", encoder=encoder, settings=SETTINGS)
    assert len(opened.slides) == 2
    deadline = time.monotonic() + WAIT_S
    while not all(slide._is_closed for slide in opened.slides) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(slide._is_closed for slide in opened.slides)
