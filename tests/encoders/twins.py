"""Small twins of the published encoders: their architectures with two layers and random weights.

The widths, tokens and arguments are written down here as the authors publish them, apart from the
catalog, and each twin is run by the authors' recipe, with timm or transformers called directly.
"""

import json
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
REASON = "needs parfocal[timm] and parfocal[transformers], which not every torch can import"


def optional_package(name: str) -> ModuleType:
    """Return timm or transformers, or skip the test where it cannot be imported."""
    # Where torch has no CUDA and torchvision has, these register operators that torch lacks.
    for module in ("torchvision._meta_registrations", "torchvision._autograd_registrations"):
        sys.modules.setdefault(module, ModuleType(module))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return __import__(name)
    except Exception:  # a torchvision that does not match torch raises RuntimeError
        pytest.skip(REASON)


@dataclass(frozen=True)
class Twin:
    """An encoder of timm as its authors publish it, with two layers.

    `arguments` are those in the repository's config; `recipe` and the layers of `swiglu` are those
    that the authors say to add. `prefix` tokens are skipped by the mean over patches.
    """

    architecture: str
    dim: int
    colors: tuple[Any, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    swiglu: bool = False
    prefix: int = 1
    mean: bool = False


UNI = {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True}
VIRCHOW = {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": ""}
OPTIMUS_ARGUMENTS = {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False}
TIMM_TWINS = {
    "uni": Twin("vit_large_patch16_224", 1024, IMAGENET, UNI),
    "uni2-h": Twin(
        "vit_giant_patch14_224",
        1536,
        IMAGENET,
        {
            **UNI,
            "patch_size": 14,
            "num_heads": 24,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
        },
        swiglu=True,
        prefix=9,
    ),
    "virchow": Twin("vit_huge_patch14_224", 2560, IMAGENET, VIRCHOW, swiglu=True, mean=True),
    "virchow2": Twin(
        "vit_huge_patch14_224",
        2560,
        IMAGENET,
        {**VIRCHOW, "reg_tokens": 4},
        swiglu=True,
        prefix=5,
        mean=True,
    ),
    "h-optimus-0": Twin("vit_giant_patch14_reg4_dinov2", 1536, OPTIMUS, OPTIMUS_ARGUMENTS),
    "h-optimus-1": Twin("vit_giant_patch14_reg4_dinov2", 1536, OPTIMUS, OPTIMUS_ARGUMENTS),
    "h0-mini": Twin(
        "vit_base_patch14_reg4_dinov2",
        768,
        OPTIMUS,
        {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.33334, "global_pool": ""},
        swiglu=True,
    ),
    "prov-gigapath": Twin(
        "vit_giant_patch14_dinov2",
        1536,
        IMAGENET,
        {
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "num_heads": 24,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
        },
    ),
    "gpfm": Twin("vit_large_patch14_dinov2", 1024, IMAGENET, {"img_size": 224}),
    "kaiko-vits16": Twin("vit_small_patch16_224", 384, HALF),
    "kaiko-vits8": Twin("vit_small_patch8_224", 384, HALF),
    "kaiko-vitb16": Twin("vit_base_patch16_224", 768, HALF),
    "kaiko-vitb8": Twin("vit_base_patch8_224", 768, HALF),
    "kaiko-vitl14": Twin(
        "vit_large_patch14_reg4_dinov2",
        1024,
        HALF,
        {"img_size": 518},
        recipe={"dynamic_img_size": True},
    ),
    "lunit-vits8": Twin("vit_small_patch8_224", 384, LUNIT),
    "lunit-vits16": Twin("vit_small_patch16_224", 384, LUNIT),
}


def fill(network: nn.Module) -> nn.Module:
    """Fill a network with random weights, so large that every layer matters to the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(0, 0.05, generator=generator)
            if parameter.ndim == 1 and ("norm" in name or name.endswith(("gamma", "lambda1"))):
                parameter.add_(0.7)
    return network.eval()


def build_timm(timm: ModuleType, twin: Twin) -> nn.Module:
    """Build a twin by the authors' recipe."""
    layers = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU} if twin.swiglu else {}
    network: nn.Module = timm.create_model(
        twin.architecture, num_classes=0, depth=2, **twin.arguments, **twin.recipe, **layers
    )
    return fill(network)


def write_timm(folder: Path, network: nn.Module, twin: Twin, *, depth: int | None = 2) -> Path:
    """Write a twin as a repository of the Hub."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: each.contiguous() for name, each in network.state_dict().items()},
        folder / "model.safetensors",
    )
    mean, std = twin.colors
    config = {
        "architecture": twin.architecture,
        "num_classes": 0,
        "num_features": getattr(network, "num_features", twin.dim),
        "model_args": ({} if depth is None else {"depth": depth}) | twin.arguments,
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "interpolation": "bicubic",
            "mean": mean,
            "std": std,
            "num_classes": 0,
            "classifier": "head",
            "first_conv": "patch_embed.proj",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def normalized(patches: np.ndarray, colors: tuple[Any, Any]) -> Tensor:
    """Return patches as images in 0..1, minus the mean, over the deviation."""
    images = torch.from_numpy(patches).permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in colors)
    return ((images - mean) / std).float()


def recipe_timm(network: nn.Module, images: Tensor, twin: Twin) -> Tensor:
    """Run a twin as its authors do: its class token, perhaps with the mean of the patch tokens."""
    with torch.inference_mode():
        output: Tensor = network(images)
        if output.ndim == 2:
            return output
        if not twin.mean:
            return output[:, 0]
        return torch.cat([output[:, 0], output[:, twin.prefix :].mean(1)], dim=-1)


def patches(count: int = 2, size: int = 224) -> np.ndarray:
    """Return patches with detail at every scale."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, size // 16 + 1, size // 16 + 1, 3))
    smooth = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :size, :size]
    noise = generator.integers(-20, 21, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)
