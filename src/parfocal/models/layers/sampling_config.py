"""How many cells are sampled from attention, and how."""

from dataclasses import dataclass

from parfocal.models.choice import require_choice
from parfocal.models.layers.sampling import ESTIMATORS

INFERENCE_MODES = ("sample", "topk", "all")


@dataclass(frozen=True)
class SamplingConfig:
    """How cells are sampled from attention.

    Args:
        k: number of cells to sample; fewer if fewer have attention. In adaptive sampling, the
            number of cells per round.
        estimator: estimator of the aggregated features; see `aggregate`.
        inference: which cells are encoded after training: "sample" samples k cells; "topk" takes
            the k cells of highest attention and weights them by it; "all" takes all cells, which
            is the value that the others estimate.
        ci_half_width: after training, sample until the 95% confidence interval of the predicted
            class's probability has at most this half-width; None to sample k cells.
        max_patches: maximum number of patches in adaptive sampling; None for no limit.
        max_seconds: maximum time for adaptive sampling, in seconds; None for no limit.
        seed: random seed for sampling after training, the same for every slide.

    Raises:
        ValueError: an argument is invalid.
    """

    k: int = 5
    estimator: str = "unbiased"
    inference: str = "sample"
    ci_half_width: float | None = None
    max_patches: int | None = None
    max_seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        require_choice("estimator", self.estimator, ESTIMATORS)
        require_choice("inference", self.inference, INFERENCE_MODES)
        if self.k < 1:
            raise ValueError(f"k={self.k}: at least 1 patch must be sampled.")
        limits = self.ci_half_width, self.max_patches, self.max_seconds
        if any(limit is not None and limit <= 0 for limit in limits):
            raise ValueError(
                f"ci_half_width={self.ci_half_width}, max_patches={self.max_patches}, max_seconds="
                f"{self.max_seconds}: set each to a number above 0, or to null."
            )
        if self.adaptive and (self.estimator, self.inference) != ("unbiased", "sample"):
            raise ValueError(
                "ci_half_width, max_patches and max_seconds require estimator=unbiased and "
                f"inference=sample, not {self.estimator} and {self.inference}."
            )

    @property
    def adaptive(self) -> bool:
        """Whether the number of patches is chosen separately for each slide, after training."""
        return (self.ci_half_width, self.max_patches, self.max_seconds) != (None, None, None)
