"""Write docs/settings.md from the docstrings and types of the settings; run by `make docs`."""

import inspect
import json
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from parfocal.models import MODELS
from parfocal.models.contract import Setting
from parfocal.settings.sections import SECTIONS

PAGE = Path(__file__).with_name("settings.md")
INTRO = """# Settings

The settings of `parfocal train` are read from a YAML file with one section for each stage: the
patches of a slide, the encoder, the model, the training. This page lists every setting. It is
generated from the docstrings by `make docs`.

```yaml
# mine.yaml
slide:
  magnifications: [2.5, 10]
model:
  k: 24
train:
  epochs: 50
  patience: 10
```

Settings come from four places; a later one takes precedence:

1. a recipe, chosen with `--model NAME`: [one of parfocal's](recipes.md), or a YAML file
   that has at least the sections `slide` and `model`;
2. a YAML file with some of the settings, given with `--config FILE`;
3. single settings, given with `--set SECTION.KEY=VALUE`; the value is YAML, so `true`, `null`,
   `1e-3`, `[2.5, 10]` and `'text'` are understood;
4. the options of the command, such as `--epochs`.

For example:

    parfocal train cohort.csv --model zoommil --config mine.yaml --set train.seed=1 --out run

The section `encoder` may be a name, or a name for each magnification
([why](concepts.md#an-encoder-for-each-magnification)); `--encoder` takes the same as text,
`1.25=NAME,10=NAME`:

```yaml
encoder: {1.25: efficientnet-lite0, 10: virchow2}
```

The run folder stores all settings, defaults included, in `settings.yaml`, which is a recipe again.

`parfocal predict` and `parfocal evaluate` also take `--set model.KEY=VALUE`. It changes a setting
of the trained model that does not affect the shape of its weights, such as the number of patches
to read.
"""
MODEL_INTRO = """## `model`

`name` is the name of the model. The other settings are arguments of the model's class and depend on
the model.
"""
BOUNDS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}


def page() -> str:
    """Return the whole page."""
    parts = [INTRO]
    for name, section in SECTIONS.items():
        if name != "model":
            summary = (inspect.getdoc(section) or "").partition("\n")[0]
            parts.append(
                f"## `{name}`\n\n{summary}\n\n{_table(section, _section_settings(section))}"
            )
    parts.append(MODEL_INTRO)
    for name, model in MODELS.items():
        if not model.settings:
            parts.append(f"### `{name}`\n\nThis model has no settings.\n")
            continue
        parts.append(f"### `{name}`\n\n{_table(model.module_class, model.settings)}")
    return "\n".join(parts)


def _section_settings(section: Any) -> list[Setting]:
    hints = typing.get_type_hints(section, include_extras=True)
    settings = []
    for member in fields(section):
        default = member.default
        if member.default_factory is not MISSING:
            default = member.default_factory()
        settings.append(Setting(member.name, hints[member.name], default))
    return settings


def _table(described: type, settings: Sequence[Setting]) -> str:
    meanings = _arguments(inspect.getdoc(described) or "")
    rows = [
        f"| `{each.name}` | {_values(each.type)} | {_default(each.default)} "
        f"| {meanings[each.name]} |"
        for each in settings
    ]
    return "\n".join(["| key | values | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _arguments(docstring: str) -> dict[str, str]:
    """Return the arguments in a docstring: name -> description on one line."""
    listed = docstring.partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", listed, re.M)
    return {name: _as_yaml(" ".join(text.split())) for name, text in entries}


def _as_yaml(text: str) -> str:
    """Replace Python's constants by YAML's, and escape the column separator."""
    for python, yaml in (("None", "null"), ("True", "true"), ("False", "false")):
        text = re.sub(rf"\b{python}\b", yaml, text)
    return text.replace("|", r"\|")


def _values(annotation: Any) -> str:
    """Return the allowed values of a type, for people."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        bounds = [bound for each in arguments[1:] for bound in _bounds(each)]
        return " ".join([_values(arguments[0]), " and ".join(bounds)]).strip()
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_values(argument) for argument in arguments)
    if origin is dict:
        return f"{_values(arguments[1])} by magnification"
    if origin is not None:
        items = dict.fromkeys(_values(each) for each in arguments if each is not Ellipsis)
        return f"list of {' or '.join(map(_plural, items))}"
    names = {bool: "`true`, `false`", int: "integer", float: "number", str: "text", Path: "path"}
    return "`null`" if annotation is type(None) else names[annotation]


def _plural(values: str) -> str:
    """Return "numbers ≥ 0" for "number ≥ 0"."""
    noun, space, bounds = values.partition(" ")
    return f"{noun if noun == 'text' else noun + 's'}{space}{bounds}"


def _bounds(metadata: object) -> list[str]:
    constraints = metadata.metadata if isinstance(metadata, FieldInfo) else [metadata]
    found = ((BOUNDS[type(each)], each) for each in constraints if type(each) in BOUNDS)
    return [f"{sign} {getattr(each, name):g}" for (name, sign), each in found]


def _default(value: object) -> str:
    if value is MISSING:
        return "required"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"  # as in YAML


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
