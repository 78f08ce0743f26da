"""Inspect many slides, given as files or as cohort tables."""

import io
import json
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter, ValidationError

from parfocal.dataset.cohort import CohortError, read_slides
from parfocal.dataset.tissue_files import TABLE_SUFFIXES, match_tissue_files
from parfocal.distribute.journal import Journal
from parfocal.distribute.worklist import EVERYTHING_HERE, Distribution, WorkList
from parfocal.explain.inspection.report import SlideReport, describe_slide, find_patches
from parfocal.explain.inspection.strip import draw_strip
from parfocal.features.header import SlideSettings
from parfocal.files import name_key, path_exists
from parfocal.grid import PatchGrid
from parfocal.progress import Progress
from parfocal.slide.errors import SlideError
from parfocal.slide.failure import catch_failure
from parfocal.slide.given_tissue import tissue_fingerprint
from parfocal.slide.identity import file_fingerprint
from parfocal.slide.listing import list_slides
from parfocal.slide.resolution import check_mpp
from parfocal.slide.slide import open_slide
from parfocal.slide.sources.url import RemoteAccess, SlidePath, slide_key

QUALITY = 85  # of JPEG

Inspection = tuple[SlideReport, bytes | None]


@dataclass(frozen=True)
class SlideSource:
    """A slide to inspect.

    Args:
        path: the slide file.
        mpp: microns per level-0 pixel; None to use the file's.
        tissue: file of the tissue; None to find it.
        from_cohort: whether the slide is a row of a cohort's table.
        problem: why it cannot be a slide; None if it may be.
    """

    path: SlidePath
    mpp: float | None = None
    tissue: Path | None = None
    from_cohort: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class InspectedSlide:
    """The result of inspecting one slide.

    Args:
        path: the slide file.
        report: what it holds; None if it failed.
        reason: why it failed; None if it did not.
        picture: JPEG file of the slide, its tissue and its patches; None if it was not drawn.
    """

    path: SlidePath
    report: SlideReport | None
    reason: str | None
    picture: bytes | None


def list_sources(
    paths: Sequence[SlidePath],
    *,
    mpp: float | None = None,
    tissue: Path | None = None,
    access: RemoteAccess | None = None,
) -> list[SlideSource]:
    """Return the slides that are given as files, folders and cohort tables.

    A slide that a table lists and that is also given itself is listed once. Among other paths, a
    table that is no cohort, as `slides/*` may name, is listed as a slide that fails.

    Args:
        paths: slide files, folders of slides, and tables with the columns slide_id and path.
        mpp: microns per level-0 pixel of the slide files and of rows without mpp.
        tissue: tissue files, which come before those of the tables; see `match_tissue_files`.
        access: how remote slides are read that tables name; None for the defaults.

    Raises:
        CohortError: the only path is a table that cannot be read, or `tissue` has no file of any
            slide.
        ValueError: `mpp` is not plausible.
    """
    if mpp is not None:
        check_mpp(mpp)
    tables = [
        path for path in paths if isinstance(path, Path) and path.suffix.lower() in TABLE_SUFFIXES
    ]
    rows: list[SlideSource] = []
    for table in tables:
        try:
            slides = read_slides(table, access=access)
        except CohortError as error:
            if len(paths) == 1:
                raise
            rows.append(SlideSource(table, problem=str(error)))
            continue
        for row in slides:
            rows.append(SlideSource(row.path, row.mpp or mpp, row.tissue, from_cohort=True))
    listed = {slide_key(row.path) for row in rows}
    files = list_slides(path for path in paths if path not in tables)
    sources = [SlideSource(path, mpp) for path in files if slide_key(path) not in listed] + rows
    if tissue is None:
        return sources
    masks = match_tissue_files(tissue, [source.path for source in sources])
    return [replace(source, tissue=masks.get(source.path, source.tissue)) for source in sources]


def inspect_slides(
    sources: Sequence[SlideSource],
    settings: SlideSettings,
    *,
    pictures: bool = False,
    out: Path | None = None,
    again: bool = False,
    distribution: Distribution = EVERYTHING_HERE,
) -> Iterator[InspectedSlide]:
    """Inspect slides one after the other; whatever goes wrong with one, the next one follows.

    Args:
        sources: the slides.
        settings: which patches a slide has.
        pictures: whether to draw the slides.
        out: file that keeps the results, so that a slide is not inspected again while its file and
            the settings are the same; None for none.
        again: whether to inspect slides again whose results are in `out`.
        distribution: how the slides are divided among processes that have the same `out`.
            Workers need an `out`: without one, a temporary file, which workers of other machines
            do not see.
    """
    if out is None and distribution.engine is not None:
        with TemporaryDirectory() as folder:
            yield from inspect_slides(
                sources,
                settings,
                pictures=pictures,
                out=Path(folder) / "results.jsonl",
                distribution=distribution,
            )
        return
    if out is None:
        shard = distribution.shard
        yield from _inspect_here(
            sources if shard is None else shard.select(sources), settings, pictures=pictures
        )
        return
    with _Results(out, settings) as results:
        work = _InspectionWork(_by_item(sources), settings, pictures, results)
        work_list = WorkList(
            *(out, "inspecting", work),
            distribution=distribution,
            again=again,
            found_note="inspected already",
            made_by=json.dumps(asdict(settings)),
        )
        for ended in work_list.run():
            report, picture = ended.result or (None, None)
            yield InspectedSlide(work.sources[ended.item].path, report, ended.reason, picture)


