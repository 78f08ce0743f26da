"""Write docs/settings.md from the docstrings of the code: `python docs/make_settings.py`."""

import inspect
import json
import re
from collections.abc import Set
from pathlib import Path

from parfocal.models import MODELS
from parfocal.settings.sections import SECTIONS

PAGE = Path(__file__).with_name("settings.md")
# What a run itself gives to a model: the data say it, or another section.
GIVEN = {
    *("in_dim", "num_classes", "num_slides", "generator"),
    *("num_magnifications", "magnifications", "patch_size"),
}
INTRO = """# Settings

This page is made from the docstrings by `python docs/make_settings.py`; a test compares the two.

A recipe is a YAML file with the sections below. `parfocal train --model NAME` takes
[one of ours](methods.md#recipes), or a file of yours; `--config FILE` lays a file with some keys
over it, `--set section.key=value` a single one, and the command's own flags win over all. What a
run was trained with stands in its `settings.yaml`, which is again such a file.

```yaml
# mine.yaml: parfocal train cohort.csv --model zoommil --config mine.yaml --out run
slide:
  magnifications: [2.5, 10]
model:
  k: 24
train:
  epochs: 50
  patience: 10
```
"""


def page() -> str:
    """Give the whole page."""
    parts = [INTRO]
    for name, section in SECTIONS.items():
        if name != "model":
            parts.append(f"## `{name}`\n\n{_table(section, frozenset())}")
    parts.append(
        "## `model`\n\n`name` is the model's; the other keys are the arguments of its class.\n"
    )
    parts += [f"### `{name}`\n\n{_table(model, GIVEN)}" for name, model in MODELS.items()]
    return "\n".join(parts)


def _table(described: type, given: Set[str]) -> str:
    said = _arguments(inspect.getdoc(described) or "")
    rows = [
        f"| `{parameter.name}` | {_default(parameter)} | {said[parameter.name]} |"
        for parameter in inspect.signature(described).parameters.values()
        if parameter.name not in given
    ]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _arguments(docstring: str) -> dict[str, str]:
    """Read the Args of a docstring: name -> what is said of it, on one line."""
    listed = docstring.partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", listed, re.M)
    return {name: " ".join(text.split()).replace("|", r"\|") for name, text in entries}


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "to be given"
    if callable(parameter.default) or repr(parameter.default).startswith("<"):
        return ""
    value = parameter.default
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"  # as YAML has it


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
