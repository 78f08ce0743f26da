"""Loading of the catalog's encoders, with stand-ins for timm and transformers."""

import logging
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from parfocal.encoders.catalog import CARDS
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.preparation import prepared_by
from parfocal.encoders.weights import EncoderError

PAGE = "https://huggingface.co/"


class Tokens(nn.Module):
    """A stand-in for a vision transformer: its tokens are multiples of the mean color."""

    def __init__(self, dim, prefix):
        super().__init__()
        self.num_features, self.num_prefix_tokens = dim, prefix
        self.scale = nn.Parameter(torch.arange(1.0, prefix + 3)[:, None].expand(-1, dim).clone())
        self.pretrained_cfg = {"state_dict": "kept"}

    def forward_features(self, x):
        return x.mean((1, 2, 3))[:, None, None] * self.scale

    def forward(self, x):
        return self.forward_features(x)[:, 0]


@pytest.fixture
def timm(monkeypatch):
    """A stand-in for timm that records the calls of create_model."""
    module = ModuleType("timm")
    module.calls, module.network, module.error = [], None, None
    module.layers = SimpleNamespace(SwiGLUPacked=type("SwiGLUPacked", (nn.Module,), {}))
    module.list_models = lambda: ["resnet18"]

    def create_model(name, **settings):
        module.calls.append((name, settings))
        if module.error is not None:
            raise module.error
        return module.network

    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def white(count=1, size=224):
    return np.full((count, size, size, 3), 255, dtype=np.uint8)


def mean_white(name):
    card = CARDS[name]
    pairs = zip(card.mean, card.std, strict=True)
    return float(np.mean([(1 - mean) / std for mean, std in pairs]))


