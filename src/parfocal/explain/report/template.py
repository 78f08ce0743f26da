"""Templates of pages, and how they give numbers."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: object) -> str:
    """Give a page that stands alone, from a template of this folder."""
    return _pages().get_template(template).render(version=version("parfocal"), **values)


@cache
def _pages() -> Environment:
    pages = Environment(
        loader=PackageLoader("parfocal.explain.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "score": _score,
        "percent": _percent,
        "number": _number,
        "looked": _observation_name,
    }
    return pages


def _score(score: Mapping[str, Any] | None) -> str:
    """Give a score with its interval, or why there is none."""
    if score is None:
        return "–"
    if score["value"] is None:
        return str(score["reason"])
    between = "" if score["low"] is None else f" ({score['low']:.3f} to {score['high']:.3f})"
    return f"{score['value']:.3f}{between}"


def _observation_name(step: Mapping[str, Any]) -> str:
    """Name a magnification, the look of a model that zooms freely, or all of them together."""
    at = step.get("magnification", step.get("look"))
    if isinstance(at, str):
        return at
    assert at is not None
    return f"{_number(at)}x" if "magnification" in step else f"look {at:g}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _number(value: float) -> str:
    """Give a count, or a number with three digits that tell."""
    if value >= 1e6:
        power = min(4, int(len(f"{value:.0f}") - 1) // 3)
        return f"{value / 1000**power:.3g} {'kMGT'[power - 1]}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
