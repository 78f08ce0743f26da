"""What CAMELYON16 and CAMELYON17 share: public bucket, checksums, and annotations."""

from dataclasses import replace
from pathlib import Path

from parfocal.dataset.readers.asap import find_annotations
from parfocal.dataset.readers.listing import Row, Source

ADDRESS = "https://registry.opendata.aws/camelyon/ (no account needed; `--download` fetches slides)"
LICENSE = "CC0"
SUMS = "checksums.md5"


def read_sums(source: Source, folder: Path) -> dict[str, str]:
    """Read the MD5 checksums by key from the file in the bucket; empty if it was not downloaded.

    Raises:
        CohortError: the file does not hold checksums.
    """
    path = folder / SUMS
    if not path.exists():
        return {}
    pairs = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
    if any(len(pair) != 2 or len(pair[0]) != 32 for pair in pairs):
        raise source.error(path, "not a list of MD5 checksums and names")
    return {name.strip().lstrip("*"): digest.lower() for digest, name in pairs}


def sums_by_path(source: Source, folder: Path) -> dict[Path, str]:
    """Read the MD5 checksums of the files in a folder by path; see `read_sums`."""
    return {folder / key: digest for key, digest in read_sums(source, folder).items()}


def add_annotations(source: Source, folder: Path, rows: list[Row]) -> tuple[Row, ...]:
    """Return the rows with the annotations found in the folder, matched by name.

    Raises:
        CohortError: annotations do not match any slide of the data set.
    """
    annotations = find_annotations(folder)
    unmatched = sorted(set(annotations) - {row.slide_id for row in rows})
    if unmatched:
        raise source.error(
            folder, f"annotations of slides that are not in the data set: {', '.join(unmatched)}"
        )
    return tuple(replace(row, annotations=annotations.get(row.slide_id)) for row in rows)
