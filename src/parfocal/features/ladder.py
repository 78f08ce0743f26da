"""Report the patches of a slide at the magnifications of a model, before any is encoded."""

from dataclasses import asdict, dataclass

from parfocal.grid import PatchGrid, expected_patches


@dataclass(frozen=True)
class LadderReport:
    """The patches of a slide at the magnifications of a model.

    Args:
        magnifications: magnifications as requested, lowest first.
        patches: number of existing patches at each magnification.
        sharpest_patches: number of patches at the highest magnification that pass the tissue test,
            which exhaustive processing encodes.
        unreachable: share of the tissue that a model cannot reach, in 0..1.
        below_min_tissue: share of the tissue in patches with too little tissue, in 0..1.
        min_tissue_met: whether a patch has the smallest share of tissue; if False, all patches
            with any tissue are kept.
        k: number of patches that are zoomed into at each magnification but the highest.
        expected_patches: expected number of patches that are encoded at all magnifications.
        nothing_to_skip: why zooming saves nothing on this slide; None if it saves.
    """

    magnifications: tuple[float, ...]
    patches: tuple[int, ...]
    sharpest_patches: int
    unreachable: float
    below_min_tissue: float
    min_tissue_met: bool
    k: int
    expected_patches: float
    nothing_to_skip: str | None

    def to_json(self) -> dict[str, object]:
        """Return the report as a dictionary for `json.dump`."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Return the report as text: a name and a value per row."""
        counts = ", ".join(
            f"{count:,} at {magnification:g}x"
            for count, magnification in zip(self.patches, self.magnifications, strict=True)
        )
        rows = [("patches", counts), ("reach", self.reach)]
        if len(self.patches) > 1:
            text = self.nothing_to_skip or (
                f"into {self.k} patches at each magnification: about "
                f"{self.expected_patches:,.0f} of {self.sharpest_patches:,} patches "
                f"({self._share:.1%})"
            )
            rows.append(("zooming", text))
        return rows

    @property
    def _share(self) -> float:
        return self.expected_patches / self.sharpest_patches

    @property
    def reach(self) -> str:
        """The share of the tissue that is out of reach, as text."""
        text = f"{self.unreachable:.1%} of the tissue out of reach"
        if not self.min_tissue_met:
            return f"{text}; no patch has slide.min_tissue, so all patches with any tissue are kept"
        return f"{text}, {self.below_min_tissue:.1%} in patches with too little tissue"


def ladder_report(grid: PatchGrid, magnifications: tuple[float, ...], *, k: int) -> LadderReport:
    """Report the patches of a slide.

    Args:
        grid: patches of the slide, made from its tissue.
        magnifications: magnifications as requested, lowest first.
        k: number of patches that are zoomed into at each magnification but the highest.
    """
    expected, reach = expected_patches(grid, k, magnifications), grid.reach
    assert reach is not None
    return LadderReport(
        magnifications=magnifications,
        patches=expected.patches,
        sharpest_patches=grid.sharpest_patches,
        unreachable=reach.unreachable,
        below_min_tissue=reach.below_min_tissue,
        min_tissue_met=reach.min_tissue_met,
        k=k,
        expected_patches=expected.total,
        nothing_to_skip=expected.nothing_to_skip,
    )
