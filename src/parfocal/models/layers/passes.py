"""Run a network on a batch in several passes, and estimate the memory that this needs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Passes:
    """How the networks of a model are run on a batch of slides in training.

    Args:
        slides: number of slides per pass; None for the whole batch in one pass.
        gradient_checkpointing: whether activations are recomputed in the backward pass, one pass
            at a time. Without it, all activations are kept, and passes save no memory.
    """

    slides: int | None = None
    gradient_checkpointing: bool = False

    def run(
        self,
        network: Callable[[Tensor], Tensor],
        images: Float[Tensor, "n c h w"],
        *,
        images_per_slide: int,
    ) -> Tensor:
        """Return the output of a network for images, computed in passes.

        Args:
            network: network whose output for an image does not depend on the other images.
            images: images of a batch.
            images_per_slide: number of images per slide.
        """
        if not torch.is_grad_enabled() or len(images) == 0:
            return network(images)
        size = len(images) if self.slides is None else self.slides * images_per_slide
        parts = torch.split(images, size)
        if self.gradient_checkpointing:
            outputs = [checkpoint(network, part, use_reentrant=False) for part in parts]
        else:
            outputs = [network(part) for part in parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


@dataclass(frozen=True)
class NetworkMemory:
    """Memory that a network needs in a training step, in bytes per slide.

    Args:
        activations: activations that the backward pass needs.
        working: gradients of activations that exist at the same time in the backward pass.
        splits: whether the network can be run in several passes.
    """

    activations: int
    working: int
    splits: bool = True


@dataclass(frozen=True)
class StepMemory:
    """Memory that the activations of a training step need.

    Args:
        networks: the networks that `Passes` apply to.
        per_slide: bytes per slide of all other tensors that the backward pass needs, such as the
            images.
        working: bytes of temporary tensors that do not depend on the number of slides.
    """

    networks: tuple[NetworkMemory, ...]
    per_slide: int
    working: int = 0

    def total(self, num_slides: int, passes: Passes) -> int:
        """Return the bytes that a batch needs at its peak.

        Args:
            num_slides: number of slides in the batch.
            passes: how the networks are run.
        """
        if not passes.gradient_checkpointing:
            slides = sum(network.activations for network in self.networks) * num_slides
            peak = max((network.working for network in self.networks), default=0) * num_slides
        else:
            per_pass = min(passes.slides or num_slides, num_slides)
            slides = 0
            peak = max(
                (
                    (network.activations + network.working)
                    * (per_pass if network.splits else num_slides)
                    for network in self.networks
                ),
                default=0,
            )
        return self.per_slide * num_slides + slides + max(peak, self.working)


def kept_bytes(forward: Callable[[], Tensor]) -> tuple[int, int]:
    """Return the memory of the tensors that a computation keeps for its backward pass.

    Weights are not counted. The computation runs once.

    Args:
        forward: the computation.

    Returns:
        Bytes of all tensors, and of the largest one.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage  # kept alive, so that its address is not reused
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward()
    sizes = [storage.nbytes() for storage in kept.values()]
    del output
    return sum(sizes), max(sizes, default=0)
