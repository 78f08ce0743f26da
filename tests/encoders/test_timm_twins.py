"""The encoders of the catalog that timm loads, against the authors' recipes."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from tests.encoders.twins import (
    IMAGENET,
    OPTIMUS,
    TIMM_TWINS,
    Twin,
    build_timm,
    fill,
    normalized,
    optional_package,
    patches,
    recipe_timm,
    write_timm,
)
from torch import nn

from parfocal.encoders.catalog import CARDS
from parfocal.encoders.conv_stem import ConvStem
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.timm_networks import _translate
from parfocal.encoders.weights import EncoderError, digest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of timm and torchvision
]
TOLERANCE = 2e-5
SMALLEST = TIMM_TWINS["lunit-vits16"]


@pytest.fixture(scope="module")
def timm():
    return optional_package("timm")


@pytest.fixture
def loaded(timm, tmp_path):
    """Load an encoder from the folder of its twin, and return it with the twin's network."""

    def load(name, twin, **settings):
        network = build_timm(timm, twin)
        folder = write_timm(tmp_path / name, network, twin)
        return load_encoder(name, weights=folder, **settings), network

    return load


def test_every_encoder_of_timm_has_a_twin():
    names = {card.id for card in CARDS.values() if card.loader == "timm"}
    assert set(TIMM_TWINS) == names - {"ctranspath"}


@pytest.mark.parametrize("name", TIMM_TWINS)
def test_a_twin_gives_the_features_of_the_makers_recipe(loaded, name):
    twin = TIMM_TWINS[name]
    encoder, network = loaded(name, twin)
    pixels = patches()
    features = encoder(pixels)
    assert features.shape == (2, twin.dim)
    assert (encoder.spec.name, encoder.spec.dim) == (name, twin.dim)
    assert (encoder.spec.mean, encoder.spec.std) == twin.colors
    if name == "prov-gigapath":
        pixels = patches(size=256)
        features = encoder(pixels)
        pixels = pixels[:, 16:240, 16:240]  # 256 is not resized, and its center is cropped
    expected = recipe_timm(network, normalized(pixels, twin.colors), twin)
    assert (features - expected).abs().max() < TOLERANCE * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "size"), [("lunit-vits16", 256), ("kaiko-vits16", 256), ("prov-gigapath", 512)]
)
def test_larger_patches_are_resized_as_torchvision_does(loaded, name, size):
    twin = TIMM_TWINS[name]
    encoder, network = loaded(name, twin)
    transforms = pytest.importorskip("torchvision.transforms.v2")
    modes = transforms.InterpolationMode
    mode = modes.BILINEAR if name.startswith("kaiko") else modes.BICUBIC
    side = 256 if name == "prov-gigapath" else 224
    resize = transforms.Compose(
        [transforms.Resize(side, interpolation=mode, antialias=True), transforms.CenterCrop(224)]
    )
    pixels = patches(size=size)
    resized = resize(torch.from_numpy(pixels).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    expected = recipe_timm(network, normalized(resized, twin.colors), twin)
    assert (encoder(pixels) - expected).abs().max() < TOLERANCE * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "output", "dim"),
    [("virchow2", "cls", 1280), ("h0-mini", "cls+mean", 1536), ("uni", "cls+mean", 2048)],
)
def test_another_output_can_be_chosen(loaded, name, output, dim):
    twin = TIMM_TWINS[name]
    encoder, network = loaded(name, twin, output=output)
    pixels = patches()
    with torch.inference_mode():
        tokens = network.forward_features(normalized(pixels, twin.colors))
    prefix = {"virchow2": 5, "h0-mini": 5, "uni": 1}[name]
    parts = [tokens[:, 0], tokens[:, prefix:].mean(1)]
    expected = parts[0] if output == "cls" else torch.cat(parts, dim=-1)
    assert encoder.spec.output == output
    assert encoder(pixels).shape == (2, dim)
    assert (encoder(pixels) - expected).abs().max() < TOLERANCE * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("uni", 303.4),
        ("uni2-h", 681.4),
        ("virchow", 631.2),
        ("virchow2", 631.2),
        ("h-optimus-0", 1134.8),
        ("h0-mini", 85.7),
        ("prov-gigapath", 1135.0),
        ("ctranspath", 27.5),
        ("gpfm", 303.2),
        ("lunit-vits8", 21.7),
    ],
)
def test_a_bare_weights_file_gets_the_published_architecture(timm, name, millions):
    """The numbers of parameters are those of the model cards and of lazyslide-models."""
    card = CARDS[name]
    arguments = _translate(timm, card.file_arguments)
    with torch.device("meta"):
        network = timm.create_model(card.architecture, num_classes=0, **arguments)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 1) == millions


