"""CONCH and CONCH v1.5 as their authors' code loads them, with small networks and random weights.

CONCH is loaded by its own package, which has to be installed. The repository of TITAN, which has
CONCH v1.5, is written here as it is published: a class of transformers that the config names, whose
method `return_conch` gets the weights of the patch encoder from the Hub.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tests.encoders.twins import IMAGENET, fill, normalized, optional_package, patches
from torch import Tensor, nn

from parfocal.encoders.loading import load_encoder
from parfocal.encoders.weights import EncoderError, digest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of transformers and torchvision
]
TOLERANCE = 2e-5
REVISION = "0123456789abcdef" * 2 + "01234567"  # a commit, by which transformers caches code
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

CONFIGURATION = """
from transformers import PretrainedConfig

class TitanConfig(PretrainedConfig):
    model_type = "titan"

    def __init__(self, conch_config=None, **settings):
        super().__init__(**settings)
        self.conch_config = conch_config
"""
MODELING = """
import torch
from huggingface_hub import hf_hub_download
from torch import nn
from torchvision import transforms
from transformers import PreTrainedModel

from .configuration_titan import TitanConfig

class Conch(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 16, stride=16)

    def forward(self, images):
        return self.embed(images).tanh().mean((2, 3))

class Titan(PreTrainedModel):
    config_class = TitanConfig

    def __init__(self, config, *arguments, **settings):
        super().__init__(config)  # as published, without post_init
        self.slide_encoder = nn.Linear(4, 4)
        self.conch_config = config.conch_config

    def return_conch(self):
        network = Conch(self.conch_config["dim"])
        file = hf_hub_download("MahmoodLab/TITAN", filename="conch_v1_5_pytorch_model.bin")
        network.load_state_dict(torch.load(file, map_location="cpu"), strict=True)
        return network, transforms.Compose([
            transforms.Resize(448, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(448),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ])
"""
LOAD = """
import sys
from types import ModuleType
for name in ("torchvision._meta_registrations", "torchvision._autograd_registrations"):
    sys.modules.setdefault(name, ModuleType(name))
import numpy as np, torch
from parfocal.encoders.catalog import CARDS
from parfocal.encoders.listing import list_encoder
from parfocal.encoders.loading import load_encoder
encoder = load_encoder("conch-v1.5", trust_remote_code=True)
assert list_encoder(CARDS["conch-v1.5"]).has_weights
patches = np.load(sys.argv[1])
torch.save(encoder(patches), sys.argv[2])
print(encoder.spec.weights_hash, encoder.spec.interpolation, encoder.spec.input_size)
"""


class Conch15(nn.Module):
    """The stand-in for the patch encoder in the repository above."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 768, 16, stride=16)

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(images).tanh().mean((2, 3))


def write_titan(hub: Path, network: nn.Module) -> None:
    """Write the repository of TITAN into a cache of the Hub."""
    repository = hub / "models--MahmoodLab--TITAN"
    folder = repository / "snapshots" / REVISION
    folder.mkdir(parents=True)
    classes = {"AutoConfig": "configuration_titan.TitanConfig", "AutoModel": "modeling_titan.Titan"}
    config = {"model_type": "titan", "auto_map": classes, "conch_config": {"dim": 768}}
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Titan"]}))
    (folder / "configuration_titan.py").write_text(CONFIGURATION)
    (folder / "modeling_titan.py").write_text(MODELING)
    torch.save(network.state_dict(), folder / "conch_v1_5_pytorch_model.bin")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)


def test_conch_1_5_gives_the_features_of_its_authors_code(tmp_path):
    optional_package("transformers")
    network = fill(Conch15())
    write_titan(tmp_path / "hub", network)
    np.save(tmp_path / "patches.npy", patches(size=448))
    home = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    files = [str(tmp_path / name) for name in ("patches.npy", "features.pt")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, *files],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **home},
    )
    assert done.returncode == 0, done.stderr
    # The interpolation is that of the authors' transform, not of the catalog.
    assert done.stdout.split() == [digest(network.state_dict()), "bicubic", "448"]
    features = torch.load(tmp_path / "features.pt", weights_only=True)
    with torch.inference_mode():
        expected = network(normalized(patches(size=448), IMAGENET))
    assert features.shape == (2, 768)
    assert (features - expected).abs().max() < TOLERANCE * expected.abs().max()


@pytest.fixture
def factory(monkeypatch, tmp_path) -> ModuleType:
    """The package of CONCH, whose architecture has two layers."""
    optional_package("timm")
    optional_package("conch.open_clip_custom")
    module = sys.modules["conch.open_clip_custom.factory"]
    config = json.loads((module.CFG_DIR / "conch_ViT-B-16.json").read_text())
    config["vision_cfg"]["layers"] = 2
    for part in ("text_cfg", "multimodal_cfg"):
        config[part] |= {"layers": 1, "width": 64, "heads": 2, "vocab_size": 100}
    config["embed_dim_caption"] = 64
    (tmp_path / "conch_ViT-B-16.json").write_text(json.dumps(config))
    monkeypatch.setattr(module, "CFG_DIR", tmp_path)
    return module


def build_conch(factory: ModuleType, file: Path, *, without: str = "text_decoder.") -> nn.Module:
    """Write random weights, without the decoder, as they are published."""
    config = json.loads((factory.CFG_DIR / "conch_ViT-B-16.json").read_text())
    config.pop("custom_text")
    model = fill(factory.CoCa(**config))
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(without)}
    torch.save(state, file)
    return model.eval()


def test_conch_gives_the_features_of_its_authors_package(factory, tmp_path):
    model = build_conch(factory, tmp_path / "pytorch_model.bin")
    encoder = load_encoder("conch", weights=tmp_path / "pytorch_model.bin")
    assert (encoder.spec.mean, encoder.spec.std) == OPENAI
    assert (encoder.spec.input_size, encoder.spec.interpolation) == (448, "bicubic")
    with torch.inference_mode():
        expected = model.encode_image(
            normalized(patches(size=448), OPENAI), proj_contrast=False, normalize=False
        )
    features = encoder(patches(size=448))
    assert features.shape == (2, 512)
    assert (features - expected).abs().max() < TOLERANCE * expected.abs().max()


def test_weights_without_the_image_encoder_of_conch_are_refused(factory, tmp_path):
    build_conch(factory, tmp_path / "w.bin", without="visual.trunk.blocks.1.")
    with pytest.raises(EncoderError, match=r"conch: \d+ tensors of the image encoder are missing"):
        load_encoder("conch", weights=tmp_path / "w.bin")
