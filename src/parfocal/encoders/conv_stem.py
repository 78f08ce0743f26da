"""The stem of CTransPath: convolutions in place of a Swin transformer's patch embedding.

Source: Wang et al., "Transformer-based unsupervised contrastive learning for histopathological
    image classification", Medical Image Analysis 2022.
Departs: none. The names of the layers are those of the published weights.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

STRIDES = 2  # convolutions of stride 2, which together shrink an image as the embedding does


class ConvStem(nn.Module):
    """Embeds patches of 4 x 4 pixels by three convolutions.

    Args:
        img_size: height and width of an image, in pixels.
        patch_size: height and width of a patch; 4.
        in_chans: number of channels of an image.
        embed_dim: width of the embedding, divisible by 8.
        norm_layer: class of the norm at the end; None for no norm.
        settings: further arguments that timm passes to an embedding; ignored.

    Raises:
        ValueError: the patch size or the width is not that of the published network.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **settings: object,
    ) -> None:
        super().__init__()
        if patch_size != 2**STRIDES or embed_dim % 8:
            raise ValueError(
                f"ConvStem: patch_size={patch_size} and embed_dim={embed_dim}; it needs "
                f"{2**STRIDES} and a multiple of 8."
            )
        sides = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid_size = tuple(side // patch_size for side in sides)
        layers: list[nn.Module] = []
        width = in_chans
        for step in range(STRIDES):
            wider = embed_dim // 8 * 2**step
            layers += [nn.Conv2d(width, wider, 3, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(wider), nn.ReLU(inplace=True)]
            width = wider
        self.proj = nn.Sequential(*layers, nn.Conv2d(width, embed_dim, 1))
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n i j d"]:
        """Return the embedding of each patch of images."""
        embedded: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return embedded
