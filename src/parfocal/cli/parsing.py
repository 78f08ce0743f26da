"""Parse the arguments of subcommands into what the library takes."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from parfocal.cli.arguments import local_run
from parfocal.cli.checks import ArgumentError, wrong_usage

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

    if scratch is None and scratch_gb is not None:
        raise ArgumentError(f"--scratch-gb {scratch_gb:g} needs --scratch.")
    if scratch is not None:
        expanded = os.path.expandvars(scratch)  # as $TMPDIR, on the node of a batch job
        if "$" in expanded:
            raise ArgumentError(f"--scratch {scratch}: this variable is not set here; give a path.")
        scratch = Path(expanded)
    if scratch is not None and copies:
        from parfocal.slide.staging import Scratch, stage_slides

        stage_slides(Scratch.of_gigabytes(scratch, scratch_gb))
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


def parse_places(text: str | None, option: str) -> str | dict[float, str] | None:
    """Parse one value for all magnifications, or a value for each, as 2.5=here,10=ADDRESS.

    Args:
        text: value of the option; None without one.
        option: the option.

    Raises:
        ArgumentError: a magnification is listed twice.
    """
    if text is None:
        return None
    from parfocal.settings.encoders import parse_per_magnification  # loads YAML, needed only here

    with wrong_usage(ValueError, prefix=f"{option}: "):
        return parse_per_magnification(text)


def refuse_unknown_encoder(text: str | None, features: str | None = None) -> None:
    """Refuse names of encoders that `load_encoder` does not accept.

    Args:
        text: value of --encoder.
        features: value of --features, whose encoder may have any name.

    Raises:
        ArgumentError: a name is unknown.
    """
    names = parse_places(text, "--encoder") if features is None else None
    for name in names.values() if isinstance(names, dict) else (names,):
        if name is not None:
            _check_encoder(name, "--encoder")


def parse_encoder_list(text: str) -> list[str]:
    """Return the names of --encoders, which are separated by commas.

    Raises:
        ArgumentError: a name is unknown, empty, listed twice, or given for a magnification.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not name:
            raise ArgumentError("--encoders: a name is empty; list names as A,B,C.")
        if names.count(name) > 1:
            raise ArgumentError(f"--encoders: {name} is listed twice; list it once.")
        check_one_encoder(name, "--encoders")
    return names


def check_one_encoder(name: str, option: str) -> None:
    """Check that a text is the name of an encoder, without a magnification.

    Args:
        name: the text.
        option: the option or argument that has it as its value.

    Raises:
        ArgumentError: it is not.
    """
    if isinstance(parse_places(name, option), dict):
        raise ArgumentError(
            f"{option}: {name!r} names an encoder for a magnification; give the name without the "
            "magnification."
        )
    _check_encoder(name, option)


def _check_encoder(name: str, option: str) -> None:
    """Raise ArgumentError if `load_encoder` does not accept a name."""
    from parfocal.encoders.catalog import unknown_encoder
    from parfocal.encoders.loading import is_known_encoder

    if not is_known_encoder(name):
        raise ArgumentError(f"{option}: {unknown_encoder(name)}")


def parse_features(text: str | None) -> Path | dict[float, Path] | None:
    """Parse a folder of features, or folders by magnification as 2.5=DIR,10=DIR."""
    folders = parse_places(text, "--features")
    if isinstance(folders, dict):
        return {magnification: Path(folder) for magnification, folder in folders.items()}
    return None if folders is None else Path(folders)


def parse_changes(run: Path, changes: Sequence[str] | None) -> "dict[str, SettingValue]":
    """Parse and check the settings that `--set` changes in a trained model."""
    if not changes:
        return {}
    # Loads YAML and pydantic, needed only here.
    from parfocal.settings import SettingsError, model_overrides

    with wrong_usage(SettingsError, prefix="--set: "):
        return model_overrides(run, changes)


# Settings whose options have other names.
OPTIONS = {
    "encoder.name": "--encoder",
    "encoder.weights": "--weights",
    "encoder.output": "--encoder-output",
}


@contextmanager
def wrong_settings(options: Mapping[str, object]) -> Iterator[None]:
    """Turn errors of settings into wrong usage; name the option that has set a setting.

    Args:
        options: values of options by the setting that each sets; None for an option not given.

    Raises:
        ArgumentError: the block raised one of them.
        SettingsFileError: a file of settings cannot be read.
    """
    from parfocal.settings import SettingsError, SettingsFileError

    try:
        yield
    except SettingsFileError:
        raise
    except SettingsError as error:
        message = str(error)
        for setting, value in options.items():
            if value is not None:
                key = setting.partition(".")[2].replace("_", "-")
                option = OPTIONS.get(setting, f"--{key}")
                setting_text = rf"(?<![\w.]){re.escape(setting)}\b(?: \({option}\))?"
                message = re.sub(setting_text, option, message)
        raise ArgumentError(message) from None


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