def test_a_weights_file_is_loaded_into_the_architecture(timm, tmp_path):
    network = fill(timm.create_model("vit_small_patch16_224", num_classes=0))
    torch.save(
        {"teacher": {f"backbone.{k}": v for k, v in network.state_dict().items()}},
        tmp_path / "w.pth",
    )
    encoder = load_encoder("lunit-vits16", weights=tmp_path / "w.pth")
    folder = load_encoder("lunit-vits16", weights=tmp_path)  # without a config.json
    expected = recipe_timm(network, normalized(patches(), SMALLEST.colors), SMALLEST)
    assert (encoder(patches()) - expected).abs().max() < TOLERANCE * expected.abs().max()
    assert encoder.spec == folder.spec


def test_weights_of_another_network_are_refused(timm, tmp_path):
    small = fill(timm.create_model("vit_tiny_patch16_224", num_classes=0))
    torch.save(small.state_dict(), tmp_path / "tiny.pth")
    with pytest.raises(EncoderError, match=r"lunit-vits16: .*tiny\.pth does not fit the network"):
        load_encoder("lunit-vits16", weights=tmp_path / "tiny.pth")
    with pytest.raises(EncoderError, match=r"uni: .*tiny\.pth .*Give weights of that network"):
        load_encoder("uni", weights=tmp_path / "tiny.pth")
    twin = TIMM_TWINS["lunit-vits16"]
    folder = write_timm(tmp_path / "hub", build_timm(timm, twin), twin)
    message = (
        r"kaiko-vitb16: .*hub is for a network with 384 features, and kaiko-vitb16 has 768\. G"
    )
    with pytest.raises(EncoderError, match=message):
        load_encoder("kaiko-vitb16", weights=folder)
    message = r"kaiko-vitl14: .* 1 tokens before the patch tokens, and kaiko-vitl14 has 5"
    large = Twin("vit_large_patch16_224", 1024, IMAGENET)
    folder = write_timm(tmp_path / "large", build_timm(timm, large), large)
    with pytest.raises(EncoderError, match=message):
        load_encoder("kaiko-vitl14", weights=folder)


def test_tensors_that_are_missing_are_not_left_random(timm, tmp_path):
    network = fill(timm.create_model("resnet18", num_classes=0))
    tensors = {name: each for name, each in network.state_dict().items() if "layer4" not in name}
    torch.save(tensors, tmp_path / "part.pth")
    message = (
        r"timm:resnet18: 15 of 60 tensors are missing from .*part\.pth, first 'layer4\.0\.conv1"
    )
    with pytest.raises(EncoderError, match=message):
        load_encoder("timm:resnet18", weights=tmp_path / "part.pth")


def test_ctranspath_loads_its_published_file(timm, tmp_path):
    """Older versions of timm shrink at the end of a stage, and store buffers, too."""
    network = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, embed_layer=ConvStem)
    fill(network)
    published = {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}
    for name, each in network.state_dict().items():
        parts = name.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        published[".".join(parts)] = each
    torch.save({"model": published}, tmp_path / "ctranspath.pth")
    encoder = load_encoder("ctranspath", weights=tmp_path / "ctranspath.pth")
    with torch.inference_mode():
        expected = network(normalized(patches(), IMAGENET))
    assert (encoder.spec.dim, encoder.spec.output) == (768, "pooled")
    assert (encoder(patches()) - expected).abs().max() < TOLERANCE * expected.abs().max()


SWIN = "swin_tiny_patch4_window7_224"
ANY = [
    ("vit_tiny_patch16_224", {"global_pool": ""}, (192, "cls", 1)),
    ("vit_tiny_patch16_224", {"global_pool": "", "reg_tokens": 3}, (192, "cls", 4)),
    ("vit_tiny_patch16_224", {}, (192, "pooled", 0)),
    ("resnet10t", {"global_pool": ""}, (512, "mean", 0)),
    (SWIN, {"global_pool": "", "depths": (1, 1, 1, 1)}, (768, "mean", 0)),
]


@pytest.mark.parametrize(("architecture", "settings", "expected"), ANY)
def test_any_network_of_timm_gives_one_vector_per_patch(
    timm, tmp_path, architecture, settings, expected
):
    network = fill(timm.create_model(architecture, num_classes=0, **settings))
    twin = Twin(architecture, expected[0], IMAGENET, settings)
    folder = write_timm(tmp_path / "any", network, twin, depth=None)
    encoder = load_encoder(f"timm:local-dir:{folder}")
    spec = encoder.spec
    assert (spec.dim, spec.output, spec.prefix_tokens) == expected
    with torch.inference_mode():
        raw = network(normalized(patches(), IMAGENET))
    if raw.ndim == 4:
        raw = raw.mean((1, 2) if raw.shape[-1] == spec.dim else (2, 3))
    vectors = raw[:, 0] if raw.ndim == 3 else raw
    assert (encoder(patches()) - vectors).abs().max() < 1e-4 * vectors.abs().max()


