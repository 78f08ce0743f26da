"""The Python examples and commands of the README and the documentation work."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from documentation import (
    NOT_COMMANDS,
    NOT_RUN,
    PAGES,
    blocks_of,
    commands_of,
    commands_to_run,
    listed,
)
from parfocal.cli.program import app
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.slide import predict

EVERY_BLOCK = [block for page in PAGES for block in blocks_of(page)]
BLOCKS = [(block.page, block.text) for block in EVERY_BLOCK if block.is_python]
COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})


@pytest.fixture
def place(
    tmp_path: Path,
    untrained: Checkpoint,
    write_slide: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with the files the examples use: a run, a new slide and a prediction."""
    for name in ("new", "run", "predictions", "tissue"):
        (tmp_path / name).mkdir()
    untrained.save(tmp_path / "run")
    record = predict(write_slide(tmp_path / "new" / "009.svs"), untrained)
    (tmp_path / "predictions" / "slide-0059.json").write_text(record.to_json())
    area = {"type": "Polygon", "coordinates": [[[0, 0], [512, 0], [512, 512], [0, 0]]]}
    (tmp_path / "tissue" / "009.geojson").write_text(json.dumps(area))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_documentation_has_examples_and_commands():
    assert len(BLOCKS) >= 3
    assert len(COMMANDS) >= 20


def test_every_block_is_run_or_its_kind_is_listed():
    unknown = [
        f"{block.page.name}: {block.first_line}"
        for block in EVERY_BLOCK
        if not block.is_python
        and not block.has_commands
        and listed(block.page, block.first_line, NOT_COMMANDS) is None
    ]
    assert unknown == []


@pytest.mark.parametrize(
    ("table", "shown"),
    [
        (NOT_COMMANDS, [(block.page, block.first_line) for block in EVERY_BLOCK]),
        (NOT_RUN, [(page, command) for page in PAGES for command in commands_of(page)]),
    ],
    ids=["blocks", "commands"],
)
def test_what_is_listed_as_not_run_is_there(table, shown):
    unused = [row for row in table if not any(listed(*each, (row,)) for each in shown)]
    assert unused == []


def test_most_commands_are_run():
    run = {command for page in PAGES for command in commands_to_run(page)}
    assert len(run) >= 70


@pytest.mark.parametrize(
    ("page", "block"), BLOCKS, ids=lambda value: value.name if isinstance(value, Path) else ""
)
@pytest.mark.usefixtures("place")
def test_a_python_example_runs(page: Path, block: str):
    exec(compile(block, page.name, "exec"), {})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tissue_method": "gray", "min_tissue": 0.6, "children": "all"},
        {"roots": "share", "min_tissue": 0.9},
        {"tissue_method": "all"},
    ],
)
def test_the_parts_of_the_readme_answer_as_the_command_does(
    place: Path, untrained: Checkpoint, settings: dict[str, object]
):
    trained = replace(untrained, slide=replace(untrained.slide, **settings))
    trained.save(place / "run")
    (block,) = (
        text for page, text in BLOCKS if page.name == "README.md" and "trained.open" in text
    )
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    record = predict(place / "new" / "009.svs", trained)
    assert names["prediction"].logits.softmax(0).tolist() == list(record.probabilities.values())
    assert names["slide"].cost_meter.total().patches == record.cost.patches


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_has_the_options_it_is_shown_with(command: str):
    _, name, *words = shlex.split(command)
    subcommand = typer.main.get_command(app).commands[name]
    if hasattr(subcommand, "commands"):
        subcommand = subcommand.commands[words.pop(0)]
    options = {
        option
        for parameter in subcommand.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    shown = {word.split("=")[0] for word in words if word.startswith("--")}
    assert shown <= options | {"--debug", "--help"}
