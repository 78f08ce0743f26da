"""Backbones of timm, whose weights come from a file, from training to prediction."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from parfocal.dataset import Cohort, read_cohort
from parfocal.encoders.weights import EncoderError
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.slide import predict
from parfocal.settings import load_settings
from parfocal.train import train


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Write six small slides without glass."""
    rows, rng = ["slide_id,path,label,mpp,split"], np.random.default_rng(0)
    for number, split in enumerate(("train", "train", "val", "val", "test", "test")):
        pixels = rng.integers(100, 200, (192, 192, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number},{number}.png,{('well', 'ill')[number % 2]},1,{split}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    return read_cohort(tmp_path / "cohort.csv")


def train_and_predict(cohort: Cohort, recipe: str, *changes: str) -> float:
    """Train for an epoch, and return the probability of "ill" predicted from the run folder."""
    folder = cohort.source.parent
    changes = ("slide.tissue_method=all", "train.epochs=1", "train.batch_size=2", *changes)
    train(cohort, load_settings(recipe, overrides=changes), folder / "run", device="cpu")
    for file in folder.glob("*.pth"):
        file.unlink()
    record = predict(cohort.slides[-1].path, Checkpoint.load(folder / "run"), mpp=1)
    return record.probabilities["ill"]


def weights(folder: Path, network: nn.Module) -> Path:
    torch.save(network.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


class Small(nn.Sequential):
    """A network like those of timm, with a batch norm."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 5, 4, stride=4), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1))
        self.append(nn.Flatten())

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self[1](self[0](x))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace timm, which is optional, by a small module."""

    def create_model(name, *, pretrained, pretrained_cfg_overlay, **_):
        network = Small()
        if pretrained:
            network.load_state_dict(pretrained_cfg_overlay["state_dict"])
        return network

    config = {"input_size": (3, 32, 32), "interpolation": "bilinear"}
    config |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    module = ModuleType("timm")
    module.create_model = create_model
    module.data = SimpleNamespace(resolve_model_data_config=lambda _: config)
    monkeypatch.setitem(sys.modules, "timm", module)


JSMA = ("slide.patch_size=96", "slide.magnifications=[5, 10]", "model.thumbnail_px=96", "model.k=2")
MAGNET = ("model.patches=[2, 2]", "model.picture_px=48", "model.leaf_px=96", "slide.patch_size=96")


@pytest.mark.parametrize(("recipe", "changes"), [("jsma", JSMA), ("magnet-3", MAGNET)])
def test_a_run_folder_contains_the_backbone_whose_weights_came_from_a_file(
    timm, cohort, tmp_path, recipe, changes
):
    name = f"timm:any={weights(tmp_path, Small())}"
    changes += (f"model.backbone={name}",)
    if recipe == "magnet-3":
        changes += (f"model.auxiliary_backbone={name}",)
    assert 0 < train_and_predict(cohort, recipe, *changes) < 1


def test_without_timm_the_backbone_of_the_paper_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    message = "timm:inception_v3: timm cannot be imported .* Or use efficientnet-lite0, which is"
    with pytest.raises(EncoderError, match=message):
        load_settings("jsma", overrides=["model.backbone=timm:inception_v3"])


@pytest.fixture
def true_timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    # With torch for the CPU and torchvision for CUDA, these two modules fail to import.
    for name in ("torchvision._meta_registrations", "torchvision._autograd_registrations"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    return pytest.importorskip("timm", reason="needs parfocal[timm]")


@pytest.mark.slow
def test_jsma_trains_with_the_inception_network_of_the_paper(true_timm, cohort, tmp_path):
    file = weights(tmp_path, true_timm.create_model("inception_v3"))
    backbone = f"model.backbone=timm:inception_v3={file}"
    assert 0 <= train_and_predict(cohort, "jsma", *JSMA, backbone) <= 1


@pytest.mark.slow
def test_magnet_trains_with_the_networks_of_the_paper(true_timm, cohort, tmp_path):
    files = {}
    for name in ("inception_v3", "resnet18"):
        (tmp_path / name).mkdir()
        files[name] = weights(tmp_path / name, true_timm.create_model(name))
    networks = (
        f"model.backbone=timm:inception_v3={files['inception_v3']}",
        f"model.auxiliary_backbone=timm:resnet18={files['resnet18']}",
    )
    assert 0 < train_and_predict(cohort, "magnet-3", *MAGNET, *networks) < 1
