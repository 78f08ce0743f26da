"""One entry of a cohort: a slide, or a patient with several slides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from parfocal.dataset.outlines_file import OutlinesFile
from parfocal.slide.sources.url import SlidePath

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class CohortSlide:
    """One row of a cohort.

    Args:
        slide_id: the id as written, so that `007` stays `007`.
        path: the slide file, of which a relative path starts at the folder of the table; or a URL.
        label: the class; empty if the table was read without labels and has none.
        patient_id: the patient; all slides of a patient stay in one part. The slide id where the
            table gives no patient.
        row: row number in the table; the header is row 1.
        mpp: microns per pixel at level 0, for a file without it; None to use the file's.
        split: the part that the table assigns the slide to.
        fold: the fold in which it is a test slide.
        fold_parts: the part that the table assigns the slide to in each fold, None where it is left
            out of a fold; empty where the table has no such columns.
        stratum: a group, for example a center, to balance over the parts and to report separately.
        tissue: file of the tissue: GeoJSON or a mask image; None to find the tissue.
        outlines: the lesions; None where the table names no file.
        values: cells of the columns that the reader requested, by column, as they are written.
        group: group that a split spreads over its parts; None for the label.
        slides: the slides of a patient, if the entry is a patient; `slide_id` is then the id of the
            patient, and `path` that of the first slide. Empty if the entry is a slide.
    """

    slide_id: str
    path: SlidePath
    label: str
    patient_id: str
    row: int
    mpp: float | None = None
    split: Part | None = None
    fold: int | None = None
    fold_parts: tuple[Part | None, ...] = ()
    stratum: str | None = None
    tissue: Path | None = None
    outlines: OutlinesFile | None = None
    values: Mapping[str, str] = field(default_factory=dict, hash=False)
    group: str | None = None
    slides: tuple["CohortSlide", ...] = ()

    @property
    def split_group(self) -> str:
        """The group that a split spreads over its parts."""
        return self.label if self.group is None else self.group
