"""Print the oldest allowed version of each package that parfocal names, as constraints for pip.

python scripts/lower_bounds.py [--extra onnx] [--except torch] > oldest.txt

`nox -s oldest` installs these.
"""

import argparse
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def lower_bounds(extras: Iterable[str] = (), *, without: Collection[str] = ()) -> list[str]:
    """Return a line `name==version` for each package.

    Args:
        extras: extras of parfocal to include.
        without: names of packages to leave out.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    texts = [*project["dependencies"], *(text for extra in extras for text in optional[extra])]
    lines = []
    for requirement in map(Requirement, texts):
        (lowest,) = [each for each in requirement.specifier if each.operator in (">=", "==")]
        if requirement.name not in without:
            lines.append(f"{requirement.name}=={lowest.version}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extra", action="append", default=[])
    parser.add_argument("--except", action="append", default=[], dest="without")
    arguments = parser.parse_args()
    print("\n".join(lower_bounds(arguments.extra, without=arguments.without)))


if __name__ == "__main__":
    main()
