"""Read the settings of a run from a recipe, a YAML file over it, and single values over both."""

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from parfocal.settings.check import (
    check_settings,
    refuse_single_magnification,
    unknown_name,
)
from parfocal.settings.encoders import encoder_section
from parfocal.settings.errors import SettingsError, SettingsFileError
from parfocal.settings.overrides import parse_override
from parfocal.settings.renamed import is_version_1, rename_settings, upgrade_sections
from parfocal.settings.sections import SECTIONS, RunSettings
from parfocal.settings.values import check_value, overridden
from parfocal.settings.yaml_texts import load_sections

RECIPES = Path(__file__).parents[1] / "recipes"


def load_settings(
    recipe: str | Path,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
) -> RunSettings:
    """Load the settings of a run; a later argument takes precedence over an earlier one.

    Args:
        recipe: name of a recipe of parfocal, or a YAML file.
        config: YAML file with some sections and keys.
        overrides: single values, each as `train.epochs=3`; the value is YAML.
        flags: single values by name, such as `{"train.epochs": 3}`; None leaves a setting as it is.

    Raises:
        SettingsError: a file cannot be read, or a setting is unknown, missing or invalid.
    """
    layers = [read_yaml(recipe_path(recipe))]
    if config is not None:
        layers.append(read_yaml(config))
    # Another model drops the settings of the one before, so it comes first.
    for text in sorted(overrides, key=lambda text: not text.startswith("model.name=")):
        section, key, value = parse_override(text)
        layers.append({section: {key: value}})
    for name, flag in (flags or {}).items():
        section, _, key = name.partition(".")
        if flag is not None:
            layers.append({section: {key: flag}})
    layers = [_with_encoder_keys(layer) for layer in layers]
    settings = check_settings(reduce(_merge, layers), recipe=str(recipe))
    refuse_single_magnification(settings)
    for section, key, value in overridden(layers):
        if (section, key) != ("slide", "magnifications"):  # also text, which is converted
            check_value(section, key, value, model=settings.model.name)
    return settings


def load_run_settings(path: Path) -> tuple[RunSettings, int]:
    """Read settings.yaml of a run folder, also of format version 1 and with keys renamed since.

    Returns:
        The settings, and the format version of the file.

    Raises:
        SettingsError: the file cannot be read.
    """
    content = _with_encoder_keys(read_yaml(path))
    version = 1 if is_version_1(content) else 2
    content = upgrade_sections(content) if version == 1 else rename_settings(content)
    return check_settings(content, recipe=str(path)), version


def recipe_names() -> list[str]:
    """Return the names of the recipes of parfocal."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipes() -> dict[str, str]:
    """Return a one-sentence description of each recipe of parfocal, by name."""
    return {name: _first_sentence(recipe_path(name)) for name in recipe_names()}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of sections.

    Raises:
        SettingsFileError: the file cannot be read, or has no sections with keys.
    """
    try:
        content = load_sections(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsFileError(f"{path}: cannot be read ({error.strerror}).") from None
    except yaml.MarkedYAMLError as error:
        raise SettingsFileError(f"{path}{_yaml_error(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsFileError(f"{path}: not text ({' '.join(str(error).split())}).") from None
    problem = _section_problem(content)
    if problem is not None:
        raise SettingsFileError(
            f"{path}: {problem}; write sections ({', '.join(SECTIONS)}) with indented keys and "
            "values."
        )
    return dict(content)


def _first_sentence(recipe: Path) -> str:
    """Return the first sentence of the comment at the start of a recipe."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line[:1] == "#", lines))
    return comment.partition(". ")[0].rstrip(".") + "."


def recipe_path(recipe: str | Path) -> Path:
    """Return the file of a recipe.

    Args:
        recipe: name of a recipe of parfocal, or a YAML file.

    Raises:
        SettingsError: there is no recipe of that name.
    """
    if Path(recipe).suffix in (".yaml", ".yml"):
        return Path(recipe)
    if str(recipe) not in recipe_names():
        raise SettingsError(unknown_name("recipe", str(recipe), [*recipe_names(), "FILE.yaml"]))
    return RECIPES / f"{recipe}.yaml"


def _yaml_error(error: yaml.MarkedYAMLError) -> str:
    """Return the line and the reason of a YAML error."""
    mark = error.problem_mark
    line = "" if mark is None else f", line {mark.line + 1}"
    if error.problem is not None and r"'\t'" in error.problem:
        return f"{line}: indented with a tab; use spaces."
    return f"{line}: not YAML ({error.problem}); correct it."


def _section_problem(content: object) -> str | None:
    """Return what a file has in place of sections with keys, or None if it has them."""
    if content is None:
        return "the file is empty"
    if not isinstance(content, dict):
        return f"the file holds a {'list' if isinstance(content, list) else 'single value'}"
    for section, values in content.items():
        if not isinstance(values, dict) and not (section == "encoder" and isinstance(values, str)):
            return f"{section} has no keys"
    return None


def _with_encoder_keys(sections: dict[str, Any]) -> dict[str, Any]:
    """Return sections whose section `encoder` has its usual keys."""
    if "encoder" not in sections:
        return sections
    return {**sections, "encoder": encoder_section(sections["encoder"])}


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge sections; if `above` names another model, the model settings of `below` are dropped."""
    merged = {section: dict(values) for section, values in below.items()}
    for section, values in above.items():
        old = merged.get(section, {})
        if section == "model" and values.get("name", old.get("name")) != old.get("name"):
            old = {}
        merged[section] = {**old, **values}
    return merged
