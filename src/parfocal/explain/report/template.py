"""Render the HTML templates of this folder; their filters format numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from parfocal.metrics import Score, interval_notes, score_label
from parfocal.printable import counts_of_each

# The templates of reports, and design.css, the colors and type that they share with the viewer.
STYLED_PAGES = (
    PackageLoader("parfocal.explain.report", "."),
    PackageLoader("parfocal.explain", "static"),
)


# The parts of metrics.json whose scores a report shows, and keys that do not name a score.
SCORED = ("slides", "patients", "operating_point")
GROUPS = ("slides", "operating_point", "scores", "classes", "targets", "thresholds", "auroc_delong")


def render(template: str, **values: object) -> str:
    """Render a template of this folder as a self-contained page.

    Args:
        template: file name of the template.
        values: variables of the template.
    """
    return _pages().get_template(template).render(version=version("parfocal"), **values)


@cache
def _pages() -> Environment:
    pages = Environment(
        loader=ChoiceLoader(STYLED_PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "score": score_text,
        "interval_notes": _interval_notes,
        "classes": _class_counts,
        "percent": _percent,
        "number": _number,
        "step": _step_name,
        "setting": _setting,
        "css": _css_text,
        "metric": score_label,
    }
    return pages


def score_text(score: Mapping[str, Any] | None) -> str:
    """Format a score with its interval for a table; `_interval_notes` are printed below it."""
    return "–" if score is None else _score(score).short


def _score(score: Mapping[str, Any]) -> Score:
    known = {field.name for field in fields(Score)}
    return Score(**{key: value for key, value in score.items() if key in known})


def _interval_notes(metrics: Mapping[str, Any]) -> list[str]:
    """Return sentences on scores without an interval, and on undefined resamples."""
    shown = {key: metrics[key] for key in SCORED if key in metrics}
    delong = metrics.get("auroc_delong", {})
    shown["auroc_delong"] = {name: {"AUROC by DeLong": each} for name, each in delong.items()}
    return interval_notes(_scores_in(shown, ()))


def _scores_in(content: object, names: tuple[str, ...]) -> Iterator[tuple[str, Score]]:
    """Yield each score of a part of metrics.json with its name, such as "recall of tumor"."""
    if isinstance(content, Mapping) and {"value", "low", "high"} <= content.keys():
        own, *others = [name for name in reversed(names) if name not in GROUPS]
        yield f"{score_label(own)}{''.join(f' of {name}' for name in others)}", _score(content)
    elif isinstance(content, Mapping):
        for name, each in content.items():
            yield from _scores_in(each, (*names, name))


def _class_counts(scored: Mapping[str, Any]) -> str:
    """Name the number of slides or patients of each class."""
    return counts_of_each({label: each["n"] for label, each in scored["classes"].items()})


def _step_name(step: Mapping[str, Any]) -> str:
    """Name a step by its magnification, or by its number for a model that chooses its squares."""
    name = step.get("magnification", step.get("look"))
    if isinstance(name, str):  # "all"
        return name
    assert name is not None
    return f"{_number(name)}x" if "magnification" in step else f"step {name:g}"


def _setting(value: object) -> object:
    """Format the value of a setting: a list with commas, values by key with equals signs."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _css_text(text: str) -> Markup:
    r"""Return the content of a string in CSS, in which no character has a meaning.

    >>> print(_css_text('a"b'))
    a\22 b
    """
    safe = (c if c.isascii() and c.isalnum() else f"\\{ord(c):x} " for c in text)
    return Markup("".join(safe))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _number(value: float | None) -> str:
    """Format a number with three significant digits; from 100 to a million as a whole number."""
    if value is None:
        return "unknown"
    if value >= 1e6:
        power = min(4, int(len(f"{value:.0f}") - 1) // 3)
        return f"{value / 1000**power:.3g} {'kMGT'[power - 1]}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