@pytest.mark.parametrize(
    ("name", "prefix", "dim", "tokens"),
    [
        ("uni2-h", 9, 1536, (1,)),
        ("virchow", 1, 2560, (1, 2.5)),
        ("virchow2", 5, 2560, (1, 6.5)),
        ("h0-mini", 5, 768, (1,)),
    ],
)
def test_the_output_of_the_makers_is_taken(timm, name, prefix, dim, tokens):
    timm.network = Tokens(dim // len(tokens), prefix)
    features = load_encoder(name)(white())
    assert features.shape == (1, dim)
    expected = [mean_white(name) * each for each in tokens]
    assert features[0, :: dim // len(tokens)].tolist() == pytest.approx(expected, rel=1e-4)


def test_arguments_that_a_config_cannot_state_reach_timm(timm):
    timm.network = Tokens(1536, 9)
    load_encoder("uni2-h")
    name, settings = timm.calls[0]
    assert name == "hf-hub:MahmoodLab/UNI2-h"
    assert settings["mlp_layer"] is timm.layers.SwiGLUPacked
    assert settings["act_layer"] is nn.SiLU
    assert (settings["reg_tokens"], settings["depth"], settings["num_classes"]) == (8, 24, 0)
    assert settings["pretrained"]
    assert "state_dict" not in timm.network.pretrained_cfg  # a second copy of the weights


def test_another_name_for_an_encoder_gives_its_id(timm):
    timm.network = Tokens(1536, 9)
    assert load_encoder("uni_v2").spec == load_encoder("uni2-h").spec
    assert load_encoder("UNI2-H").spec.name == "uni2-h"


def test_the_arguments_in_the_config_of_a_folder_are_not_replaced(timm, tmp_path):
    (tmp_path / "config.json").write_text('{"model_args": {"depth": 2, "reg_tokens": 8}}')
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    timm.network = Tokens(1536, 9)
    load_encoder("uni2-h", weights=tmp_path)
    name, settings = timm.calls[0]
    assert name == f"local-dir:{tmp_path}"
    assert "depth" not in settings
    assert settings["embed_dim"] == 1536
    assert list(settings["pretrained_cfg_overlay"]["state_dict"]) == ["a"]


def test_a_weights_file_is_loaded_into_the_whole_architecture(timm, tmp_path):
    torch.save({"state_dict": {"module.a": torch.ones(1)}}, tmp_path / "w.bin")
    timm.network = Tokens(1280, 5)
    load_encoder("virchow2", weights=tmp_path / "w.bin")
    name, settings = timm.calls[0]
    assert name == "vit_huge_patch14_224"
    assert (settings["mlp_ratio"], settings["reg_tokens"]) == (5.3375, 4)
    assert list(settings["pretrained_cfg_overlay"]["state_dict"]) == ["a"]


def test_weights_that_are_not_there_are_named_before_timm_is_called(timm, tmp_path):
    with pytest.raises(EncoderError, match=r"uni: .*absent: no such weights file or folder; check"):
        load_encoder("uni", weights=tmp_path / "absent")
    assert not timm.calls


def test_a_network_of_another_shape_is_refused(timm):
    timm.network = Tokens(1024, 1)
    message = r"virchow2: the file on the Hub is for a network with 1024 features, and .* has 1280"
    with pytest.raises(EncoderError, match=message):
        load_encoder("virchow2")
    timm.network = Tokens(1280, 1)
    with pytest.raises(EncoderError, match=r"with 1 tokens before the patch tokens, and .* has 5"):
        load_encoder("virchow2")


def hub_error(name, message):
    return type(name, (OSError,), {})(message)


def wrapped(error):
    try:
        raise RuntimeError("cannot load") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize("wrap", [lambda error: error, wrapped], ids=["bare", "wrapped"])
def test_a_gated_model_names_the_page_the_token_and_the_way_without_network(timm, wrap):
    timm.error = wrap(
        hub_error("GatedRepoError", "403 Client Error.\nAccess to model is restricted")
    )
    with pytest.raises(EncoderError) as caught:
        load_encoder("uni2-h")
    text = str(caught.value)
    assert text.startswith("uni2-h: access to the weights was refused (")
    assert f"Ask for access at {PAGE}MahmoodLab/UNI2-h, then set HF_TOKEN" in text
    assert "--set encoder.weights=PATH, or with extract and serve-encoder --weights PATH" in text
    assert "\n" not in text


def test_a_private_or_misspelled_repository_is_explained(timm):
    timm.error = hub_error("RepositoryNotFoundError", "404")
    with pytest.raises(EncoderError, match=r"timm:hf-hub:a/b: the Hub shows no such repository to"):
        load_encoder("timm:hf-hub:a/b")


@pytest.mark.parametrize(
    ("offline", "reason"), [("1", "HF_HUB_OFFLINE is set"), ("0", "cannot be")]
)
def test_weights_that_are_neither_cached_nor_reached_are_explained(
    timm, monkeypatch, tmp_path, offline, reason
):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    timm.error = hub_error("LocalEntryNotFoundError", "not on disk")
    message = (
        rf"kaiko-vits16: the weights are not in {tmp_path}, and .*{reason}.* are at {PAGE}1aur"
    )
    with pytest.raises(EncoderError, match=message):
        load_encoder("kaiko-vits16")


def test_the_token_is_never_printed(timm, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    timm.error = hub_error("GatedRepoError", "401")
    with pytest.raises(EncoderError) as caught:
        load_encoder("uni")
    assert "hf_secret" not in str(caught.value)


@pytest.fixture
def transformers(monkeypatch):
    """A stand-in for transformers that records the calls of from_pretrained."""
    module = ModuleType("transformers")
    module.calls, module.error = [], None
    module.model, module.report = Model(1024), {"missing_keys": []}
    module.verbosity, module.bars = 30, True

    def from_pretrained(source, **settings):
        module.calls.append((source, settings, module.verbosity, module.bars))
        if module.error is not None:
            raise module.error
        return module.model, module.report

    def config(source, **settings):
        module.calls.append((source, settings, module.verbosity, module.bars))
        if module.error is not None:
            raise module.error
        return source

    def from_config(config, *, trust_remote_code):
        assert (config, trust_remote_code) == (module.calls[-1][0], True)
        return module.model

    module.AutoModel = SimpleNamespace(from_pretrained=from_pretrained, from_config=from_config)
    module.AutoConfig = SimpleNamespace(from_pretrained=config)
    module.logging = SimpleNamespace(
        get_verbosity=lambda: module.verbosity,
        set_verbosity=lambda level: setattr(module, "verbosity", level),
        set_verbosity_error=lambda: setattr(module, "verbosity", 40),
        is_progress_bar_enabled=lambda: module.bars,
        disable_progress_bar=lambda: setattr(module, "bars", False),
        enable_progress_bar=lambda: setattr(module, "bars", True),
    )
    monkeypatch.setitem(sys.modules, "transformers", module)
    return module


class Model(nn.Module):
    """A stand-in for a model of transformers, in half precision as some are published."""

    def __init__(self, dim, registers=0):
        super().__init__()
        self.config = SimpleNamespace(hidden_size=dim, num_register_tokens=registers)
        self.tokens = Tokens(dim, 1 + registers).to(torch.bfloat16)

    def forward(self, pixel_values):
        tokens = self.tokens.forward_features(pixel_values)
        return SimpleNamespace(last_hidden_state=tokens, pooler_output=tokens[:, 0] * 10)


def test_transformers_loads_quietly_in_float32_and_without_remote_code(transformers):
    encoder = load_encoder("phikon-v2")
    assert encoder(white())[0, 0].item() == pytest.approx(mean_white("phikon-v2"), rel=1e-4)
    source, settings, verbosity, bars = transformers.calls[0]
    assert (source, settings["trust_remote_code"]) == ("owkin/phikon-v2", False)
    assert (verbosity, bars) == (40, False)
    assert (transformers.verbosity, transformers.bars) == (30, True)


def test_the_pooled_output_of_hibou_is_taken_and_its_code_run_only_if_trusted(transformers):
    with pytest.raises(
        EncoderError,
        match=rf"hibou-l: loading it runs code from .*, {PAGE}histai/hibou-L\.",
    ):
        load_encoder("hibou-l")
    assert not transformers.calls
    transformers.model = Model(1024, registers=4)
    encoder = load_encoder("hibou-l", trust_remote_code=True)
    assert transformers.calls[0][1]["trust_remote_code"]
    assert encoder(white())[0, 0].item() == pytest.approx(10 * mean_white("hibou-l"), rel=1e-4)


def compose(*steps: tuple[str, dict[str, object]]) -> SimpleNamespace:
    """Return a stand-in for a transform of torchvision."""
    return SimpleNamespace(transforms=[type(name, (), values)() for name, values in steps])


def test_conch_1_5_is_taken_out_of_titan_and_fed_as_its_code_says(transformers, caplog):
    conch = nn.Sequential(nn.AdaptiveAvgPool2d(16), nn.Flatten(1), nn.Linear(768, 768))
    transform = compose(
        ("Resize", {"size": 512, "interpolation": SimpleNamespace(value="bicubic")}),
        ("CenterCrop", {"size": (448, 448)}),
        ("Normalize", {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.25, 0.5]}),
    )
    caplog.set_level(logging.INFO)
    transformers.model.return_conch = lambda: (conch, None)
    encoder = load_encoder("conch-v1.5", trust_remote_code=True)
    assert encoder(white(size=512)).shape == (1, 768)
    source, settings, *_ = transformers.calls[0]
    assert (source, settings["trust_remote_code"]) == ("MahmoodLab/TITAN", True)
    assert (encoder.spec.interpolation, encoder.spec.resize_px) == ("bilinear", 0)
    assert "otherwise" not in caplog.text
    transformers.model.return_conch = lambda: (conch, transform)
    spec = load_encoder("conch-v1.5", trust_remote_code=True).spec
    assert (spec.interpolation, spec.resize_px, spec.input_size) == ("bicubic", 512, 448)
    assert (spec.mean, spec.std) == ((0.5,) * 3, (0.5, 0.25, 0.5))
    assert "conch-v1.5: its code prepares patches differently from the catalog" in caplog.text


def test_what_a_transform_does_not_say_is_taken_from_the_catalog():
    spec = CARDS["conch"].spec()
    unreadable = compose(
        ("Resize", {"size": (448, 400), "interpolation": None}),
        ("Normalize", {"mean": [0.5], "std": [0.5]}),
    )
    for transform in (None, object(), compose(), unreadable):
        assert prepared_by(spec, transform) is spec or prepared_by(spec, transform) == spec


def test_random_tensors_are_refused(transformers):
    transformers.report = {"missing_keys": ["layer.1.bias", "layer.0.bias"]}
    with pytest.raises(
        EncoderError, match=r"2 tensors are missing from owkin/phikon-v2, first 'laye"
    ):
        load_encoder("phikon-v2")


def test_an_error_of_transformers_says_what_to_do(transformers, tmp_path):
    transformers.error = wrapped(hub_error("GatedRepoError", "401"))
    with pytest.raises(
        EncoderError, match=r"midnight-12k: access to the weights was refused .*HF_TO"
    ):
        load_encoder("midnight-12k")
    transformers.error = ValueError("Unrecognized model")
    with pytest.raises(
        EncoderError, match=r"cannot be loaded \(ValueError: Unrec.*It needs the file"
    ):
        load_encoder("midnight-12k", weights=tmp_path)
    with pytest.raises(EncoderError, match=r"w\.pth: no such weights file or folder"):
        load_encoder("midnight-12k", weights=tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "package", "command"),
    [
        ("phikon", "transformers", r"pip install 'parfocal\[transformers\]'"),
        ("conch", "conch", r"pip install git\+https"),
        ("uni", "timm", r"pip install 'parfocal\[timm\]' 'torchvision=="),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch, name, package, command
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EncoderError, match=rf"{name}: .*{package}.*cannot be imported .*{command}"):
        load_encoder(name)


@pytest.fixture
def conch(monkeypatch):
    """A stand-in for the package of CONCH."""
    calls = []

    class Conch(nn.Module):
        def encode_image(self, images, *, proj_contrast, normalize):
            assert not proj_contrast
            assert not normalize
            assert images.shape[2:] == (448, 448)
            return images.mean((2, 3)).repeat(1, 171)[:, :512]

    class Damaged(Conch):
        """A model of which the image encoder and the decoder have no weights."""

        def __init__(self):
            super().__init__()
            self.visual, self.text_decoder = nn.Linear(1, 1), nn.Linear(1, 1)
            self.load_state_dict({}, strict=False)

    module = ModuleType("conch.open_clip_custom")

    def create_model_from_pretrained(architecture, source):
        calls.append((architecture, source))
        return (Damaged() if "damaged" in source else Conch()), None

    module.create_model_from_pretrained = create_model_from_pretrained
    monkeypatch.setitem(sys.modules, "conch", ModuleType("conch"))
    monkeypatch.setitem(sys.modules, "conch.open_clip_custom", module)
    return calls


def test_conch_is_loaded_from_its_package(conch, tmp_path):
    encoder = load_encoder("conch")
    assert encoder(white(size=512)).shape == (1, 512)
    (tmp_path / "pytorch_model.bin").touch()
    load_encoder("conch", weights=tmp_path)
    assert conch == [
        ("conch_ViT-B-16", "hf_hub:MahmoodLab/conch"),
        ("conch_ViT-B-16", str(tmp_path / "pytorch_model.bin")),
    ]
    with pytest.raises(EncoderError, match="no such weights file"):
        load_encoder("conch", weights=tmp_path / "absent.bin")
    (tmp_path / "damaged.bin").touch()
    with pytest.raises(
        EncoderError, match=r"conch: 2 tensors of the image encoder are missing from .*damaged\.bin"
    ):
        load_encoder("conch", weights=tmp_path / "damaged.bin")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for huggingface_hub, which downloads to a folder."""
    module = ModuleType("huggingface_hub")
    module.calls = []

    def hf_hub_download(repository, file, *, repo_type):
        module.calls.append((repository, file, repo_type))
        path = tmp_path / "download.pth"
        torch.save({"model": {"a": torch.ones(1)}}, path)
        return str(path)

    module.hf_hub_download = hf_hub_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_a_bare_file_is_downloaded_and_loaded_into_its_architecture(timm, hub):
    timm.network = Tokens(1024, 1)
    load_encoder("gpfm")
    assert hub.calls == [("majiabo/GPFM", "GPFM.pth", "model")]
    assert timm.calls[0][0] == "vit_large_patch14_dinov2"
    timm.network = Tokens(768, 0)
    encoder = load_encoder("ctranspath")
    assert hub.calls[1] == (
        "MahmoodLab/hest-bench",
        "fm_v1/ctranspath/CHIEF_CTransPath.pth",
        "dataset",
    )
    assert encoder.spec.output == "pooled"
    assert timm.calls[1][1]["embed_layer"].__name__ == "ConvStem"


def test_a_download_that_fails_names_the_page(timm, hub):
    def refuse(*arguments, **settings):
        raise hub_error("GatedRepoError", "403")

    hub.hf_hub_download = refuse
    with pytest.raises(
        EncoderError, match=rf"ctranspath: access .* at {PAGE}datasets/MahmoodLab/he"
    ):
        load_encoder("ctranspath")


def test_a_repository_of_the_catalog_keeps_its_timm_name_and_gets_its_arguments(timm, caplog):
    config = {
        "input_size": (3, 224, 224),
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    timm.data = SimpleNamespace(resolve_model_data_config=lambda _: config)
    timm.network = Tokens(1280, 5)
    timm.network.forward = timm.network.forward_features
    caplog.set_level(logging.WARNING)
    spec = load_encoder("timm:hf-hub:paige-ai/Virchow2").spec
    assert (spec.name, spec.dim) == ("timm:hf-hub:paige-ai/Virchow2", 2560)
    assert (spec.output, spec.prefix_tokens, spec.mpp_range) == ("cls+mean", 5, (0.2, 2.5))
    assert timm.calls[0][1]["mlp_layer"] is timm.layers.SwiGLUPacked
    assert "the name virchow2 prepares patches as its authors do" in caplog.text
