"""Mean RGB: a slide by its colors alone, which any model has to beat.

Source: the first baseline of Dimitriou & Arandjelović, "Magnifying Networks for Images with
    Billions of Pixels", arXiv 2112.06121, table 1, which says no more of it than its name.
Departs: ours throughout; docs/methods.md tells what was chosen.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.bag import Look, PixelSource, Prediction
from parfocal.models.layers.crops import Crops, places_of
from parfocal.models.layers.magnify import WHOLE


class MeanRGB(nn.Module):
    """Logistic regression on the colors of a slide's overview, gray left out.

    Args:
        num_classes: slide labels.
        side: of the overview in pixels, the slide padded to a square.
        bins: of a histogram of each channel, whose shares are added to the means; 0 for none.
        gray_spread: pixels whose colors lie closer together do not count; 0 counts all.

    Raises:
        ValueError: `bins` is negative.
    """

    def __init__(
        self, num_classes: int, *, side: int = 448, bins: int = 0, gray_spread: int = 15
    ) -> None:
        super().__init__()
        if bins < 0:
            raise ValueError(f"bins={bins}: a histogram has 1 bin or more; 0 is none.")
        self.side, self.bins, self.gray_spread = side, bins, gray_spread
        self.encode = nn.Identity()  # colors are counted as they are
        self.classify = nn.Linear(3 * (1 + bins), num_classes)

    def forward(self, sources: Sequence[PixelSource]) -> Prediction:
        """Classify slides by their colors."""
        whole = self.classify.weight.new_tensor(WHOLE).repeat(len(sources), 1, 1)
        crops = Crops.request(sources, whole, side=self.side, step=0)
        images = crops.images(self.gray_spread)[:, 0]  # b 3 h h, black where nothing counts
        logits = self.classify(torch.stack([self.colors(image) for image in images]))
        members = []
        for row, source, square in zip(logits, sources, whole, strict=True):
            places = places_of(source, square, side=self.side)
            look = Look(torch.zeros(1, dtype=torch.int64), torch.ones(1), places=places)
            members.append(Prediction(row, (look,), stop_reason="the overview was looked at"))
        return Prediction(logits, members=tuple(members))

    def colors(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, " f"]:
        """Give the mean of each channel in -1..1 and its histogram, over what is not black."""
        counted = image[:, image.amax(dim=0) > 0]  # 3 n
        if counted.shape[1] == 0:
            return image.new_zeros(self.classify.in_features)
        shares = [
            torch.histc(channel, self.bins, min=0, max=1) / len(channel)
            for channel in counted
            if self.bins
        ]
        return torch.cat([2 * counted.mean(dim=1) - 1, *shares])
