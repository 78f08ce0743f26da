"""Clinical covariates, such as age, sex and stage, beside what a model sees on the slide.

The covariates are joined before the last layer. A last layer on the vector h of a slide and the
covariates z together is W [h; z] + b = W_h h + W_z z + b: the logits of the model without
covariates, plus a linear map of them. So the map is a layer of its own, `covariate_head`, which any
model can have, whatever comes before its logits. It begins at zero, so that what training never
varied, such as a missing value that no training slide has, changes nothing.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.prediction import Prediction
from parfocal.validation import is_missing

Kind = Literal["number", "category"]
KINDS: tuple[Kind, ...] = ("number", "category")
HEAD = "covariate_head"  # name of the layer in a model
MAX_CATEGORIES = 50

logger = logging.getLogger(__name__)


class CovariateError(ValueError):
    """Covariates that cannot be used; the message names the column and says what to do."""


@dataclass(frozen=True)
class Covariate:
    """A column with clinical values, and how they become numbers.

    A number is standardized by the mean and the standard deviation of the training slides; a
    category is one-hot. The last number says whether the value is missing, and the others are then
    0.

    Args:
        name: name of the column.
        kind: "number" or "category".
        mean: mean over the training slides; 0 for a category.
        std: standard deviation over the training slides, 1 if all are equal; 1 for a category.
        categories: the categories, sorted; empty for a number.
    """

    name: str
    kind: Kind
    mean: float = 0.0
    std: float = 1.0
    categories: tuple[str, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the numbers, such as "age", "sex=F" and "sex missing"."""
        if self.kind == "number":
            return self.name, f"{self.name} missing"
        return *(f"{self.name}={each}" for each in self.categories), f"{self.name} missing"

    def encode(self, text: str, where: str) -> list[float]:
        """Return the numbers of a value.

        A value that training did not know is missing, with a warning.

        Args:
            text: the cell.
            where: name of the slide or patient, for the warning.
        """
        zeros = [0.0] * (len(self.input_names) - 1)
        if is_missing(text):
            return [*zeros, 1.0]
        if self.kind == "number":
            number = _number(text)
            if number is not None:
                return [(number - self.mean) / self.std, 0.0]
        elif text in self.categories:
            return [*(float(text == each) for each in self.categories), 0.0]
        known = "numbers" if self.kind == "number" else ", ".join(self.categories)
        logger.warning(
            "%s: %s %r was not in training (%s); it counts as missing",
            *(where, self.name, text, known),
        )
        return [*zeros, 1.0]


