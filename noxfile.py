"""Checks in environments of their own: `nox -s tests-3.12`, `nox -s oldest`, `nox -s wheel`.

`nox` alone runs those that need no other Python. `make test` runs tests and lint in .venv. Packages
come from where pip finds them: PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER installs them from a folder.
"""

from pathlib import Path

import nox

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# Tests that use each package of `dependencies`, and end within minutes.
OLDEST_TESTS = (
    *(
        "tests/test_files.py",
        "tests/test_doctor.py",
        "tests/test_demo.py",
        "tests/test_polygons.py",
    ),
    *("tests/metrics", "tests/probe/test_linear.py", "tests/settings", "tests/slide/readers"),
    *("tests/features/test_store.py", "tests/train/test_run.py", "tests/explain/viewer"),
)
SOURCES = ("src", "scripts", "tests", "docs", "benchmarks", "examples", "noxfile.py")

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ("lint", "tests-3.11", "wheel", "docs", "citation")
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"  # each has torch, and takes 2 GB


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests with the tested versions of all packages."""
    install_all(session)
    chosen = session.posargs or ("-m", "not slow")
    session.run("python", "-m", "pytest", "-q", *chosen, env={"OMP_NUM_THREADS": "1"})


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """Run tests with the oldest allowed version of each package.

    `nox -s oldest -- torch` takes torch of constraints.txt, for a machine without its old builds.
    """
    bounds = Path(session.create_tmp()) / "oldest.txt"
    without = [word for name in session.posargs for word in ("--except", name)]
    session.install("packaging")
    # Also with --install-only, for which `session.run` does nothing.
    text = session.run_install("python", "scripts/lower_bounds.py", *without, silent=True)
    bounds.write_text(str(text))
    session.install("-c", str(bounds), "-e", ".")
    session.install("-c", str(bounds), *("pytest", "beartype", "packaging", "pyyaml"))
    session.install("-c", str(bounds), *("scikit-learn", "lifelines", "pandas", "tensorboard"))
    session.install("-c", str(bounds), "wsidicom")
    # Old packages warn of what newer ones have changed, and old jaxtyping cannot check these tests.
    options = ("-W", "default", "-o", "addopts=--import-mode=importlib", "-m", "not slow")
    session.run("python", "-m", "pytest", "-q", *options, *OLDEST_TESTS)


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Check formatting, style, types, the layers and the spelling."""
    install_all(session)
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("mypy")
    session.run("lint-imports")
    session.run("codespell", "src", "tests", "docs", "README.md", "benchmarks", "examples")


@nox.session(python=PYTHONS)
def syntax(session: nox.Session) -> None:
    """Compile all sources, without installing anything."""
    session.run("python", "-W", "error", "-m", "compileall", "-q", "-f", *SOURCES)


@nox.session(python="3.11")
def wheel(session: nox.Session) -> None:
    """Build the packages, and use the wheel outside the clone."""
    work = Path(session.create_tmp()) / "packages"
    session.run("python", "scripts/check_packages.py", str(work), *session.posargs)


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    """Build the documentation site."""
    install_all(session)
    for script in sorted(Path("docs").glob("make_*.py")):
        session.run("python", str(script))
    session.run("zensical", "build", "--strict")


@nox.session(python="3.11")
def citation(session: nox.Session) -> None:
    """Check CITATION.cff against the schema of its format."""
    session.install("cffconvert>=2")
    session.run("cffconvert", "--validate")


def install_all(session: nox.Session) -> None:
    """Install parfocal and what its tests need, in the tested versions."""
    session.install("-c", "constraints.txt", "-e", ".[dev,docs,onnx]")
