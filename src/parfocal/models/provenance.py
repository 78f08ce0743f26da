"""Where the weights of a trained model come from."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainingProvenance:
    """Where the weights of a model come from.

    Args:
        seed: seed of the run.
        epoch: epoch whose weights were kept, counted from 1.
        slides: slide ids in the parts `train` and `val`, without unreadable slides.
        patients: patient ids in the parts `train` and `val`.
        refit: whether the model was trained again on both parts together.
        fingerprints: hash of the file of each of these slides, by slide id, without unreadable
            files.
        feature_tool: tool that extracted the features; empty if parfocal did, or encoded the slides
            itself.
        feature_mpps: lowest, median and highest true resolution, in µm per pixel, of the features
            by that tool, by nominal magnification; without those of which no slide was available.
    """

    seed: int
    epoch: int
    slides: dict[str, list[str]] = field(default_factory=dict)
    patients: dict[str, list[str]] = field(default_factory=dict)
    refit: bool = False
    fingerprints: dict[str, str] = field(default_factory=dict)
    feature_tool: str = ""
    feature_mpps: dict[str, list[float]] = field(default_factory=dict)
