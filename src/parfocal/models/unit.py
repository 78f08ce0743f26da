"""What a model makes one prediction for: a slide or a patient, with covariates or without."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import nn

from parfocal.models.covariates import CovariateEncoding, attach_covariates, parse_covariates
from parfocal.models.late_fusion import FUSIONS, Fusion, attach_fusion

Per = Literal["slide", "patient"]


@dataclass(frozen=True)
class Unit:
    """What a model makes one prediction for.

    Args:
        per: "slide", or "patient" for all slides of a patient together.
        fusion: how the predictions for the slides of a patient are fused; None for one bag of all
            slides.
        covariates: clinical covariates; None for none.
    """

    per: Per = "slide"
    fusion: Fusion | None = None
    covariates: CovariateEncoding | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a table of slides or patients must have."""
        return () if self.covariates is None else self.covariates.names

    def attach(self, model: nn.Module, outputs: int) -> None:
        """Add to a model the layers that it needs for patients and covariates.

        Args:
            model: the model.
            outputs: number of logits.

        Raises:
            ValueError: the model cannot have them.
        """
        attach_fusion(model, self.fusion)
        if self.covariates is not None:
            attach_covariates(model, self.covariates, outputs)

    def asked_for(self, per: Per | None, fusion: Fusion | None) -> "Unit":
        """Return the unit of an evaluation or prediction that names another than the training.

        A model of slides predicts patients by fusing its predictions for the slides.

        Args:
            per: the unit; None for that of the training.
            fusion: how predictions are fused; None for the fusion of the training.

        Raises:
            ValueError: the model cannot be asked so.
        """
        if per is None and fusion is None:
            return self
        wanted = per or ("patient" if fusion else self.per)
        if wanted == "slide" and fusion is not None:
            raise ValueError(f"fusion {fusion} joins the slides of a patient; use it per patient.")
        if wanted == self.per and fusion in (None, self.fusion):
            return self
        if wanted == "slide":
            raise ValueError(
                "the model was trained on patients, so it predicts per patient; leave per slide "
                "out, or train a model per slide."
            )
        if self.per == "patient" and self.fusion in (None, "attention"):
            trained = "one bag of all slides" if self.fusion is None else "fusion attention"
            raise ValueError(
                f"the model was trained on patients with {trained}, so it cannot predict with "
                f"fusion {fusion}; leave the fusion out, or train again."
            )
        if fusion in (None, "attention"):
            raise ValueError(
                "the model was trained on slides; for patients, add --fusion mean (or max), or "
                f"train a model per patient{' with attention' if fusion else ''}."
            )
        return replace(self, per="patient", fusion=fusion)

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from a slide without covariates, as JSON."""
        content: dict[str, Any] = {}
        if self.per != "slide":
            content |= {"per": self.per, "fusion": self.fusion}
        if self.covariates is not None:
            content["covariates"] = self.covariates.to_dict()
        return content


SLIDE = Unit()


def refuse_units(unit: Unit, task: str) -> None:
    """Refuse a model of patients or with covariates for what measures a model of slides.

    Args:
        unit: what the model makes one prediction for.
        task: what is measured, as the beginning of a sentence.

    Raises:
        ValueError: the model is one.
    """
    if unit != SLIDE:
        what = "patients" if unit.per == "patient" else f"{', '.join(unit.columns)}, too"
        raise ValueError(
            f"{task} is for models that predict from one slide, and this one predicts from {what}; "
            "train the same model per slide, without covariates, for it."
        )


def parse_unit(content: object) -> Unit:
    """Return a unit from JSON.

    Args:
        content: what `Unit.to_dict` returned; None for a slide without covariates.

    Raises:
        ValueError: the content is damaged.
    """
    if content is None:
        return SLIDE
    if not isinstance(content, dict):
        raise ValueError(f"unit: {content!r} is not a mapping")
    per, fusion = content.get("per", "slide"), content.get("fusion")
    if per not in get_args(Per) or fusion not in (None, *FUSIONS):
        raise ValueError(f"unit: per {per!r} with fusion {fusion!r} is unknown")
    covariates = content.get("covariates")
    return Unit(per, fusion, None if covariates is None else parse_covariates(covariates))


def unit_entry(unit: Unit) -> dict[str, Any]:
    """Return the key `unit` of a description; none for a slide without covariates."""
    content = unit.to_dict()
    return {"unit": content} if content else {}


def fusion_of(unit: Unit, classes: Sequence[str]) -> str | None:
    """Return how predictions are fused, with the suffix for a task without classes.

    Args:
        unit: what the model makes one prediction for.
        classes: class labels of the task; empty for a task without classes.
    """
    if unit.fusion is None:
        return None
    return unit.fusion if classes else f"{unit.fusion}-logits"
