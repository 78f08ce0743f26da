"""Read the features that a model needs first while another slide is computed."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from jaxtyping import Float
from torch import Tensor

from parfocal.features.rows import StoredFeatures

OpenTable = Callable[[], StoredFeatures]


class ReadAhead:
    """Tables of features that are read in a thread before they are needed.

    A table that cannot be read is not reported here: whoever opens the slide reads it again, and
    gets the error.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None  # no thread until it is needed
        self._started: dict[str, Future[Float[Tensor, "n d"]]] = {}

    def start(self, tables: Mapping[str, OpenTable]) -> None:
        """Start to read tables, and forget the others, to limit the memory.

        Args:
            tables: function that opens each table, by the id of its slide.
        """
        for slide_id in self._started.keys() - tables.keys():
            self._started.pop(slide_id).cancel()
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        for slide_id, open_table in tables.items():
            if slide_id not in self._started:
                self._started[slide_id] = self._pool.submit(_read, open_table)

    def take(self, slide_id: str) -> Float[Tensor, "n d"] | None:
        """Return the features of a slide, and forget them; None if they were not read."""
        started = self._started.pop(slide_id, None)
        if started is None or started.cancel() or started.exception() is not None:
            return None
        return started.result()


def _read(open_table: OpenTable) -> Float[Tensor, "n d"]:
    """Read a whole table in single precision at least, as `StoredBag.features` returns it."""
    features = open_table().all()
    return features.to(torch.promote_types(features.dtype, torch.float32))
