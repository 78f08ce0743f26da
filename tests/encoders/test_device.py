import pytest
import torch

from parfocal.encoders.device import choose_device


def test_an_unknown_device_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match="'gpu' is not known; choose auto, cpu, cuda or cuda:1"):
        choose_device("gpu")


def test_a_missing_gpu_is_an_error_except_with_auto(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"'cuda': torch .* finds no CUDA device; use cpu"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")
