"""Mean RGB: classify a slide by its colors alone, as a baseline for all other models.

Source: the first baseline of Dimitriou & Arandjelović, "Magnifying Networks for Images with
    Billions of Pixels", arXiv 2112.06121, table 1. The paper gives only its name.
Departs: all details are ours; docs/methods.md lists what we chose.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.bag import PixelSource
from parfocal.models.layers.crops import Crops
from parfocal.models.layers.squares import WHOLE, places_of
from parfocal.prediction import Look, Prediction


class MeanRGB(nn.Module):
    """Classify slides by logistic regression on the colors of a thumbnail, without gray pixels.

    Args:
        num_classes: number of classes.
        thumbnail_px: side of the thumbnail in pixels; the slide is padded to a square.
        bins: number of histogram bins per color channel; the share of pixels in each bin is used
            in addition to the mean. 0 for the mean alone.
        gray_spread: range (maximum minus minimum) of red, green and blue below which a pixel is
            gray and ignored; 0 to use all pixels.

    Raises:
        ValueError: `bins` is negative.
    """

    def __init__(
        self, num_classes: int, *, thumbnail_px: int = 448, bins: int = 0, gray_spread: int = 15
    ) -> None:
        super().__init__()
        if bins < 0:
            raise ValueError(
                f"bins={bins}: set the number of histogram bins to 1 or more, or to 0 for none."
            )
        self.thumbnail_px, self.bins, self.gray_spread = thumbnail_px, bins, gray_spread
        self.encoder = nn.Identity()  # no network: the colors are the features
        self.classifier = nn.Linear(3 * (1 + bins), num_classes)

    def forward(self, sources: Sequence[PixelSource]) -> Prediction:
        """Classify slides."""
        whole = self.classifier.weight.new_tensor(WHOLE).repeat(len(sources), 1, 1)
        crops = Crops.request(sources, whole, side_px=self.thumbnail_px, step=0)
        colors = [
            self.color_features(crops.slide_images(at, self.gray_spread)[0])
            for at in range(len(sources))
        ]
        logits = self.classifier(torch.stack(colors))
        members = []
        for row, source, square in zip(logits, sources, whole, strict=True):
            places = places_of(source, square, side_px=self.thumbnail_px)
            look = Look(torch.zeros(1, dtype=torch.int64), torch.ones(1), places=places)
            members.append(Prediction(row, (look,), stop_reason="the thumbnail was read"))
        return Prediction(logits, members=tuple(members))

    def color_features(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, " f"]:
        """Return the mean of each channel, scaled to -1..1, and its histogram.

        Args:
            image: pixels in 0..1; black pixels are ignored.
        """
        colored = image[:, image.amax(dim=0) > 0]  # 3 n
        if colored.shape[1] == 0:
            return image.new_zeros(self.classifier.in_features)
        histograms = [
            torch.histc(channel, self.bins, min=0, max=1) / len(channel)
            for channel in colored
            if self.bins
        ]
        return torch.cat([2 * colored.mean(dim=1) - 1, *histograms])
