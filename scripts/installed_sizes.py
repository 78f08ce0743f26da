"""Print the size of each package of an environment, largest first.

    python scripts/installed_sizes.py [PYTHON]

PYTHON is the interpreter of another environment; without it, this one is measured.
"""

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

SHOWN = 15  # packages that have a line of their own
MB = 1e6


def sizes() -> dict[str, int]:
    """Return the number of bytes of each installed package, largest first."""
    found = {}
    for each in distributions():
        paths = [Path(str(each.locate_file(file))) for file in each.files or ()]
        found[each.metadata["Name"]] = sum(path.stat().st_size for path in paths if path.exists())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def print_sizes(python: Path | str) -> None:
    """Print the sizes in the environment of an interpreter."""
    subprocess.run([str(python), __file__], check=True)


def main() -> None:
    found = sizes()
    print(f"{len(found)} packages, {sum(found.values()) / MB:,.0f} MB")
    for name, size in list(found.items())[:SHOWN]:
        print(f"{size / MB:8.1f} MB  {name}")
    rest = list(found.values())[SHOWN:]
    print(f"{sum(rest) / MB:8.1f} MB  {len(rest)} others")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print_sizes(sys.argv[1])
    else:
        main()
