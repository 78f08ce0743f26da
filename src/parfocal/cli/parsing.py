"""Parse the arguments of subcommands into what the library takes."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from parfocal.cli.arguments import ArgumentError, local_run

if TYPE_CHECKING:
    from parfocal.distribute.distribution import Distribution, Engine
    from parfocal.models.checkpoint import SettingValue
    from parfocal.settings import RunSettings
    from parfocal.slide.sources.url import RemoteAccess, SlidePath


def remote_access(
    cache: Path | None,
    scratch: Path | None,
    hosts: Sequence[str] | None,
    scratch_gb: float | None = None,
    *,
    copies: bool = True,
) -> "RemoteAccess":
    """Return how remote slides are read; from now on, copy local ones to the scratch folder.

    Args:
        cache: folder that keeps the parts that were read.
        scratch: folder for copies and downloads.
        hosts: hosts that the named one may redirect to.
        scratch_gb: size of the scratch folder, in GB.
        copies: whether to copy local slides to it.

    Raises:
        ArgumentError: a size is given, but no scratch folder, or one with a variable that is not
            set.
        OSError: the scratch folder cannot be written to.
    """
    from parfocal.slide.sources.url import RemoteAccess

    if scratch is not None:
        expanded = os.path.expandvars(scratch)  # as $TMPDIR, on the node of a batch job
        if "$" in expanded:
            raise ArgumentError(f"--scratch {scratch}: this variable is not set here; give a path.")
        scratch = Path(expanded)
    if scratch is not None and copies:
        from parfocal.slide.staging import Scratch, stage_slides

        stage_slides(Scratch.of_gigabytes(scratch, scratch_gb))
    if scratch is None and scratch_gb is not None:
        raise ArgumentError(f"--scratch-gb {scratch_gb:g} needs --scratch.")
    return RemoteAccess(cache, scratch, tuple(hosts or ()))


def parse_slides(texts: Sequence[str], access: "RemoteAccess | None" = None) -> "list[SlidePath]":
    """Parse paths and URLs of slides."""
    from parfocal.slide.sources.url import parse_slide_path

    return [parse_slide_path(text, access) for text in texts]


def parse_slides_apart(
    texts: Sequence[str], access: "RemoteAccess | None" = None
) -> "tuple[list[SlidePath], dict[str, str]]":
    """Parse paths and URLs of slides; return URLs that cannot be used apart, with the reason."""
    from parfocal.slide.sources.url import UrlError, shown_url

    paths: list[SlidePath] = []
    refused: dict[str, str] = {}
    for text in texts:
        try:
            paths += parse_slides([text], access)
        except UrlError as error:
            refused[shown_url(text)] = str(error)
    return paths, refused


def refuse_tables(paths: "Sequence[SlidePath]") -> None:
    """Refuse tables as slides, unless they are among slides, as with `slides/*`.

    Raises:
        ArgumentError: all paths are tables.
    """
    from parfocal.dataset.tissue_files import TABLE_SUFFIXES

    if paths and all(path.suffix.lower() in TABLE_SUFFIXES for path in paths):
        raise ArgumentError(
            f"{paths[0]}: predict takes slides or folders of slides; for a cohort, use `parfocal "
            "evaluate`."
        )


def parse_magnifications(text: str) -> tuple[float, ...]:
    """Parse magnifications separated by commas, with or without "x".

    Raises:
        typer.BadParameter: one of them is not a number.
    """
    try:
        return tuple(float(part.strip().removesuffix("x")) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list like 2.5,5,10", param_hint="--magnifications"
        ) from None


def parse_places(text: str | None) -> str | dict[float, str] | None:
    """Parse the place of an encoder, or places by magnification as 2.5=here,10=ADDRESS."""
    if text is None:
        return None
    from parfocal.settings.encoders import parse_per_magnification  # loads YAML, needed only here

    return parse_per_magnification(text)


def parse_one_encoder(text: str) -> str:
    """Return the name of an encoder.

    Raises:
        typer.BadParameter: the text names encoders by magnification.
    """
    if isinstance(parse_places(text), dict):
        raise typer.BadParameter(
            f"{text!r} names an encoder for a magnification; this command takes the name alone, "
            "without the magnification"
        )
    return text


def parse_encoder_list(text: str) -> str:
    """Return names of encoders separated by commas; see `parse_one_encoder`."""
    for name in text.split(","):
        parse_one_encoder(name)
    return text


def parse_features(text: str | None) -> Path | dict[float, Path] | None:
    """Parse a folder of features, or folders by magnification as 2.5=DIR,10=DIR."""
    if text is None:
        return None
    from parfocal.settings.encoders import parse_per_magnification  # loads YAML, needed only here

    folders = parse_per_magnification(text)
    if isinstance(folders, dict):
        return {magnification: Path(folder) for magnification, folder in folders.items()}
    return Path(folders)


def parse_changes(run: Path, changes: Sequence[str] | None) -> "dict[str, SettingValue]":
    """Parse and check the settings that `--set` changes in a trained model."""
    if not changes:
        return {}
    from parfocal.settings import model_overrides  # loads YAML and pydantic, needed only here

    return model_overrides(run, changes)


def with_local_runs(settings: "RunSettings") -> "RunSettings":
    """Return settings whose teacher and initial model are folders, also if named hf:OWNER/NAME."""
    train = settings.train
    if train.teacher is not None:
        train = replace(train, teacher=local_run(train.teacher))
    if train.init_from is not None:
        train = replace(train, init_from=local_run(train.init_from))
    return replace(settings, train=train)


def parse_distribution(shard: str | None, engine: "Engine | None" = None) -> "Distribution":
    """Return how the items of a command are divided.

    Args:
        shard: value of --shard; None for all items.
        engine: what makes the attempts; None for this process.
    """
    from parfocal.distribute.shards import parse_shard
    from parfocal.distribute.worklist import Distribution

    return Distribution(None if shard is None else parse_shard(shard), engine)
