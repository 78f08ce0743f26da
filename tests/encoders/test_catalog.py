"""The catalog against the numbers of the authors' cards, written down here by hand."""

from dataclasses import replace

import pytest

from parfocal.encoders.card import INSTALL, PACKAGES
from parfocal.encoders.catalog import (
    CARDS,
    canonical_name,
    find_card,
    known_macs,
    nearest_names,
)
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.spec import EncoderSpec

IMAGENET = (0.485, 0.456, 0.406)
# Features, input, resized to, patch, µm/px, mean, precision, gated.
PUBLISHED = {
    "uni": (1024, 224, 0, 256, [0.5], IMAGENET, "fp16", True),
    "uni2-h": (1536, 224, 0, 256, [0.5], IMAGENET, "bf16", True),
    "conch": (512, 448, 0, 512, [0.5], (0.48145466, 0.4578275, 0.40821073), "fp32", True),
    "conch-v1.5": (768, 448, 0, 512, [0.5], IMAGENET, "fp16", True),
    "virchow": (2560, 224, 0, 224, [0.5], IMAGENET, "fp16", True),
    "virchow2": (2560, 224, 0, 224, [0.25, 0.5, 1, 2], IMAGENET, "fp16", True),
    "h-optimus-0": (1536, 224, 0, 224, [0.5], (0.707223, 0.578729, 0.703617), "fp16", False),
    "h-optimus-1": (1536, 224, 0, 224, [0.5], (0.707223, 0.578729, 0.703617), "fp16", True),
    "h0-mini": (768, 224, 0, 224, [0.5], (0.707223, 0.578729, 0.703617), "fp16", True),
    "prov-gigapath": (1536, 224, 256, 256, [0.5], IMAGENET, "fp16", True),
    "phikon": (768, 224, 0, 224, [0.5], IMAGENET, "fp32", False),
    "phikon-v2": (1024, 224, 0, 224, [0.5], IMAGENET, "fp32", False),
    "hibou-b": (768, 224, 0, 224, [0.5], (0.7068, 0.5755, 0.722), "fp32", True),
    "hibou-l": (1024, 224, 0, 224, [0.5], (0.7068, 0.5755, 0.722), "fp32", True),
    "ctranspath": (768, 224, 0, 256, [1.0], IMAGENET, "fp32", True),
    "midnight-12k": (3072, 224, 0, 224, [0.25, 0.5, 1, 2], (0.5,) * 3, "fp16", False),
    "gpfm": (1024, 224, 0, 224, [0.5], IMAGENET, "fp32", False),
    "kaiko-vits16": (384, 224, 0, 256, [0.25, 0.5, 1, 2], (0.5,) * 3, "fp32", False),
    "kaiko-vits8": (384, 224, 0, 256, [0.25, 0.5, 1, 2], (0.5,) * 3, "fp32", False),
    "kaiko-vitb16": (768, 224, 0, 256, [0.25, 0.5, 1, 2], (0.5,) * 3, "fp32", False),
    "kaiko-vitb8": (768, 224, 0, 256, [0.25, 0.5, 1, 2], (0.5,) * 3, "fp32", False),
    "kaiko-vitl14": (1024, 224, 0, 256, [0.25, 0.5, 1, 2], (0.5,) * 3, "fp32", False),
    "lunit-vits8": (384, 224, 0, 224, [0.5], (0.70322989, 0.53606487, 0.66096631), "fp32", False),
    "lunit-vits16": (384, 224, 0, 224, [0.5], (0.70322989, 0.53606487, 0.66096631), "fp32", False),
}
OURS = {"efficientnet-lite0", "resnet50-layer3"}
# Prefix tokens: the class token, and the registers of the architecture.
REGISTERS = {"uni2-h": 8, "virchow2": 4, "h-optimus-0": 4, "h0-mini": 4, "kaiko-vitl14": 4}


def test_the_catalog_has_the_published_encoders_and_ours():
    assert set(CARDS) == set(PUBLISHED) | OURS


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_entry_has_the_published_numbers(name):
    card = CARDS[name]
    spec = card.spec()
    found = (
        *(spec.dim, spec.input_size, spec.resize_px, spec.patch_px, list(card.mpps), spec.mean),
        *(spec.precision, card.gated),
    )
    assert found == PUBLISHED[name]
    if spec.output != "pooled" and card.loader == "timm":
        registers = 4 if name.startswith("h-optimus") else REGISTERS.get(name, 0)
        assert spec.prefix_tokens == 1 + registers


