"""The numbers of features per patch of several magnifications."""

from collections.abc import Sequence


def widths_per_magnification(in_dim: int | Sequence[int], num_magnifications: int) -> list[int]:
    """Return the number of features per patch of each magnification, lowest first.

    >>> widths_per_magnification(1280, 2), widths_per_magnification([1280, 2560], 2)
    ([1280, 1280], [1280, 2560])

    Args:
        in_dim: one number for all magnifications, or one for each.
        num_magnifications: number of magnifications.

    Raises:
        ValueError: there are as many numbers as another number of magnifications has.
    """
    if isinstance(in_dim, int):
        return [in_dim] * num_magnifications
    if len(in_dim) != num_magnifications:
        raise ValueError(
            f"in_dim={list(in_dim)} has {len(in_dim)} numbers, but the model has "
            f"{num_magnifications} magnifications; give one number for each, or one for all."
        )
    return list(in_dim)
