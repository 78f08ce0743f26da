"""The bag of a patient: the patches of several slides as one forest of grids.

The tables of the slides are joined, slide after slide. Since every patch has the same number of
children on all slides, the children of row n are still rows n*c to (n+1)*c-1 of the next joined
table. So a model zooms over all slides at once, as it does over one: the top K of the bag are
those of the patient.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate, pairwise

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from parfocal.bag import FeatureTable, StoredBag
from parfocal.features.errors import MixedFeaturesError
from parfocal.features.slide_input import BagInput

# Position of a slide -> what is entered while features of it are read.
Reading = Callable[[int], AbstractContextManager[object]]


def join_bags(inputs: Sequence[BagInput], *, reading: Reading | None = None) -> StoredBag:
    """Return the bag of a patient, with the patches of all slides.

    The bag of a single slide is returned unchanged.

    Args:
        inputs: the slides as bags, at least one.
        reading: returns a context manager that is entered while features of a slide are read.

    Raises:
        MixedFeaturesError: the slides have different magnifications, numbers of children, or
            widths of features.
    """
    bags = []
    for each in inputs:
        assert isinstance(each.model_input, StoredBag)
        bags.append(each.model_input)
    if len(bags) == 1:
        return bags[0]
    _refuse_different(bags)
    forest = Forest(inputs, [[table.shape[0] for table in bag.tables] for bag in bags])
    enter = reading or (lambda slide: nullcontext())
    return StoredBag(
        [_join_tables(tables, enter) for tables in zip(*(bag.tables for bag in bags), strict=True)],
        valid=[
            torch.from_numpy(np.concatenate(exist))
            for exist in zip(
                *([each.grid.valid(step) for step in each.steps] for each in inputs), strict=True
            )
        ],
        cells=forest.cells,
        slides=forest.slides,
    )


class Forest:
    """Where the rows of each slide lie in the joined tables of a patient.

    Args:
        inputs: the slides as bags.
        counts: for each slide, the number of rows of each magnification.
    """

    def __init__(self, inputs: Sequence[BagInput], counts: Sequence[Sequence[int]]) -> None:
        self._inputs = tuple(inputs)
        # First row of each slide, by magnification, and the number of all rows.
        self._starts = [starts_of(step) for step in zip(*counts, strict=True)]

    def slides(self, step: int, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Return the position of each row's slide."""
        return slides_of_rows(self._starts[step], rows)

    def local_rows(self, step: int, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Return each row as it is numbered on its own slide."""
        local: Int64[np.ndarray, " n"] = rows - self._starts[step][self.slides(step, rows)]
        return local

    def cells(self, step: int, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n 2"]:
        """Return (column, row) of patches, in the grid of their own slide."""
        slides, local = self.slides(step, rows), self.local_rows(step, rows)
        cells = np.zeros((len(rows), 2), dtype=np.int64)
        for slide in np.unique(slides):
            each, own = self._inputs[slide], slides == slide
            cells[own] = each.grid.cells(each.steps[step], local[own])
        return cells


class JoinedTable:
    """The feature tables of several slides as one, slide after slide.

    Args:
        tables: one table per slide.
        reading: returns a context manager that is entered while features of a slide are read.
    """

    def __init__(self, tables: Sequence[FeatureTable], reading: Reading) -> None:
        self._tables, self._reading = tuple(tables), reading
        self._starts = starts_of([table.shape[0] for table in tables])
        self.shape = torch.Size((int(self._starts[-1]), tables[0].shape[1]))

    def __getitem__(self, rows: Int64[Tensor, " n"], /) -> Float[Tensor, "n d"]:
        """Return the features of some rows; those of one slide are read together."""
        wanted = rows.cpu().numpy()
        slides = slides_of_rows(self._starts, wanted)
        order = np.argsort(slides, kind="stable")
        parts = []
        for slide in np.unique(slides):
            own = wanted[order[slides[order] == slide]] - self._starts[slide]
            with self._reading(int(slide)):
                parts.append(self._tables[slide][torch.from_numpy(own)])
        if not parts:
            return self._tables[0][rows]
        joined = torch.cat([part.to(parts[0].device) for part in parts])
        if (slides[:-1] <= slides[1:]).all():  # almost always
            return joined
        return joined[torch.from_numpy(np.argsort(order)).to(joined.device)]


def starts_of(counts: Sequence[int]) -> Int64[np.ndarray, " s"]:
    """Return the first row of each slide in a joined table, and the number of all rows.

    >>> starts_of([3, 2]).tolist()
    [0, 3, 5]
    """
    return np.array([0, *accumulate(counts)], dtype=np.int64)


def slides_of_rows(
    starts: Int64[np.ndarray, " s"], rows: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Return the position of the slide that each row of a joined table belongs to."""
    return np.searchsorted(starts[1:], rows, side="right").astype(np.int64)


def _join_tables(tables: Sequence[FeatureTable], reading: Reading) -> FeatureTable:
    if all(isinstance(table, Tensor) for table in tables):
        return torch.cat([table for table in tables if isinstance(table, Tensor)])
    return JoinedTable(tables, reading)


def _refuse_different(bags: Sequence[StoredBag]) -> None:
    """Refuse slides whose patches do not form one forest."""
    counted: dict[str, list[list[int]]] = {
        "magnifications": [[len(bag.tables)] for bag in bags],
        "features per patch": [[table.shape[1] for table in bag.tables] for bag in bags],
        "children per patch": [_children(bag) for bag in bags],
    }
    for name, values in counted.items():
        for position, value in enumerate(values):
            if value != values[0]:
                raise MixedFeaturesError(
                    f"slides 1 and {position + 1} of the patient have different {name}: "
                    f"{_text(values[0])} and {_text(value)}; extract their features again, with "
                    "one set of settings."
                )


def _text(counts: Sequence[int]) -> str:
    return ", ".join(str(count) for count in counts) or "none"


def _children(bag: StoredBag) -> list[int]:
    counts = [table.shape[0] for table in bag.tables]
    return [children // parents for parents, children in pairwise(counts)]