# Width, layers, side of a patch of the network, tokens before the patch tokens, width of the hidden
# layer, and whether half of that gates the other half (SwiGLU), as the authors publish them.
TRANSFORMERS = {
    "uni": (1024, 24, 16, 1, 4096, False),
    "uni2-h": (1536, 24, 14, 9, 8192, True),
    "virchow": (1280, 32, 14, 1, 6832, True),
    "virchow2": (1280, 32, 14, 5, 6832, True),
    "h-optimus-0": (1536, 40, 14, 5, 8192, True),
    "h-optimus-1": (1536, 40, 14, 5, 8192, True),
    "h0-mini": (768, 12, 14, 5, 4096, True),
    "prov-gigapath": (1536, 40, 16, 1, 8192, True),
    "phikon": (768, 12, 16, 1, 3072, False),
    "phikon-v2": (1024, 24, 16, 1, 4096, False),
    "hibou-b": (768, 12, 14, 5, 3072, False),
    "hibou-l": (1024, 24, 14, 5, 4096, False),
    "midnight-12k": (1536, 40, 14, 1, 8192, True),
    "gpfm": (1024, 24, 14, 1, 4096, False),
    "kaiko-vits16": (384, 12, 16, 1, 1536, False),
    "kaiko-vits8": (384, 12, 8, 1, 1536, False),
    "kaiko-vitb16": (768, 12, 16, 1, 3072, False),
    "kaiko-vitb8": (768, 12, 8, 1, 3072, False),
    "kaiko-vitl14": (1024, 24, 14, 5, 4096, False),
    "lunit-vits8": (384, 12, 8, 1, 1536, False),
    "lunit-vits16": (384, 12, 16, 1, 1536, False),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_macs_of_a_vision_transformer_are_those_of_its_matrix_products(name):
    dim, layers, side, prefix, hidden, gated = TRANSFORMERS[name]
    patches = (224 // side) ** 2
    tokens = patches + prefix
    embedding = patches * 3 * side**2 * dim
    projections = tokens * 4 * dim**2  # queries, keys, values, output
    attention = 2 * tokens**2 * dim
    perceptron = tokens * dim * (hidden + (hidden // 2 if gated else hidden))
    expected = embedding + layers * (projections + attention + perceptron)
    assert CARDS[name].macs == expected
    assert known_macs(name) == known_macs(CARDS[name].hub) == expected


@pytest.mark.parametrize(
    ("name", "layers", "width", "dim"), [("conch", 12, 768, 512), ("conch-v1.5", 24, 1024, 768)]
)
def test_the_macs_of_conch_have_those_of_its_attention_pooling(name, layers, width, dim):
    patches = (448 // 16) ** 2
    tokens = patches + 1
    blocks = layers * (12 * tokens * width**2 + 2 * tokens**2 * width)
    pooling = 2 * dim**2 + 2 * tokens * width * dim + 2 * tokens * dim
    assert CARDS[name].macs == patches * 3 * 16**2 * width + blocks + pooling


@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet50-layer3-random", "tiny"])
def test_the_macs_of_our_networks_are_those_counted(name):
    assert known_macs(name) == load_encoder(name, runtime="torch").macs_per_patch()


def test_the_macs_of_an_unknown_encoder_are_unknown():
    for name in ("timm:resnet18", "http://localhost:8643/", "vit-of-the-lab"):
        assert known_macs(name) is None


def test_every_entry_says_how_to_get_it():
    for card in CARDS.values():
        assert card.license
        assert card.source
        assert card.loader in PACKAGES
        assert INSTALL[card.loader] or card.loader == "parfocal"
        assert card.page.startswith("https://") or card.id == "efficientnet-lite0"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("features_uni_v2", "uni2-h"),  # a folder of TRIDENT
        ("hoptimus1", "h-optimus-1"),
        ("gigapath", "prov-gigapath"),
        ("conch_v15", "conch-v1.5"),
        ("midnight12k", "midnight-12k"),
        ("mahmood-conch", "conch"),  # STAMP
        ("phikonv2", "phikon-v2"),  # slide2vec
        ("MahmoodLab/uni", "uni"),  # the Hub, whatever the case
    ],
)
def test_the_names_of_other_tools_are_known(name, expected):
    assert find_card(name) is CARDS[expected]
    assert canonical_name(name) == expected


def test_an_alias_is_of_one_encoder():
    names = [name.lower() for card in CARDS.values() for name in (card.id, *card.aliases)]
    assert len(names) == len(set(names))


def test_a_misspelled_name_has_nearest_names():
    assert nearest_names("virchwo2")[0] == "virchow2"
    assert nearest_names("zzz") == []
    assert canonical_name("timm:resnet18") == "timm:resnet18"


def test_the_output_of_a_width_is_found():
    assert CARDS["virchow2"].output_of(1280) == "cls"
    assert CARDS["midnight-12k"].output_of(3072) == "cls+mean"
    assert CARDS["uni"].output_of(77) is None


def test_an_output_that_an_encoder_lacks_is_refused():
    with pytest.raises(
        ValueError, match=r"encoder uni has no output 'mean'; choose cls, cls\+mean"
    ):
        CARDS["uni"].spec("mean")


def test_a_description_without_the_new_fields_is_as_before():
    spec = CARDS["efficientnet-lite0"].spec(weights_hash="0" * 16)
    assert set(spec.to_dict()) == {
        *("name", "dim", "input_size", "mean", "std"),
        *("mpp_range", "license", "weights_hash", "interpolation"),
    }
    assert EncoderSpec.from_dict(spec.to_dict()) == spec
    assert "output" not in spec.preparation


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_description_is_stored_with_all_its_fields(name):
    spec = CARDS[name].spec(weights_hash="0" * 16)
    assert EncoderSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("field", "value"), [("resize_px", 256), ("output", "cls+mean"), ("input_size", 448)]
)
def test_what_decides_features_is_in_the_text_of_their_preparation(field, value):
    spec = CARDS["uni"].spec()
    assert replace(spec, **{field: value}).preparation != spec.preparation


def test_an_impossible_crop_is_refused():
    with pytest.raises(ValueError, match=r"resize_px: 200 is less than the input size, 224"):
        EncoderSpec.from_dict({**CARDS["uni"].spec().to_dict(), "resize_px": 200})
    with pytest.raises(ValueError, match=r"output: 'all' is not one of"):
        EncoderSpec.from_dict({**CARDS["uni"].spec().to_dict(), "output": "all"})


def test_the_macs_of_every_published_encoder_are_known():
    assert [name for name, card in CARDS.items() if card.macs is None] == []