def test_an_output_of_any_network_can_be_chosen(timm, tmp_path):
    network = fill(timm.create_model("vit_tiny_patch16_224", num_classes=0))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    encoder = load_encoder(
        "timm:vit_tiny_patch16_224", weights=tmp_path / "w.pth", output="cls+mean"
    )
    assert encoder(patches()).shape == (2, 384)
    network = fill(timm.create_model("resnet10t", num_classes=0))
    torch.save(network.state_dict(), tmp_path / "r.pth")
    with pytest.raises(ValueError, match=r"resnet10t has no output 'cls': its network returns vec"):
        load_encoder("timm:resnet10t", weights=tmp_path / "r.pth", output="cls")


def test_a_local_folder_without_weights_or_that_is_absent_is_explained(timm, tmp_path):
    with pytest.raises(EncoderError, match=r"no such folder; check the path after local-dir:"):
        load_encoder(f"timm:local-dir:{tmp_path / 'absent'}")
    with pytest.raises(EncoderError, match=r"no weights in that folder; it needs config\.json and"):
        load_encoder(f"timm:local-dir:{tmp_path}")
    with pytest.raises(
        EncoderError, match=r"uni: .* has no config\.json and 0 weights files; give"
    ):
        load_encoder("uni", weights=tmp_path)


CACHED = """
import sys, types
for name in ("torchvision._meta_registrations", "torchvision._autograd_registrations"):
    sys.modules[name] = types.ModuleType(name)
from parfocal.encoders.listing import list_encoder
from parfocal.encoders.catalog import CARDS
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.weights import EncoderError, digest
for name in ("lunit-vits16", "timm:hf-hub:1aurent/vit_small_patch16_224.lunit_dino"):
    print(load_encoder(name).spec.weights_hash)
assert list_encoder(CARDS["lunit-vits16"]).installed == "yes"
assert list_encoder(CARDS["uni2-h"]).installed == "no weights"
for name in ("uni2-h", "phikon", "gpfm", "hibou-b", "conch-v1.5"):
    try:
        load_encoder(name, trust_remote_code=True)
    except EncoderError as error:
        assert "HF_HUB_OFFLINE is set" in str(error) and CARDS[name].page in str(error), error
    else:
        raise AssertionError(f"{name} was loaded")
"""


def test_the_cache_of_the_hub_serves_without_network(timm, tmp_path):
    twin = SMALLEST
    repository = tmp_path / "models--1aurent--vit_small_patch16_224.lunit_dino"
    network = build_timm(timm, twin)
    write_timm(repository / "snapshots" / "abc", network, twin)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    offline = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", CACHED]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **offline}
    )
    assert done.stdout.split() == [digest(network.state_dict())] * 2


def test_what_is_pickled_in_a_weights_file_is_never_run(timm, tmp_path):
    twin = SMALLEST
    folder = write_timm(tmp_path / "hub", build_timm(timm, twin), twin)
    (folder / "model.safetensors").unlink()
    torch.save(nn.Linear(1, 1), folder / "pytorch_model.bin")
    for name, weights in ((f"timm:local-dir:{folder}", None), ("lunit-vits16", folder)):
        with pytest.raises(EncoderError, match=r"pytorch_model\.bin: cannot be read as weights"):
            load_encoder(name, weights=weights)


def test_a_misspelled_network_of_timm_gets_similar_names(timm):
    with pytest.raises(
        EncoderError, match=r"Similar names: vit_tiny_patch16_224, .*Check the name"
    ):
        load_encoder("timm:vit_tinny_patch16_224")


def test_a_repository_of_the_catalog_is_loaded_with_its_arguments(timm, monkeypatch, caplog):
    asked = []

    def create_model(name, **settings):
        asked.append(settings)
        raise OSError("no connection")

    monkeypatch.setattr(timm, "create_model", create_model)
    caplog.set_level(logging.WARNING)
    with pytest.raises(EncoderError, match=r"page|https://huggingface\.co/paige-ai/Virchow2"):
        load_encoder("timm:hf-hub:paige-ai/Virchow2")
    assert asked[0]["mlp_layer"] is timm.layers.SwiGLUPacked
    assert "the name virchow2 prepares patches as its authors do" in caplog.text


def test_the_colors_are_those_published():
    assert (CARDS["h0-mini"].mean, CARDS["h0-mini"].std) == OPTIMUS
