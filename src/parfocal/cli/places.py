"""Where a command writes: checked before it begins, so that no hours of work are lost."""

import errno
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import typer

from parfocal.files import READ_ONLY, OutputError, part_path, path_exists, refuse_binary_file

PAGE_SUFFIXES = (".html", ".htm")
# A folder with one of these is refused, because its name is probably meant for a file.
FILE_SUFFIXES = (
    *(".csv", ".tsv", ".xlsx", ".xlsm", ".json", ".jsonl", ".yaml", ".yml", ".txt", ".html"),
    *(".htm", ".pdf", ".png", ".jpg", ".jpeg", ".svg", ".tif", ".tiff", ".svs", ".h5", ".pt"),
    *(".pth", ".ckpt", ".safetensors", ".geojson", ".zip"),
)


@dataclass
class OutputPlace:
    """Which command is running and where it writes, for the message after Ctrl-C."""

    command: str = ""
    out: Path | None = None


@runtime_checkable
class CommandContext(Protocol):
    """The part of a click context that the callbacks below use."""

    info_name: str | None
    obj: OutputPlace | None  # None when the app is called without `main`


def output_folder(context: CommandContext, path: Path) -> Path:
    """Check that a folder can be written, before any work is done.

    Raises:
        typer.BadParameter: the folder does not exist, and its name is that of a file.
        OSError: a file is in the way, or writing is not permitted.
    """
    if path.suffix.lower() in FILE_SUFFIXES and not path.exists():
        raise typer.BadParameter(
            f"{path}: this is the name of a file, and results are written to a folder; name a "
            "folder."
        )
    existing = _nearest_folder(path)
    _require_writable(existing)
    if context.obj is not None:
        context.obj.command, context.obj.out = context.info_name or "", path
    _use_for_temporary_files(existing)
    return path


def unfinished_folder(context: CommandContext, path: Path) -> Path:
    """Check that a folder can be written, unless it may be finished; see `output_folder`.

    Raises:
        typer.BadParameter: see `output_folder`.
        OSError: a file is in the way, or writing is not permitted and the folder is empty.
    """
    try:
        return output_folder(context, path)
    except OSError as error:
        if error.errno not in READ_ONLY or not path.is_dir() or not any(path.iterdir()):
            raise
        return path  # the command reports what is left to do, if anything


def written_folder(path: Path | None) -> Path | None:
    """Check that a folder for something besides the results can be written, if one is given.

    Raises:
        OSError: a file is in the way, or writing is not permitted.
    """
    if path is not None:
        _require_writable(_nearest_folder(path))
    return path


def _nearest_folder(path: Path) -> Path:
    """Return a folder, or the nearest folder above it that exists.

    Raises:
        FileExistsError: a file is in the way.
    """
    existing = next(place for place in (path, *path.absolute().parents) if path_exists(place))
    if not existing.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(existing))
    return existing


def _require_writable(folder: Path) -> None:
    """Check that files can be created in a folder, by creating one.

    Permissions alone are not sufficient: a file system may be read-only or full, root may have no
    rights on a network file system, and Windows has access lists.

    Raises:
        OSError: they cannot; it names the folder.
    """
    part = part_path(folder / "any")
    try:
        part.touch()
        part.unlink()
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(folder)) from error


def _use_for_temporary_files(folder: Path) -> None:
    """Let libraries write temporary files to a folder if the system has no other place for them.

    In a container whose file system is read-only, the output folder may be the only one.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = str(folder)


def output_file(*suffixes: str) -> Callable[[CommandContext, Path | None], Path | None]:
    """Return a callback that checks that a file can be written, before any work is done.

    Args:
        suffixes: the extensions that the file may have.
    """

    def check(context: CommandContext, path: Path | None) -> Path | None:
        if path is not None:
            _check_output_file(context, path, suffixes)
        return path

    return check


def output_page(context: CommandContext, path: Path) -> Path:
    """Check that an HTML page can be written, before any work is done.

    Raises:
        typer.BadParameter: the path has another extension.
        OutputError: it is a file that is not HTML, which would be lost.
        OSError: a folder is in the way, or writing is not permitted.
    """
    _check_output_file(context, path, PAGE_SUFFIXES)
    start = path.read_bytes()[:1000].lstrip() if path.is_file() else b""
    if start and not start.startswith(b"<"):
        raise OutputError(f"{path}: the file exists and is not an HTML page. Choose another --out.")
    return path


def optional(
    check: Callable[[CommandContext, Path], Path],
) -> Callable[[CommandContext, Path | None], Path | None]:
    """Return a callback that checks a path if one is given.

    Args:
        check: callback that checks a path.
    """

    def check_given(context: CommandContext, path: Path | None) -> Path | None:
        return None if path is None else check(context, path)

    return check_given


def _check_output_file(context: CommandContext, path: Path, suffixes: Sequence[str]) -> None:
    """Check that a file can be written.

    Raises:
        typer.BadParameter: the path has another extension.
        OutputError: it is a file that is not text, such as a slide, which would be lost.
        OSError: a folder is in the way, or writing is not permitted.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.suffix.lower() not in suffixes:
        raise typer.BadParameter(
            f"{path}: this kind of file cannot be written here; give a name that ends in "
            f"{' or '.join(suffixes)}."
        )
    if path.is_file():
        refuse_binary_file(path)
    output_folder(context, path.parent)
    if context.obj is not None:
        context.obj.out = path
