"""A recipe, a file over it, and single values over both -> the settings of a run."""

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from parfocal.settings.check import SettingsError, unknown, validated
from parfocal.settings.sections import SECTIONS, RunSettings

RECIPES = Path(__file__).parents[1] / "recipes"


def load_settings(
    recipe: str | Path,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
) -> RunSettings:
    """Put the settings of a run together; what comes later wins.

    Args:
        recipe: name of one of ours, or a YAML file.
        config: a YAML file over it, with some of its sections and keys.
        overrides: single values over both, as `train.epochs=3`.
        flags: single values over all, as `{"train.epochs": 3}`; None is no value.

    Raises:
        SettingsError: a file, key or value is wrong.
    """
    layers = [_read(_recipe_path(recipe))]
    if config is not None:
        layers.append(_read(config))
    layers += [_override(text) for text in overrides]
    layers += [_nested(key, value) for key, value in (flags or {}).items() if value is not None]
    return validated(reduce(_merge, layers), recipe=str(recipe))


def recipe_names() -> list[str]:
    """Give the names of the recipes that come with parfocal."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipes() -> dict[str, str]:
    """Tell what each recipe that comes with parfocal is, as its file begins, by name."""
    return {name: _first_sentence(_recipe_path(name)) for name in recipe_names()}


def _first_sentence(recipe: Path) -> str:
    lines = recipe.read_text(encoding="utf-8").splitlines()
    said = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line[:1] == "#", lines))
    return said.partition(". ")[0].rstrip(".") + "."


def _recipe_path(recipe: str | Path) -> Path:
    if Path(recipe).suffix in (".yaml", ".yml"):
        return Path(recipe)
    if str(recipe) not in recipe_names():
        raise SettingsError(unknown("recipe", str(recipe), [*recipe_names(), "FILE.yaml"]))
    return RECIPES / f"{recipe}.yaml"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}).") from None
    except yaml.MarkedYAMLError as error:
        raise SettingsError(f"{path}{_where(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not text ({' '.join(str(error).split())}).") from None
    found = _no_sections(content)
    if found is not None:
        raise SettingsError(
            f"{path}: {found}; settings stand in sections ({', '.join(SECTIONS)}), each with keys "
            "and values below it, indented."
        )
    return dict(content)


def _where(error: yaml.MarkedYAMLError) -> str:
    """Say where in a file YAML ends, and why."""
    mark = error.problem_mark
    line = "" if mark is None else f", line {mark.line + 1}"
    if error.problem is not None and r"'\t'" in error.problem:
        return f"{line}: indented with a tab; take spaces."
    return f"{line}: not YAML ({error.problem}); correct it."


def _no_sections(content: object) -> str | None:
    """Say what is there in place of sections with keys."""
    if content is None:
        return "empty"
    if not isinstance(content, dict):
        return f"a {'list' if isinstance(content, list) else 'single value'}"
    for section, values in content.items():
        if not isinstance(values, dict):
            return f"{section} has no keys"
    return None


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or key.count(".") != 1:
        raise SettingsError(f"{text!r} is not section.key=value, as train.epochs=3.")
    try:
        return _nested(key, yaml.safe_load(value))
    except yaml.YAMLError:
        raise SettingsError(f"{text!r}: the value is not YAML; put it in quotes.") from None


def _nested(key: str, value: object) -> dict[str, Any]:
    section, _, name = key.partition(".")
    return {section: {name: value}}


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay sections over sections; another model takes none of the settings of the first."""
    merged = {section: dict(values) for section, values in below.items()}
    for section, values in above.items():
        old = merged.get(section, {})
        if section == "model" and values.get("name", old.get("name")) != old.get("name"):
            old = {}
        merged[section] = {**old, **values}
    return merged
