"""Search for leaves: choose squares layer by layer, and sample them from the slide."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.bag import PixelSource
from parfocal.models.choice import require_choice
from parfocal.models.layers.crops import Crops
from parfocal.models.layers.passes import kept_bytes
from parfocal.models.layers.squares import WHOLE, from_parent
from parfocal.models.magnet.hindsight import Explorer
from parfocal.models.magnet.magnifying_layer import MagnifyingLayer
from parfocal.models.magnet.multisampling import LinearizedSampler, bilinear
from parfocal.slide.errors import NoTissueError

CHOICES = {"sampler": ("linearized", "bilinear"), "nested_gradient": ("detached", "chain")}
TENSORS_PER_PICTURE = 5  # as large as a picture: the picture, its slopes in x and y, gradients
WORKING_TENSORS = 5  # as large as the auxiliary points of a picture: points, values, differences


@dataclass(frozen=True)
class SearchConfig:
    """How squares are chosen, read and sampled; `MagNet` describes the arguments.

    Raises:
        ValueError: an argument is invalid.
    """

    patches: tuple[int, ...]
    frozen_patch: bool
    scale_estimator: str
    logit_scale: float
    sampler: str
    fixed_bias: bool
    nested_gradient: str
    picture_px: int
    leaf_px: int
    low_resolution_leaves: bool
    gray_spread: int

    def __post_init__(self) -> None:
        """Check the arguments."""
        if len(self.patches) < 2:
            raise ValueError(
                f"patches={list(self.patches)}: set one number of squares for each layer, and at "
                "least 2 layers."
            )
        for name, allowed in CHOICES.items():
            require_choice(name, getattr(self, name), allowed)

    @property
    def sides_px(self) -> tuple[int, ...]:
        """Sides of the pictures of each layer, then of the leaves, in pixels."""
        return (self.picture_px, *(self.picture_px for _ in self.patches[1:]), self.leaf_px)

    @property
    def crop_sides_px(self) -> tuple[int, ...]:
        """Sides of the crops from which the squares of each layer are sampled, in pixels."""
        return tuple(
            2 * (self.picture_px if self.low_resolution_leaves else side)
            for side in self.sides_px[1:]
        )


@dataclass(frozen=True)
class SearchResult:
    """The squares chosen on the way to the leaves, and the pictures sampled from them.

    Args:
        squares: the whole slide, then the squares of each layer, in coordinates of the slide.
        pictures: the input of each layer.
        crops: the first parents of leaves, which are being read.
        leaves: the leaves, grouped by parent, in coordinates of the slide.
        chosen: the squares that each layer chose, in the coordinates of their pictures.
        visited: the squares visited in their place; different only with hindsight in training.
    """

    squares: list[Float[Tensor, "b _ 3"]]
    pictures: list[Float[Tensor, "b _ 3 h w"]]
    crops: Crops
    leaves: Float[Tensor, "b n p 3"]
    chosen: list[Float[Tensor, "b _ _ 3"]]
    visited: list[Float[Tensor, "b _ _ 3"]]


class SquareSearch(nn.Module):
    """Choose squares of pictures, sample them as the pictures of the next layer, and repeat.

    Args:
        config: how squares are chosen, read and sampled.
        generator: random number generator of the sampler; None for the global one.
    """

    def __init__(self, config: SearchConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            MagnifyingLayer(
                math.prod(config.patches[:number]),
                slots,
                frozen_patch=config.frozen_patch and number == 1,
                scale_estimator=config.scale_estimator,
                logit_scale=config.logit_scale,
            )
            for number, slots in enumerate(config.patches)
        )
        linearized = LinearizedSampler(fixed_bias=config.fixed_bias, generator=generator)
        self.sample: Callable[[Tensor, Tensor], Tensor]
        self.sample = linearized if config.sampler == "linearized" else bilinear

    def forward(
        self,
        sources: Sequence[PixelSource],
        explorer: Explorer | None = None,
        *,
        one_by_one: bool = False,
    ) -> SearchResult:
        """Choose the squares of all layers, and sample those of all layers but the last.

        Args:
            sources: pixels of the slides.
            explorer: replaces some squares by random ones; None to visit the chosen squares.
            one_by_one: whether the parents of leaves are read one at a time, for `leaves`.

        Raises:
            NoTissueError: all pixels of a slide are gray.
        """
        sides, whole = self.config.sides_px, self._whole(len(sources))
        squares, crops = [whole], self._request(sources, whole, 0)
        pictures = [crops.downscaled(crops.images(self.config.gray_spread), sides[0])]
        self._refuse_black(sources, pictures[0])
        chosen, visited = [], []
        for number, layer in enumerate(self.layers):
            parents = squares[-1]
            if self.config.nested_gradient == "detached":
                parents = parents.detach()
            chosen.append(layer(pictures[-1]))
            visited.append(self._explore(explorer, chosen[-1], number))
            children = from_parent(parents[:, :, None], visited[-1])  # b n p 3
            squares.append(children.flatten(1, 2))
            if number + 1 < len(self.layers):
                # Requested before the pictures are sampled, so that reading overlaps with both.
                first = squares[-1][:, : self._batch_size(number + 1, one_by_one)]
                following = self._request(sources, first, number + 1)
                pictures.append(self._sample_squares(crops, children, sides[number + 1]))
                crops = following
        return SearchResult(squares, pictures, crops, children, chosen, visited)

    def leaves(
        self, sources: Sequence[PixelSource], result: SearchResult, *, one_by_one: bool = False
    ) -> Iterator[Float[Tensor, "b n 3 h w"]]:
        """Sample the leaves in order: all at once, or those of one parent after the other.

        Args:
            sources: pixels of the slides.
            result: output of `forward` for the same arguments.
            one_by_one: whether the parents of leaves are read one at a time.
        """
        last = len(self.layers) - 1
        batch_size = self._batch_size(last, one_by_one)
        batches = torch.split(result.leaves, batch_size, dim=1)
        parents = torch.split(result.squares[-2], batch_size, dim=1)
        following = result.crops
        for number, leaves in enumerate(batches):
            crops = following
            if number + 1 < len(batches):
                following = self._request(sources, parents[number + 1], last)
            yield self._sample_squares(crops, leaves, self.config.leaf_px)

    def bytes_per_slide(self) -> int:
        """Measure the memory per slide that the search needs in a training step."""
        sampled = sum(self._picture_bytes(layer) for layer in range(1, len(self.layers) + 1))
        kept = 0
        for number, layer in enumerate(copy.deepcopy(self.layers)):  # running statistics stay
            shape = (1, math.prod(self.config.patches[:number]), 3, *(self.config.sides_px[0],) * 2)
            pictures = self._whole(1).new_zeros(shape)
            kept += kept_bytes(partial(layer, pictures))[0]
        return kept + TENSORS_PER_PICTURE * sampled

    def working_bytes(self) -> int:
        """Return the size of the temporary tensors for sampling the leaves of one slide."""
        points = getattr(self.sample, "points", 1)
        return WORKING_TENSORS * points * self._picture_bytes(len(self.layers))

    def _picture_bytes(self, layer: int) -> int:
        """Return the size of the pictures of a slide that a layer takes; leaves after the last."""
        side_px = self.config.sides_px[layer]
        return 4 * math.prod(self.config.patches[:layer]) * 3 * side_px**2

    def _batch_size(self, layer: int, one_by_one: bool) -> int:
        """Return how many pictures of a layer are read together."""
        last = layer + 1 == len(self.layers)
        return 1 if one_by_one and last else math.prod(self.config.patches[:layer])

    def _whole(self, num_slides: int) -> Float[Tensor, "b 1 3"]:
        return next(self.parameters()).new_tensor(WHOLE).repeat(num_slides, 1, 1)

    def _request(
        self, sources: Sequence[PixelSource], squares: Float[Tensor, "b n 3"], layer: int
    ) -> Crops:
        side_px = self.config.crop_sides_px[layer]
        return Crops.request(sources, squares, side_px=side_px, step=layer)

    def _explore(
        self, explorer: Explorer | None, chosen: Float[Tensor, "b n p 3"], number: int
    ) -> Float[Tensor, "b n p 3"]:
        if explorer is None:
            return chosen
        frozen = self.config.frozen_patch and number == 1
        return explorer.explore(chosen, frozen_patch=frozen)

    def _refuse_black(
        self, sources: Sequence[PixelSource], pictures: Float[Tensor, "b 1 3 h w"]
    ) -> None:
        """Raise an error if the first picture of a slide is entirely black."""
        for source, picture in zip(sources, pictures, strict=True):
            if not picture.any():
                width, height = source.size
                raise NoTissueError(
                    f"all of the slide of {width} x {height} px is gray in its thumbnail of "
                    f"{self.config.picture_px} px, so no square can be chosen. If its tissue is "
                    "gray, set model.gray_spread=0; if the slide is long and thin, cut it into "
                    "pieces."
                )

    def _sample_squares(
        self, crops: Crops, squares: Float[Tensor, "b n p 3"], side_px: int
    ) -> Float[Tensor, "b m 3 s s"]:
        """Sample p squares inside each crop, slide by slide to save memory."""
        grid = crops.sampling_grid(squares, side_px)  # b n p s s 2
        sample = self._sampler(crops, grid.flatten(0, 1))
        views = []
        for slide, points in enumerate(grid):
            images = crops.slide_images(slide, self.config.gray_spread)
            views.append(sample(images, points).flatten(0, 1))
        return torch.stack(views)

    def _sampler(
        self, crops: Crops, grid: Float[Tensor, "m p s s 2"]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the sampler for the crops of one batch, which share their auxiliary points."""
        if isinstance(self.sample, LinearizedSampler) and self.sample.needs_offsets(grid):
            offsets = self.sample.draw_offsets((crops.width_px, crops.width_px), grid)
            return partial(self.sample, offsets=offsets)
        return self.sample