@dataclass(frozen=True)
class CovariateEncoding:
    """The covariates of a model, as they were in training.

    Args:
        columns: the covariates.
    """

    columns: tuple[Covariate, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(each.name for each in self.columns)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of all numbers."""
        return tuple(name for each in self.columns for name in each.input_names)

    def encode(self, values: Mapping[str, str], where: str) -> Float[Tensor, " v"]:
        """Return the covariates of a slide or patient as numbers.

        Args:
            values: cells by column.
            where: name of the slide or patient, for messages.

        Raises:
            CovariateError: a column is absent.
        """
        numbers: list[float] = []
        for each in self.columns:
            if each.name not in values:
                raise CovariateError(
                    f"{where}: no value of {each.name}, a covariate of the model; give a table "
                    f"with the columns {', '.join(self.names)} (an empty cell is a missing value)."
                )
            numbers += each.encode(values[each.name], where)
        return torch.tensor(numbers, dtype=torch.float32)

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the covariates as JSON, which `parse_covariates` reads."""
        return [
            {"name": each.name, "kind": each.kind, "mean": each.mean, "std": each.std}
            if each.kind == "number"
            else {"name": each.name, "kind": each.kind, "categories": list(each.categories)}
            for each in self.columns
        ]


def covariate_columns(covariates: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns of covariates that may name their kind, as "stage:category".

    Raises:
        CovariateError: a kind is unknown, or a column is named twice.
    """
    names = tuple(_split_kind(each)[0] for each in covariates)
    for name in names:
        if not name or names.count(name) > 1:
            raise CovariateError(
                f"covariates {', '.join(covariates)}: {name or 'a column'} "
                f"{'is named twice' if name else 'has no name'}; name each column once."
            )
    return names


def fit_covariates(
    covariates: Sequence[str], rows: Sequence[Mapping[str, str]]
) -> CovariateEncoding:
    """Return the encoding of covariates, from the values of the training slides.

    A column of numbers is a number, any other a category, unless the covariate says so itself, as
    "stage:category".

    Args:
        covariates: names of the columns, which may have a kind.
        rows: cells of each training slide, or patient, by column.

    Raises:
        CovariateError: a column has no value, a mixture of numbers and texts, or too many texts.
    """
    covariate_columns(covariates)
    return CovariateEncoding(tuple(_fit(*_split_kind(each), rows) for each in covariates))


def parse_covariates(content: object) -> CovariateEncoding:
    """Return covariates from JSON.

    Raises:
        ValueError: the content is damaged.
    """
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise ValueError("covariates: not a list of columns")
    columns = []
    for each in content:
        if each.get("kind") not in KINDS or not isinstance(each.get("name"), str):
            raise ValueError(f"covariates: {each!r} is not a covariate")
        categories = tuple(each.get("categories", ()))
        mean, std = float(each.get("mean", 0.0)), float(each.get("std", 1.0))
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ValueError(f"covariates: {each['name']}: mean {mean}, std {std}")
        columns.append(Covariate(each["name"], each["kind"], mean, std, categories))
    return CovariateEncoding(tuple(columns))


def attach_covariates(model: nn.Module, encoding: CovariateEncoding, outputs: int) -> None:
    """Add the layer of the covariates to a model; it begins at zero.

    Args:
        model: the model; it stays of its class.
        encoding: the covariates.
        outputs: number of logits.
    """
    head = nn.Linear(len(encoding.input_names), outputs, bias=False)
    nn.init.zeros_(head.weight)
    model.add_module(HEAD, head)


def has_covariates(model: object) -> bool:
    """Return whether a model has the layer of the covariates."""
    return isinstance(model, nn.Module) and HEAD in dict(model.named_children())


def zero_covariates(model: nn.Module) -> Float[Tensor, "1 v"] | None:
    """Return covariates of the mean slide, to measure a model; None for a model without them."""
    if not has_covariates(model):
        return None
    head = model.get_submodule(HEAD)
    assert isinstance(head, nn.Linear)
    return torch.zeros(1, head.in_features)


def covariate_logits(
    model: object, covariates: Float[Tensor, "b v"] | None
) -> Float[Tensor, "b c"] | None:
    """Return the linear map of covariates; None for a model without them.

    Args:
        model: a model.
        covariates: one row per slide.

    Raises:
        CovariateError: the model has covariates, and there are none.
    """
    if not has_covariates(model):
        return None
    assert isinstance(model, nn.Module)
    if covariates is None:
        raise CovariateError(
            "the model also predicts from clinical covariates, and none are given; use "
            "`parfocal evaluate` with a cohort that has their columns, or predict --patients TABLE."
        )
    head = model.get_submodule(HEAD)
    assert isinstance(head, nn.Linear)
    mapped: Tensor = head(covariates.to(head.weight.device))
    return mapped


def add_to_logits(prediction: Prediction, added: Float[Tensor, "b c"] | None) -> Prediction:
    """Add the linear map of the covariates to the logits of a prediction.

    Class probabilities after each patch are left out, since they lack the covariates.

    Args:
        prediction: prediction for a slide, or for a batch.
        added: one row per slide; None for a model without covariates.
    """
    if added is None:
        return prediction
    if not prediction.members:
        return replace(prediction, logits=prediction.logits + added[0], running=None)
    members = tuple(
        replace(member, logits=member.logits + row, running=None)
        for member, row in zip(prediction.members, added, strict=True)
    )
    return replace(prediction, logits=prediction.logits + added, members=members)


def _split_kind(covariate: str) -> tuple[str, Kind | None]:
    """Split a covariate as "stage:category" into its name and kind."""
    name, colon, kind = covariate.rpartition(":")
    if not colon:
        return covariate, None
    for each in KINDS:
        if kind == each:
            return name, each
    raise CovariateError(
        f"covariate {covariate!r}: unknown kind {kind!r}; write a column, or a column with "
        f"{' or '.join(KINDS)}, as stage:category."
    )


def _fit(name: str, kind: Kind | None, rows: Sequence[Mapping[str, str]]) -> Covariate:
    texts = [row[name] for row in rows if not is_missing(row[name])]
    numbers = [_number(text) for text in texts]
    known = [number for number in numbers if number is not None]
    if not texts:
        raise CovariateError(
            f"covariate {name}: no training slide has a value; leave the covariate out."
        )
    if kind == "number" or (kind is None and len(known) == len(texts)):
        if len(known) < len(texts):
            raise _mixed(name, texts, numbers)
        _refuse_mixed_decimals(name, texts)
        return Covariate(name, "number", fmean(known), pstdev(known) or 1.0)
    if kind is None and 2 * len(known) > len(texts):
        raise _mixed(name, texts, numbers)
    categories = tuple(sorted(set(texts)))
    if len(categories) > MAX_CATEGORIES:
        raise CovariateError(
            f"covariate {name}: {len(categories)} different texts, such as {categories[0]!r}, are "
            f"too many for categories (at most {MAX_CATEGORIES}); group them, or leave it out."
        )
    return Covariate(name, "category", categories=categories)


def _mixed(name: str, texts: Sequence[str], numbers: Sequence[float | None]) -> CovariateError:
    text = next(text for text, number in zip(texts, numbers, strict=True) if number is None)
    return CovariateError(
        f"covariate {name}: {text!r} is not a number, and most values are; correct the cell, leave "
        f"it empty if the value is missing, or write {name}:category."
    )


def _refuse_mixed_decimals(name: str, texts: Sequence[str]) -> None:
    comma, point = (next((text for text in texts if mark in text), None) for mark in ",.")
    if comma is not None and point is not None:
        raise CovariateError(
            f"covariate {name}: {comma!r} has a comma, and {point!r} a decimal point; write all "
            "numbers of a column in the same way, without thousands separators."
        )


def _number(text: str) -> float | None:
    """Return a cell as a number; None if it is none. A comma is a decimal point."""
    try:
        number = float(text.strip().replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
