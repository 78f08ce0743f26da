"""How probabilities become decisions: a temperature and thresholds, chosen on validation slides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from parfocal.printable import counted
from parfocal.validation import validate

RULES = "youden, sensitivity=0.95, specificity=0.95, or a number from 0 to 1 such as 0.4"


@dataclass(frozen=True)
class ThresholdRule:
    """How a threshold is chosen.

    Args:
        kind: "youden" for the highest sensitivity + specificity; "sensitivity" for the highest
            threshold that reaches a sensitivity; "specificity" for the lowest one that reaches a
            specificity; "value" for a given threshold.
        target: the sensitivity, the specificity or the threshold; None for "youden".
    """

    kind: Literal["youden", "sensitivity", "specificity", "value"]
    target: float | None = None

    @classmethod
    def parse(cls, text: str) -> "ThresholdRule":
        """Parse a rule, such as "youden", "sensitivity=0.95" or "0.4".

        Raises:
            ValueError: the text is not a rule.
        """
        kind, equals, number = text.strip().lower().partition("=")
        if kind == "youden" and not equals:
            return cls("youden")
        try:
            target = float(number if equals else kind)
        except ValueError:
            target = -1.0
        if not 0 <= target <= 1 or (equals and kind not in ("sensitivity", "specificity")):
            raise ValueError(f"threshold {text!r} is not one of: {RULES}.")
        if not equals:
            return cls("value", target)
        return cls("sensitivity" if kind == "sensitivity" else "specificity", target)

    def __str__(self) -> str:
        if self.kind == "value":
            return f"{self.target:g}"
        return self.kind if self.target is None else f"{self.kind}={self.target:g}"


@dataclass(frozen=True)
class Threshold:
    """A threshold on the probability of one label.

    Args:
        value: a slide is positive if its probability is at or above it.
        sensitivity: share of the positive slides that were found where it was chosen; None if
            there were none.
        specificity: share of the negative slides that were recognized there; None if there were
            none.
        positives: number of positive slides that it was chosen on; 0 for a given threshold.
        negatives: number of negative slides that it was chosen on.
    """

    value: float
    sensitivity: float | None = None
    specificity: float | None = None
    positives: int = 0
    negatives: int = 0


@dataclass(frozen=True)
class OperatingPoint:
    """How the probabilities of a model become decisions.

    Args:
        rule: how the thresholds were chosen, such as "youden" or "sensitivity=0.95"; None without
            thresholds.
        thresholds: threshold of each label that has one. Of two classes only the second has one;
            of more classes each has one, against the others.
        temperature: number that the logits are divided by; None if they are used as they are.
        slides: number of slides that these were chosen on; 0 for a given threshold.
        patients: number of their patients.
        source: where these slides come from, in words.
        note: what to keep in mind about the choice; empty if nothing.
    """

    rule: str | None = None
    thresholds: dict[str, Threshold] = field(default_factory=dict)
    temperature: float | None = None
    slides: int = 0
    patients: int = 0
    source: str = ""
    note: str = ""

    @classmethod
    def parse(cls, values: object) -> "OperatingPoint":
        """Return an operating point that `dataclasses.asdict` wrote.

        Raises:
            ValueError: a value is missing, unknown, or of the wrong type.
        """
        given = dict(values) if isinstance(values, Mapping) else values
        if isinstance(given, dict) and isinstance(given.get("thresholds"), Mapping):
            thresholds = given.pop("thresholds")
            parsed = {str(label): validate(Threshold, each) for label, each in thresholds.items()}
            return replace(validate(cls, given), thresholds=parsed)
        return validate(cls, given)

    def decided_label(self, probabilities: Mapping[str, float]) -> str | None:
        """Return the label of a slide of one of two classes; None if thresholds do not decide it.

        Args:
            probabilities: probability of each class, by label.
        """
        if len(probabilities) != 2 or len(self.thresholds) != 1:
            return None
        ((positive, threshold),) = self.thresholds.items()
        if positive not in probabilities:
            return None
        (negative,) = probabilities.keys() - {positive}
        return positive if probabilities[positive] >= threshold.value else negative

    def decision(self, labels: Sequence[str]) -> float | None:
        """Return the lowest probability of the second of two classes at which it is predicted.

        Args:
            labels: the classes, in the order of the logits.

        Returns:
            None if the most probable class is predicted.
        """
        threshold = self.thresholds.get(labels[1]) if len(labels) == 2 else None
        return None if threshold is None else threshold.value

    @property
    def text(self) -> str:
        """The thresholds and the temperature in one line.

        >>> OperatingPoint("0.4", {"tumor": Threshold(0.4)}).text
        'threshold tumor >= 0.400 (given)'
        """
        parts = []
        if self.thresholds:
            values = ", ".join(
                f"{label} >= {each.value:.3f}{_rates(each)}"
                for label, each in self.thresholds.items()
            )
            how = f"{self.rule} on {self._where}" if self.slides else "given"
            parts.append(f"threshold {values} ({how})")
        if self.temperature is not None:
            parts.append(f"temperature {self.temperature:.3f} (on {self._where})")
        return ", ".join(parts)

    @property
    def summary(self) -> str:
        """The text with the note."""
        return f"{self.text}; {self.note}" if self.note else self.text

    @property
    def _where(self) -> str:
        slides = counted(self.slides, "validation slide")
        return f"{slides} of {counted(self.patients, 'patient')}{self.source}"


def _rates(threshold: Threshold) -> str:
    """Return the sensitivity and the specificity of a threshold as text, where it has both."""
    if threshold.sensitivity is None or threshold.specificity is None:
        return ""
    return f" [sensitivity {threshold.sensitivity:.3f}, specificity {threshold.specificity:.3f}]"
