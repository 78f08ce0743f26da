"""The encoders of the catalog that transformers loads, against the authors' recipes."""

import pytest
import torch
from tests.encoders.twins import HALF, HIBOU, IMAGENET, fill, normalized, optional_package, patches

from parfocal.encoders.catalog import CARDS
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.weights import EncoderError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of transformers and torchvision
]
TOLERANCE = 2e-5
SHAPE = {"num_hidden_layers": 2, "image_size": 224}
BASE = {**SHAPE, "hidden_size": 768, "num_attention_heads": 12}
LARGE = {**SHAPE, "hidden_size": 1024, "num_attention_heads": 16}
GIANT = {**SHAPE, "hidden_size": 1536, "num_attention_heads": 24, "use_swiglu_ffn": True}
REGISTERS = {"patch_size": 14, "num_register_tokens": 4}
# Class of transformers, its config, width, colors, and the output of the authors' recipe.
TWINS = {
    "phikon": ("ViT", {**BASE, "patch_size": 16}, 768, IMAGENET, "cls"),
    "phikon-v2": ("Dinov2", {**LARGE, "patch_size": 16}, 1024, IMAGENET, "cls"),
    "hibou-b": ("Dinov2WithRegisters", {**BASE, **REGISTERS}, 768, HIBOU, "pooler"),
    "hibou-l": ("Dinov2WithRegisters", {**LARGE, **REGISTERS}, 1024, HIBOU, "pooler"),
    "midnight-12k": ("Dinov2", {**GIANT, "patch_size": 14}, 3072, HALF, "cls+mean"),
}


@pytest.fixture(scope="module")
def transformers():
    return optional_package("transformers")


def build(transformers, name):
    kind, config, *_ = TWINS[name]
    settings = {"add_pooling_layer": False} if kind == "ViT" else {}
    model_class = getattr(transformers, f"{kind}Model")
    return fill(model_class(getattr(transformers, f"{kind}Config")(**config), **settings))


def recipe(model, images, output):
    with torch.inference_mode():
        answer = model(pixel_values=images)
    tokens = answer.last_hidden_state
    if output == "pooler":
        return answer.pooler_output
    if output == "cls":
        return tokens[:, 0]
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=-1)


def test_every_encoder_of_transformers_has_a_twin():
    assert set(TWINS) == {card.id for card in CARDS.values() if card.loader == "transformers"}


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_gives_the_features_of_the_makers_recipe(transformers, tmp_path, name):
    _, _, dim, colors, output = TWINS[name]
    model = build(transformers, name)
    model.save_pretrained(tmp_path)
    encoder = load_encoder(name, weights=tmp_path)
    features = encoder(patches())
    expected = recipe(model, normalized(patches(), colors), output)
    assert features.shape == (2, dim)
    assert (encoder.spec.name, encoder.spec.dim, encoder.spec.mean) == (name, dim, colors[0])
    assert (features - expected).abs().max() < TOLERANCE * expected.abs().max()
    file = load_encoder(name, weights=tmp_path / "model.safetensors")
    assert file.spec == encoder.spec


def test_the_class_token_of_midnight_can_be_chosen(transformers, tmp_path):
    model = build(transformers, "midnight-12k")
    model.save_pretrained(tmp_path)
    encoder = load_encoder("midnight-12k", weights=tmp_path, output="cls")
    expected = recipe(model, normalized(patches(), HALF), "cls")
    assert (encoder(patches()) - expected).abs().max() < TOLERANCE * expected.abs().max()


def test_weights_of_another_network_are_refused(transformers, tmp_path):
    build(transformers, "phikon-v2").save_pretrained(tmp_path / "v2")
    with pytest.raises(
        EncoderError, match=r"midnight-12k: .*v2 is for a network with 1024 features"
    ):
        load_encoder("midnight-12k", weights=tmp_path / "v2")
    model = build(transformers, "phikon-v2")
    tensors = {k: v for k, v in model.state_dict().items() if "layer.1." not in k}
    model.save_pretrained(tmp_path / "part", state_dict=tensors)
    with pytest.raises(EncoderError, match=r"phikon-v2: 18 tensors are missing from .*part, first"):
        load_encoder("phikon-v2", weights=tmp_path / "part")
    (tmp_path / "alone.safetensors").write_bytes(b"")
    with pytest.raises(EncoderError, match=r"there is no config\.json beside it\. Give the folder"):
        load_encoder("phikon", weights=tmp_path / "alone.safetensors")


def test_a_folder_with_code_of_its_own_is_refused_unless_trusted(transformers, tmp_path):
    build(transformers, "hibou-b").save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    remote = (
        '"auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}, "model_type": "own", '
    )
    changed = config.replace('"model_type": "dinov2_with_registers"', '"unused": 0')
    (tmp_path / "config.json").write_text(changed.replace("{", "{" + remote, 1))
    (tmp_path / "own.py").write_text("raise SystemExit('this code ran')")
    with pytest.raises(
        EncoderError, match=r"hibou-b: loading it runs code from .*allow it: --trust-remote-code"
    ):
        load_encoder("hibou-b", weights=tmp_path)
