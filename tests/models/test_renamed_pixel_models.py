"""Pixel models saved by the first version of the format answer as they did then.

Each folder of tests/fixtures/v1/pixel_models holds a `checkpoint.json` written by that version, and
the logits it computed. The weights would be large, so they are random and made again from names.
"""

import json
import zlib
from hashlib import sha256
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from parfocal.models.checkpoint import Checkpoint
from sources import picture, source

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v1" / "pixel_models"


def random_weight(name: str, shape: list[int]) -> Tensor:
    """Return the weight that the first version was given under its old name."""
    if not shape:
        return torch.tensor(0)  # number of batches seen by a batch norm
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    weight = torch.randn(shape, generator=generator)
    if name.endswith("running_var"):
        return weight.abs()
    return weight / max(1, weight[0].numel() if weight.dim() > 1 else 1) ** 0.5


@pytest.mark.parametrize("model", ["jsma", "attentionsampling", "magnet", "meanrgb"])
def test_a_checkpoint_of_version_1_gives_the_logits_it_gave_then(model, tmp_path):
    expected = json.loads((FIXTURES / model / "expected.json").read_text())
    description = json.loads((FIXTURES / model / "checkpoint.json").read_text())
    state = {name: random_weight(name, shape) for name, shape in expected["weights"].items()}
    content = safetensors.torch.save(state)
    assert sha256(content).hexdigest() == description["weights_sha256"]
    (tmp_path / "checkpoint.safetensors").write_bytes(content)
    (tmp_path / "checkpoint.json").write_text(json.dumps(description))
    trained = Checkpoint.load(tmp_path)
    with torch.no_grad():
        prediction = trained.model([source(picture(seed=5)), source(picture(64, 96, seed=6))])
    # Equal to the last bit on the machine that wrote the file; other CPUs add in another order.
    torch.testing.assert_close(
        prediction.logits, torch.tensor(expected["logits"]), rtol=1e-5, atol=1e-6
    )
