"""What several subcommands share: their arguments, and how they end."""

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import typer

Part = Literal["train", "val", "test", "all"]


@dataclass
class Writing:
    """What is told when a command is interrupted: which one it was, and where it writes."""

    command: str = ""
    out: Path | None = None


@runtime_checkable
class Running(Protocol):
    """What typer tells of the command that runs; it is no `typer.Context`, but what that is of."""

    info_name: str | None
    obj: Writing | None  # None where no one asked to be told


def folder_to_write(context: Running, path: Path) -> Path:
    """Refuse, before any work, a place where no folder can be written.

    Raises:
        OSError: a file is in the way, or the place is not to be written to.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))
    if context.obj is not None:
        context.obj.command, context.obj.out = context.info_name or "", path
    return path


def file_to_write(context: Running, path: Path | None) -> Path | None:
    """Refuse, before any work, a place where no file can be written.

    Raises:
        OSError: a folder is in the way, or the place is not to be written to.
    """
    if path is not None and path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path is not None:
        folder_to_write(context, path.parent)
        if context.obj is not None:
            context.obj.out = path
    return path


Cohort = Annotated[
    Path,
    typer.Argument(
        metavar="COHORT", help="CSV with columns slide_id, path and label; paths relative to it."
    ),
]
Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a run that `parfocal train` wrote.")
]
Slides = Annotated[list[Path], typer.Argument(metavar="SLIDE...", help="Slide files.")]
Out = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder to write to.", callback=folder_to_write)
]
OutToGoOnWith = Annotated[
    Path,
    typer.Option(
        metavar="DIR", help="Folder to write to, or one to go on with.", callback=folder_to_write
    ),
]
Mpp = Annotated[
    float | None,
    typer.Option(help="Microns per pixel at level 0, for files that do not say or say wrongly."),
]
MAGNIFICATIONS = typer.Option(metavar="M,M,...", help="Lowest first, as 1.25,2.5,10.")
LADDER = typer.Option(
    metavar="M,M,...",
    help="Lowest first, as 1.25,2.5,10; or, for jsma, a range of which those that fit a slide are "
    "used, as 2.5-20.",
)
Features = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Stored features; else slides are read as the model asks."),
]
External = Annotated[
    bool,
    typer.Option("--external", help="COHORT is another than the run's: equal ids say nothing."),
]
Cache = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Keep features here as slides are visited.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="model.KEY=VALUE", help="Look otherwise than trained, as model.k=10."
    ),
]
ENCODERS = "efficientnet-lite0, resnet50-layer3 or timm:NAME."
ENCODERS_SET = f"{ENCODERS[:-1]}; its weights from a file with --set encoder.weights=FILE."
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]


def parse_magnifications(text: str) -> tuple[float, ...]:
    """Read magnifications as `MAGNIFICATIONS` takes them."""
    try:
        return tuple(float(part.strip().removesuffix("x")) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not like 1.25,2.5,10", param_hint="--magnifications"
        ) from None


def parse_changes(texts: list[str] | None) -> dict[str, Any]:
    """Read arguments of a model as `--set` takes them."""
    changes = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key.startswith("model."):
            raise typer.BadParameter(f"{text!r} is not like model.k=10", param_hint="--set")
        try:
            changes[key.removeprefix("model.")] = json.loads(value)
        except ValueError:
            changes[key.removeprefix("model.")] = value  # a word
    return changes


def finish(failed: Mapping[str, str], of: int, *, what: str = "slides") -> None:
    """List the slides, or what else, that failed, those of one reason together; tell the shell."""
    from parfocal.slide.errors import name_once

    if failed and of > 1:
        typer.echo(f"parfocal: {len(failed)} of {of} {what} failed:", err=True)
    by_reason: dict[str, list[str]] = {}
    for slide, reason in failed.items():
        told = name_once(slide, reason)
        by_reason.setdefault(told.reason, []).append(told.name)
    for reason, slides in by_reason.items():
        typer.echo(f"parfocal: {', '.join(slides)}: {reason}", err=True)
    if failed:
        raise typer.Exit(1)