def _inspect_here(
    sources: Sequence[SlideSource], settings: SlideSettings, *, pictures: bool
) -> Iterator[InspectedSlide]:
    """Inspect slides whose results are not kept."""
    progress = Progress("inspecting", len(sources))
    for source in sources:
        report = picture = None
        with catch_failure(source.path.name) as attempt:
            report, picture = _inspect(source, settings, pictures=pictures)
            progress.advance(source.path.name)
        if attempt.reason is not None:
            progress.fail(source.path.name)
        yield InspectedSlide(source.path, report, attempt.reason, picture)


def _by_item(sources: Sequence[SlideSource]) -> dict[str, SlideSource]:
    """Return slides by name, or by path where several have one name."""
    names = Counter(name_key(source.path.name) for source in sources)
    return {
        source.path.name if names[name_key(source.path.name)] == 1 else str(source.path): source
        for source in sources
    }


@dataclass(frozen=True)
class _InspectionWork:
    """Slides to inspect, as shared work."""

    sources: Mapping[str, SlideSource]
    settings: SlideSettings
    pictures: bool
    results: "_Results"

    @cached_property
    def items(self) -> tuple[str, ...]:
        """Names of the slides."""
        return tuple(self.sources)

    def slide_files(self, item: str) -> tuple[SlidePath, ...]:
        """Return the slide of an item."""
        return (self.sources[item].path,)

    def find(self, item: str) -> Inspection | None:
        """Return the result of an earlier call, or of another process."""
        if self.sources[item].problem is not None:
            return None
        return self.results.find(self.sources[item], pictures=self.pictures)

    def process(self, item: str) -> Inspection:
        """Inspect a slide, and keep the result."""
        report, picture = _inspect(self.sources[item], self.settings, pictures=self.pictures)
        self.results.add(self.sources[item], report, picture)
        return report, picture

    def close(self) -> None:
        """Add the results of a worker process to the journal."""
        self.results.close()


class _Results:
    """The results of earlier calls, in a journal."""

    def __init__(self, path: Path, settings: SlideSettings) -> None:
        self._made_of = path, settings
        made_by = {"task": "inspecting", "settings": asdict(settings)}
        self._journal = Journal(path, made_by)
        self._exclude_classes = settings.exclude_classes

    def __reduce__(self) -> tuple[object, ...]:
        """Create the results again in a worker process, which writes its own part."""
        return _Results, self._made_of

    def __enter__(self) -> "_Results":
        return self

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def __exit__(self, *error: Any) -> None:
        self._journal.__exit__(*error)

    def find(self, source: SlideSource, *, pictures: bool) -> Inspection | None:
        """Return the result of a slide; None if it has to be inspected."""
        try:
            state = self._state(source)
        except OSError:  # opening the slide says what is wrong
            return None
        stored = self._journal.find(str(source.path), state)
        if stored is None or (pictures and stored["picture"] is None):
            return None
        try:
            report = TypeAdapter(SlideReport).validate_python(stored["report"])
            return report, b64decode(str(stored["picture"])) if pictures else None
        except (ValidationError, ValueError):
            return None  # edited by hand

    def add(self, source: SlideSource, report: SlideReport, picture: bytes | None) -> None:
        """Keep the result of a slide."""
        encoded = None if picture is None else b64encode(picture).decode()
        content = {"report": report.to_json(), "picture": encoded}
        self._journal.add(str(source.path), self._state(source), content)

    def _state(self, source: SlideSource) -> dict[str, object]:
        tissue = tissue_fingerprint(source.tissue, self._exclude_classes)
        return {
            "fingerprint": file_fingerprint(source.path),
            "mpp": source.mpp,
            "tissue": tissue,
        }


def _inspect(source: SlideSource, settings: SlideSettings, *, pictures: bool) -> Inspection:
    if source.problem is not None:
        raise SlideError(source.problem)
    if isinstance(source.path, Path) and not (source.from_cohort or path_exists(source.path)):
        raise SlideError(f"{source.path}: no such slide, folder or cohort table. Check the path.")
    with open_slide(
        source.path, mpp=source.mpp, tissue=source.tissue, from_cohort=source.from_cohort
    ) as slide:
        tissue, patches = find_patches(slide, settings)
        report = describe_slide(slide, tissue, patches, settings.magnifications)
        if not pictures:
            return report, None
        grid = patches if isinstance(patches, PatchGrid) else None
        strip = draw_strip(slide, tissue, grid, settings.magnifications, title=report.id)
    encoded = io.BytesIO()
    strip.save(encoded, "JPEG", quality=QUALITY)
    return report, encoded.getvalue()
