"""What the README and the documentation show works as it is shown."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from parfocal.cli.program import app
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.slide import predict

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def commands_of(page: Path) -> list[str]:
    """Give every command line, whether in a loop, continued, or with a comment behind it."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    shown = re.findall(r"^    (?:.*\bdo )?(parfocal [^#;\n]*)", text, re.M)
    return shown + re.findall(r"`(parfocal [a-z]+ [^`]*)`", text)


BLOCKS = [(page, block) for page in PAGES for block in blocks_of(page)]
COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})


@pytest.fixture
def place(
    tmp_path: Path,
    untrained: Checkpoint,
    write_slide: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with what the examples name: a run, a new slide and a prediction."""
    for name in ("new", "run", "predictions"):
        (tmp_path / name).mkdir()
    untrained.save(tmp_path / "run")
    record = predict(write_slide(tmp_path / "new" / "009.svs"), untrained)
    (tmp_path / "predictions" / "slide-0059.json").write_text(record.to_json())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_documentation_has_examples_and_commands():
    assert len(BLOCKS) >= 3
    assert len(COMMANDS) >= 20


@pytest.mark.parametrize(
    ("page", "block"), BLOCKS, ids=lambda given: given.name if isinstance(given, Path) else ""
)
@pytest.mark.usefixtures("place")
def test_an_example_in_python_runs(page: Path, block: str):
    exec(compile(block, page.name, "exec"), {})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_shown_is_one_and_has_the_options_shown(command: str):
    _, name, *words = shlex.split(command)
    known = typer.main.get_command(app).commands[name]
    options = {option for parameter in known.params for option in parameter.opts}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= options | {"--debug"}
