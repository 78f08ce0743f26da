"""What the visits of an evaluation cost, and how they agree with outlined lesions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np

from parfocal.dataset.localization import Localization
from parfocal.encoders.catalog import known_macs
from parfocal.evaluate.result import EvaluationSettings, SlideResult, StepResult
from parfocal.metrics import mean_with_interval, proportion_with_interval
from parfocal.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class StepSummary:
    """The looks of a model over the slides of an evaluation.

    Args:
        trained: the model.
        settings: how the evaluation was made.
        results: the predictions.
    """

    trained: Checkpoint
    settings: EvaluationSettings
    results: Sequence[SlideResult]

    def cost(self) -> dict[str, object]:
        """Summarize the cost; with stored features it is reading them and running the model."""
        patches = {
            key: [step.patches if step else 0 for step in steps]
            for key, steps in self._steps().items()
        }
        shares = [r.share_patches for r in self.results if r.share_patches is not None]
        lost = [r.unreachable for r in self.results if r.unreachable is not None]
        return {
            "patches": [
                self._step_entry(key) | _mean_and_median(counts) for key, counts in patches.items()
            ],
            "share_patches": _mean_and_median(shares) if shares else None,
            "unreachable": _mean_and_median(lost) | {"max": max(lost)} if lost else None,
            "macs": self._macs(),
            "encoding_macs": self._encoding_macs(),
            "seconds": _mean_and_median([result.cost.seconds["total"] for result in self.results]),
        }

    def _macs(self) -> dict[str, float] | None:
        """Return mean and median MACs; None where those of a slide are unknown."""
        known = [result.cost.macs for result in self.results if result.cost.macs is not None]
        return _mean_and_median(known) if len(known) == len(self.results) else None

    def _encoding_macs(self) -> list[float] | None:
        """Return the mean MACs of encoding by step, lowest first; None where unknown.

        With stored features they are those of encoding the visited patches.
        """
        by_slide = [result.cost.encoding_macs for result in self.results]
        if self.settings.features == "stored":
            return self._known_encoding_macs()
        if not all(by_slide):
            return None
        steps = range(max(map(len, by_slide)))  # a slide that stops early has fewer
        return [fmean(each[n] if n < len(each) else 0 for each in by_slide) for n in steps]

    def _known_encoding_macs(self) -> list[float] | None:
        """Return the mean MACs of encoding the visited patches, if the catalog has the encoders."""
        trained, steps = self.trained, self._steps()
        weights = trained.encoder_weights or (None,) * len(trained.encoders)
        known = [
            known_macs(encoder.name) if file is None else None  # a file may be of another network
            for encoder, file in zip(trained.encoders, weights, strict=True)
        ]
        prices = [macs for macs in known[: len(steps)] if macs is not None]
        if len(prices) < len(steps):
            return None
        return [
            macs * fmean(step.patches if step else 0 for step in each)
            for macs, each in zip(prices, steps.values(), strict=True)
        ] or None

    def localization(self) -> list[dict[str, object]] | None:
        """Summarize the localization by magnification; None where no slide has outlines."""
        rows = []
        for key, steps in self._steps().items():
            scores = self.localization_scores(
                [None if step is None else step.localization for step in steps]
            )
            if scores is not None:
                rows.append(self._step_entry(key) | scores)
        return rows or None

    def localization_scores(
        self, localizations: Sequence[Localization | None]
    ) -> dict[str, object] | None:
        """Summarize one localization per slide; None where no slide has one."""
        located = [
            (localization, result.slide.patient_id)
            for localization, result in zip(localizations, self.results, strict=True)
            if localization is not None
        ]
        if not located:
            return None
        known, patients = zip(*located, strict=True)
        return _localization_dict(known, patients, self.settings)

    def probability(self) -> list[dict[str, object]] | None:
        """Summarize how sampling is divided among magnifications; None without sampling."""
        rows = [
            self._step_entry(key) | _mean_and_median(probabilities)
            for key, probabilities in self.sampling_probabilities().items()
        ]
        return rows or None

    def probability_text(self) -> str:
        """Return how sampling is divided among magnifications, in words; empty without."""
        shares = [
            f"{np.mean(probabilities):.0%} at {self.step_name(key)}"
            for key, probabilities in self.sampling_probabilities().items()
        ]
        return f"; samples {', '.join(shares)}" if shares else ""

    def sampling_probabilities(self) -> dict[float, list[float]]:
        """Return the sampling probability of each magnification, slide by slide."""
        return {
            key: [step.probability or 0.0 if step else 0.0 for step in steps]
            for key, steps in self._steps().items()
            if any(step is not None and step.probability is not None for step in steps)
        }

    def _steps(self) -> dict[float, list[StepResult | None]]:
        """Return the steps by key, slide by slide; None where a slide lacks the step."""
        by_slide = [{step.key: step for step in result.steps} for result in self.results]
        keys = sorted({key for steps in by_slide for key in steps})
        return {key: [steps.get(key) for steps in by_slide] for key in keys}

    def _step_entry(self, key: float) -> dict[str, object]:
        return {"magnification" if self.trained.traits.fixed_magnifications else "look": key}

    def step_name(self, key: float) -> str:
        """Return a step as text: its magnification, or the number of the look."""
        return f"{key:g}x" if self.trained.traits.fixed_magnifications else f"look {key:g}"


def _localization_dict(
    localizations: Sequence[Localization], patients: tuple[str, ...], settings: EvaluationSettings
) -> dict[str, object]:
    """Average the localization over slides, each value with the one expected by chance."""

    def mean(values: list[float]) -> dict[str, object]:
        bootstrap = {"resamples": settings.resamples, "seed": settings.seed}
        return asdict(mean_with_interval(np.array(values, dtype=float), patients, **bootstrap))

    result: dict[str, object] = {
        "slides": len(localizations),
        "slides_with_lesion_in_reach": sum(each.touching > 0 for each in localizations),
        "attention": mean([each.mass for each in localizations]),
        "attention_by_chance": float(np.mean([each.chance for each in localizations])),
    }
    if all(each.selected for each in localizations):
        result |= {
            "hit": asdict(
                proportion_with_interval(
                    np.array([each.hit for each in localizations], dtype=float), patients
                )
            ),
            "hit_by_chance": float(np.mean([each.chance_of_hit for each in localizations])),
            "selected": mean([each.share for each in localizations]),
            "selected_by_chance": result["attention_by_chance"],
        }
    return result


def _mean_and_median(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "median": float(np.median(values))}
