"""What CAMELYON16 and 17 share: the owners' public bucket, its sums, and annotations by slide."""

from dataclasses import replace
from pathlib import Path

from parfocal.dataset.readers.asap import find_drawings
from parfocal.dataset.readers.listing import Row, Source

ADDRESS = "https://registry.opendata.aws/camelyon/ (no account needed; `--download` fetches slides)"
LICENSE = "CC0"
SUMS = "checksums.md5"


def read_sums(source: Source, folder: Path) -> dict[str, str]:
    """Read the MD5 sums that lie beside the slides in the bucket, if they were downloaded too.

    Raises:
        CohortError: the file is not one of sums.
    """
    path = folder / SUMS
    if not path.exists():
        return {}
    pairs = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
    if any(len(pair) != 2 or len(pair[0]) != 32 for pair in pairs):
        raise source.refuse(path, "not a list of MD5 sums and names")
    return {name.strip().lstrip("*"): digest.lower() for digest, name in pairs}


def sums_by_path(source: Source, folder: Path) -> dict[Path, str]:
    """Give the sums of the files in a folder, as `read_sums`."""
    return {folder / key: digest for key, digest in read_sums(source, folder).items()}


def with_drawings(source: Source, folder: Path, rows: list[Row]) -> tuple[Row, ...]:
    """Give each slide the annotations that bear its name.

    Raises:
        CohortError: some bear the name of no slide in the set.
    """
    drawings = find_drawings(folder)
    strangers = sorted(set(drawings) - {row.slide_id for row in rows})
    if strangers:
        raise source.refuse(
            folder, f"annotations of slides that are not in the set: {', '.join(strangers)}"
        )
    return tuple(replace(row, drawing=drawings.get(row.slide_id)) for row in rows)
