"""Read the small INI files of Hamamatsu and MIRAX slides."""

from collections.abc import Mapping
from pathlib import Path

MAX_BYTES = 2**20

Ini = Mapping[str, Mapping[str, str]]


def read_ini(path: Path) -> Ini:
    """Return the values of an INI file, by section and key.

    Lines that are neither a section nor a value are ignored; of a key that is there twice, the last
    value counts.

    Raises:
        ValueError: the file is longer than 1 MiB.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_BYTES // 2**20} MiB")
    sections: dict[str, dict[str, str]] = {}
    section: dict[str, str] = {}
    for line in content.decode("utf-8-sig", "replace").splitlines():
        text = line.strip()
        if text.startswith("[") and text.endswith("]"):
            section = sections.setdefault(text[1:-1], {})
        elif "=" in text and not text.startswith("#"):
            key, _, value = text.partition("=")
            section[key.strip()] = value.strip()
    return sections


def whole_number(ini: Ini, section: str, key: str, *, low: int, high: int) -> int:
    """Return a number of an INI file.

    Raises:
        ValueError: it is missing, no whole number, or outside `low` to `high`.
    """
    text = ini.get(section, {}).get(key, "")
    number = int(text) if text.lstrip("-").isdecimal() and text.isascii() else None
    if number is None or not low <= number <= high:
        raise ValueError(f"{key} of [{section}] is {text[:40]!r}, not a number of {low} to {high}")
    return number


def present_file(folder: Path, name: str) -> Path:
    """Return the path of a file that belongs to a slide.

    Raises:
        ValueError: it is missing or empty.
    """
    path = folder / name
    try:
        if name and path.is_file() and path.stat().st_size > 0:
            return path
    except (OSError, ValueError):
        pass  # an impossible name
    raise ValueError(f"its file {name[:80]!r} is missing or empty")
