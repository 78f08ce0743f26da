"""Build the wheel and the source archive, and use the wheel in a new environment.

    python scripts/check_packages.py WORK

WORK is a new folder. Needs pip and the packages of constraints.txt; the demonstration must end
within --limit seconds. Prints what was done, and how large the installation is.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from installed_sizes import print_sizes  # noqa: E402 (a script beside this one)

# Tests of the source archive that need nothing but pytest, beartype and packaging.
QUICK_TESTS = ("tests/test_files.py", "tests/test_bag.py", "tests/models/test_contract.py")
SERVER_START_S = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="new folder")
    parser.add_argument("--limit", type=float, default=90, help="seconds for `demo --quick`")
    parser.add_argument("--skip-tests", action="store_true", help="leave out the archive's tests")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True)
    wheel, archive = build(work)
    print(f"built {wheel.name} and {archive.name}")
    program = install(work / "environment", wheel)
    use(program, work / "outside", arguments.limit)
    print_sizes(program.with_name("python"))
    if not arguments.skip_tests:
        test_archive(program.with_name("python"), archive, work)


def build(work: Path) -> tuple[Path, Path]:
    """Build both; raise if the wheels from the archive and from the clone differ."""
    python = new_environment(work / "build-environment")
    run(python, "-m", "pip", "install", "--quiet", "build")
    run(python, "-m", "build", "--outdir", work / "packages", ROOT)  # the wheel is from the archive
    run(python, "-m", "build", "--wheel", "--outdir", work / "direct", ROOT)
    (wheel,), (archive,) = (work / "packages").glob("*.whl"), (work / "packages").glob("*.tar.gz")
    (direct,) = (work / "direct").glob("*.whl")
    if contents(wheel) != contents(direct):
        raise SystemExit(f"{wheel} from the source archive and {direct} from the clone differ")
    return wheel, archive


def contents(wheel: Path) -> dict[str, int]:
    """Return the checksum of each file in a wheel."""
    with zipfile.ZipFile(wheel) as files:
        return {each.filename: each.CRC for each in files.infolist()}


def install(environment: Path, wheel: Path) -> Path:
    """Install the wheel with the tested versions; return the program."""
    python = new_environment(environment)
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, wheel)
    return python.with_name("parfocal")


def use(program: Path, folder: Path, limit: float) -> None:
    """Run the commands that a new user runs first."""
    folder.mkdir()
    started = time.monotonic()
    run(program, "demo", "--quick", cwd=folder)
    seconds = time.monotonic() - started
    print(f"demo --quick took {seconds:.0f} s")
    if seconds > limit:
        raise SystemExit(f"demo --quick took {seconds:.0f} s, more than {limit:.0f} s")
    slide = min((folder / "demo-out" / "cohort").rglob("*.tif"))
    run(program, "--version", "--verbose", cwd=folder)
    run(program, "inspect", slide, cwd=folder)
    run(program, "predict", "demo-out/run", slide, "--out", "predictions", cwd=folder)
    view(program, folder)


def view(program: Path, folder: Path) -> None:
    """Start the viewer, request its page once, and stop it with Ctrl-C."""
    command = [str(program), "view", "predictions", "--no-browser", "--port", "0"]
    server = subprocess.Popen(command, cwd=folder, env=outside(), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = re.search(r"http://\S+", server.stdout.readline())
        if address is None:
            raise SystemExit("view printed no address")
        with urllib.request.urlopen(address[0], timeout=SERVER_START_S) as answer:
            page = answer.read()
        if b"<html" not in page:
            raise SystemExit("view answered with something that is not a page")
    finally:
        server.send_signal(signal.SIGINT)
        code = server.wait(timeout=SERVER_START_S)
    print(f"view answered {len(page):,} bytes and ended with {code}")


def test_archive(python: Path, archive: Path, work: Path) -> None:
    """Run tests from the unpacked source archive."""
    run(sys.executable, "-m", "tarfile", "-e", archive, work / "archive")
    (folder,) = (work / "archive").iterdir()
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, *("pytest", "beartype"))
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *QUICK_TESTS, cwd=folder)


def new_environment(folder: Path) -> Path:
    """Return the Python of a new virtual environment."""
    run(sys.executable, "-m", "venv", folder)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def outside() -> dict[str, str]:
    """Return the environment variables without those that lead back to the clone."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(*command: object, cwd: Path | None = None) -> None:
    """Run a command, and raise if it fails."""
    print("+", *command, flush=True)
    subprocess.run([str(word) for word in command], cwd=cwd, env=outside(), check=True)


if __name__ == "__main__":
    main()
