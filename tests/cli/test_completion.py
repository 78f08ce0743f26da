"""The TAB key completes commands and options."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(words: str, home: Path, **variables: str) -> str:
    """Run the program as a shell does, in a process of its own."""
    code = "import sys; from parfocal.cli import main; main()"
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        env={**kept, "HOME": str(home), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("typed", "completions"),
    [("parfocal pre", {"predict"}), ("parfocal train --magn", {"--magnifications"})],
)
def test_bash_completes_commands_and_options(typed: str, completions: set[str], tmp_path: Path):
    variables = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    found = run("", tmp_path, _PARFOCAL_COMPLETE="complete_bash", **variables)
    assert set(found.split()) == completions


def test_completion_is_installed_for_the_shell_in_use(tmp_path: Path):
    shell = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    found = run("--install-completion bash", tmp_path, **shell)
    assert "completion installed" in found
    script = (tmp_path / ".bash_completions" / "parfocal.sh").read_text()
    assert "_PARFOCAL_COMPLETE=complete_bash" in script
    assert "parfocal.sh" in (tmp_path / ".bashrc").read_text()
