"""Patches of several magnifications nest by their places."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float

from foreign_layouts import square_corners, write_trident
from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import StoredInputs
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.foreign.nesting import NestingError, PlacedPatches, nest
from parfocal.features.header import SlideSettings
from parfocal.features.open_folder import open_features

SETTINGS = SlideSettings((2.5, 10.0), 256)


def parents_and_children(drift: float = 0) -> tuple[PlacedPatches, PlacedPatches]:
    """Return four parents of side 1024, and all their children but two, shuffled; one orphan."""
    parents = square_corners(1024, 2, 2)
    children = np.random.default_rng(0).permutation(square_corners(256, 8, 8))
    children = children[~(children == [0, 256]).all(axis=1) & ~(children == [768, 0]).all(axis=1)]
    children = np.concatenate([children, [[5120, 256]]]) + drift
    return (
        PlacedPatches(parents.astype(float), 1024, "2.5x"),
        PlacedPatches(children.astype(float), 256, "10x"),
    )


def slow_nest(
    parents: Float[np.ndarray, "p 2"], children: Float[np.ndarray, "n 2"]
) -> dict[int, set[int]]:
    """Return the children whose centers lie in each parent, one by one."""
    found: dict[int, set[int]] = {row: set() for row in range(len(parents))}
    for child, corner in enumerate(children):
        for row, parent in enumerate(parents):
            center = corner + 128
            if (parent <= center).all() and (center < parent + 1024).all():
                found[row].add(child)
    return found


@pytest.mark.parametrize("drift", [0, 25, -25])
def test_children_belong_to_the_parent_that_their_center_lies_in(drift: float):
    parents, children = parents_and_children(drift)
    first, second = nest([parents, children], [4])
    assert first.stored.tolist() == [0, 1, 2, 3]
    expected = slow_nest(parents.corners, children.corners)
    for row in range(4):
        stored = second.stored[row * 16 : (row + 1) * 16]
        assert set(stored[stored >= 0].tolist()) == expected[row]
        assert (stored < 0).sum() == {0: 2}.get(row, 0)
    assert second.orphans.tolist() == [len(children.corners) - 1]
    # Column by column and depth first: see child_order. (0, 256) lacks its patch, so it is placed.
    assert second.corners[:3].tolist() == [[drift, drift], [0, 256], [256 + drift, drift]]
    assert second.stored[1] == -1


def test_three_magnifications_nest():
    levels = [
        PlacedPatches(square_corners(side, 4096 // side, 4096 // side).astype(float), side, name)
        for side, name in ((2048, "1.25x"), (1024, "2.5x"), (256, "10x"))
    ]
    steps = nest(levels, [2, 4])
    assert [len(step.stored) for step in steps] == [4, 16, 256]
    for row in range(16):
        inside = steps[2].corners[row * 16 : (row + 1) * 16] // 1024
        assert (inside == steps[1].corners[row] // 1024).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drift": 26}, "a 10x patch lies 10.2% of its side away from its place"),
        (
            {"drift": 60},
            "a 10x patch lies 23.4% of its side away from its place inside a 2.5x patch",
        ),
        ({"side": 300}, "10x patches have a side of 300 level-0 pixels, and 4 x 4 of them fill"),
        ({"away": True}, "no 10x patch lies in a 2.5x patch"),
        ({"twice": True}, "several 10x patches lie at one place"),
        ({"parents": True}, "2.5x patches overlap each other"),
    ],
)
def test_patches_that_do_not_nest_are_refused(change: dict[str, float], message: str):
    parents, children = parents_and_children(change.get("drift", 0))
    corners, side = children.corners, change.get("side", 256)
    if "away" in change:
        corners = corners + 20_000
    if "twice" in change:
        corners = np.concatenate([corners, corners[:1]])
    if "parents" in change:
        parents = PlacedPatches(np.concatenate([parents.corners, [[512.0, 0]]]), 1024, "2.5x")
    with pytest.raises(NestingError, match=message):
        nest([parents, PlacedPatches(corners, side, "10x")], [4])


def write_two(job: Path, *, start: int = 0, overlap: int = 0) -> dict[float, Path]:
    """Write 4 patches at 2.5x and 16 at 10x, of which one has no parent."""
    parents, children = square_corners(4096, 2, 1), square_corners(1024, 4, 4)
    children = np.concatenate([children[1:] + start, [[4096 + 1024, 0], [12288, 0]]])
    size = (16384, 8192)
    low = write_trident(
        job, "s1", parents, np.arange(6.0).reshape(2, 3), magnification=2.5, size=size
    )
    high = write_trident(
        job,
        "s1",
        children,
        np.arange(51.0).reshape(17, 3),
        size=size,
        encoder="virchow2",
        overlap=overlap,
    )
    return {2.5: low, 10.0: high}


def test_two_folders_of_trident_make_a_zooming_bag(tmp_path: Path):
    slide = CohortSlide("s1", tmp_path / "none.svs", "tumor", "p", row=2)
    folder = open_features(write_two(tmp_path / "job"))
    assert folder.facts.magnifications == (2.5, 10)
    assert [each.name for each in folder.facts.encoders] == ["uni2-h", "virchow2"]
    inputs = StoredInputs(folder, SETTINGS)
    with inputs.open(slide) as opened:
        bag = opened.model_input
        assert bag.features().tolist() == [[0, 1, 2], [3, 4, 5]]
        first = bag.zoom(torch.tensor([[1.0, 0.0]]))
        assert first.valid.tolist() == [False] + [True] * 15
        assert first.features()[0].tolist() == [0, 0, 0]
        assert first.features()[1].tolist() == [9, 10, 11]  # at (0, 1024): the fifth of a row of 4
        second = bag.zoom(torch.tensor([[0.0, 1.0]]))
        assert second.valid.sum() == 1
        assert opened.grid.boxes(1, np.array([16 + 2]))[0].x == 5120
        assert opened.sharpest.patches == 17
        assert opened.sharpest.descendants == 16
    reach = inputs.check(slide)
    assert reach.unreachable == pytest.approx(1 / 17)  # the patch at (12288, 0)
    assert reach.below_min_tissue == 0


def test_a_job_folder_with_one_encoder_is_used_whole(tmp_path: Path):
    for magnification, side in ((2.5, 4096), (10, 1024)):
        corners = square_corners(side, 8192 // side, 8192 // side)
        features = np.ones((len(corners), 3))
        write_trident(
            tmp_path, "s1", corners, features, magnification=magnification, size=(8192, 8192)
        )
    assert open_features(tmp_path).facts.magnifications == (2.5, 10)


def test_grids_that_do_not_nest_say_how_to_extract_again(tmp_path: Path):
    slide = CohortSlide("s1", tmp_path / "none.svs", "tumor", "p", row=2)
    inputs = StoredInputs(write_two(tmp_path / "job", start=300), SETTINGS)
    with pytest.raises(StoreError, match=r"s1\.h5: a 10x patch lies 29.3% .* --overlap 0"):
        inputs.check(slide)
    inputs = StoredInputs(write_two(tmp_path / "other", overlap=64), SETTINGS)
    with pytest.raises(StoreError, match=r"10x patches overlap by 64 pixels.* --overlap 0"):
        inputs.check(slide)


def test_a_folder_of_another_magnification_than_given_is_refused(tmp_path: Path):
    folders = write_two(tmp_path / "job")
    with pytest.raises(MixedFeaturesError, match=r"features are of 10x, and 5x was given"):
        open_features({2.5: folders[2.5], 5.0: folders[10.0]})
