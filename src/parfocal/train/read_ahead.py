"""Batches of slides, of which the next one is read while one is trained on."""

from collections.abc import Collection, Iterator, Sequence

from torch.utils.data import DataLoader

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import ReadsAhead
from parfocal.train.batches import DealtBatches


class ReadAheadLoader:
    """A loader of batches that starts to read the slides of the next batch.

    The batches are those of the loader that it wraps, in the same order.

    Args:
        loader: batches of positions in `slides`.
        slides: the slides.
        inputs: inputs that read slides ahead.
        excluded: ids of slides that are not read ahead; may grow while batches are drawn.
        whole: whether the model visits all patches of every magnification.
    """

    def __init__(
        self,
        loader: DataLoader[list[int]] | DealtBatches,
        slides: Sequence[CohortSlide],
        inputs: ReadsAhead,
        excluded: Collection[str] = (),
        *,
        whole: bool = False,
    ) -> None:
        self._loader, self._slides, self._inputs = loader, slides, inputs
        self._excluded, self._whole = excluded, whole

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[int]]:
        batches = iter(self._loader)
        batch = next(batches, None)
        while batch is not None:
            following = next(batches, None)
            slides = [self._slides[position] for position in (*batch, *(following or ()))]
            wanted = [s for s in slides if s.slide_id not in self._excluded]
            self._inputs.read_ahead(wanted, whole=self._whole)
            yield batch
            batch = following
