"""Read and write the weights of a trained model, `checkpoint.safetensors`."""

from hashlib import sha256
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from parfocal.models.description import DESCRIPTION_FILE, CheckpointError


def read_weights(path: Path, expected_hash: str) -> dict[str, Tensor]:
    """Read weights, and check that they are those that a description names.

    Args:
        path: the file.
        expected_hash: SHA-256 of its content.

    Raises:
        CheckpointError: the file is missing, damaged or another one, or a weight is not finite.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; restore it or train again.") from None
    if sha256(content).hexdigest() != expected_hash:
        raise CheckpointError(
            f"{path}: these are not the weights that {DESCRIPTION_FILE} describes (their hashes "
            "differ); restore both files from one run, or train again."
        )
    try:
        weights = safetensors.torch.load(content)
    except SafetensorError as error:
        raise unfit_weights(path, error) from None
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{path}: the weights {name} are not all finite, so every prediction would be "
                "meaningless. Train again, with a lower train.learning_rate."
            )
    return weights


def unfit_weights(path: Path, error: Exception) -> CheckpointError:
    """Return the error for weights that do not fit the model.

    Args:
        path: the file.
        error: the error of loading them.
    """
    return CheckpointError(
        f"{path}: the weights do not fit the model ({' '.join(str(error).split())}); use the "
        f"parfocal version named in {DESCRIPTION_FILE}, or train again."
    )


def weights_bytes(model: nn.Module) -> bytes:
    """Return the weights of a model in safetensors format."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(tensors)
