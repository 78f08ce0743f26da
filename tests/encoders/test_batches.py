import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from parfocal.encoders import batches, encoder
from parfocal.encoders.batches import PatchMemoryError, fitting_batch, is_out_of_memory
from parfocal.encoders.encoder import NetworkEncoder
from parfocal.encoders.spec import EncoderSpec
from parfocal.encoders.weights import EncoderError

ERRORS = {
    "cuda": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "runtime": RuntimeError("CUDA error: out of memory"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    "cpu": RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
}


class Limited(nn.Module):
    """A network that averages colors and has memory for a limited number of images."""

    def __init__(self, most, error, *, scale=1.0):
        super().__init__()
        self.most, self.error, self.scale = most, error, scale
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise self.error
        return x.mean((2, 3)) * self.scale


def limited_encoder(network, *, batch_size, dim=3):
    spec = EncoderSpec(
        name="limited",
        dim=dim,
        input_size=2,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        mpp_range=(0.05, 50.0),
        license="none",
        weights_hash="0" * 16,
    )
    made = NetworkEncoder(spec, network)
    made._batch_size = batch_size
    return made


def gray_patches(count):
    grays = np.arange(count, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(grays, (count, 2, 2, 3)).copy()


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_a_batch_that_does_not_fit_is_halved_until_it_does(error, caplog):
    caplog.set_level(logging.INFO)
    made = limited_encoder(Limited(3, error), batch_size=16)
    features = made(gray_patches(40))
    assert (features[:, 0] * 255).round().tolist() == list(range(40))
    assert made.batch_size == 2
    assert made.network.sizes[:4] == [16, 8, 4, 2]
    assert made.network.sizes.count(16) == 1  # later batches start at the size that fits
    assert "limited: out of memory; now 2 patches at once" in caplog.text


def test_a_single_patch_that_does_not_fit_is_an_error_that_says_what_to_do():
    made = limited_encoder(Limited(0, ERRORS["cuda"]), batch_size=4)
    message = (
        r"encoder limited: cpu has no memory for a single patch \(CUDA out of memory.*--device"
    )
    with pytest.raises(PatchMemoryError, match=message):
        made(gray_patches(4))


def test_another_error_of_the_network_is_raised_at_once():
    made = limited_encoder(Limited(0, RuntimeError("shapes cannot be multiplied")), batch_size=4)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        made(gray_patches(4))
    assert made.network.sizes == [4]


@pytest.mark.parametrize("scale", [float("inf"), float("nan")])
def test_features_that_are_not_finite_are_refused(scale):
    made = limited_encoder(Limited(9, None, scale=scale), batch_size=4)
    with pytest.raises(
        EncoderError, match=r"the features of 4 of 4 patches are not finite\. Its wei"
    ):
        made(gray_patches(4) + 1)


def test_another_number_of_features_than_described_is_refused():
    made = limited_encoder(Limited(9, None), batch_size=4, dim=5)
    with pytest.raises(EncoderError, match=r"returns features of shape \(3,\), and its .* says 5"):
        made(gray_patches(1))


class FakeCuda:
    """The memory of a CUDA device, of which each image takes a fixed amount."""

    def __init__(self, *, free, reserved=0, per_image):
        self.free, self.reserved, self.per_image, self.peak = free, reserved, per_image, 0
        self.memory_allocated = lambda device: 0
        self.memory_reserved = lambda device: self.reserved
        self.reset_peak_memory_stats = lambda device: None
        self.max_memory_allocated = lambda device: self.peak
        self.mem_get_info = lambda device: (self.free, 10 * self.free)

    def run(self, images):
        self.peak = self.per_image * len(images)


@pytest.mark.parametrize(
    ("free", "reserved", "per_image", "expected"),
    [
        (1000, 0, 1, 256),  # the largest batch
        (1000, 0, 10, 80),  # 80% of the free memory
        (500, 500, 10, 80),  # what torch holds and does not use is free
        (1000, 0, 11, 72),  # a multiple of 8
        (1000, 0, 150, 5),
        (1000, 0, 5000, 1),
    ],
)
def test_a_batch_takes_four_fifths_of_the_free_memory(
    monkeypatch, free, reserved, per_image, expected
):
    cuda = FakeCuda(free=free, reserved=reserved, per_image=per_image)
    monkeypatch.setattr(batches.torch, "cuda", cuda)
    assert fitting_batch(cuda.run, torch.zeros(4, 3, 2, 2), most=256) == expected


def test_a_probe_that_does_not_fit_gives_single_patches(monkeypatch):
    monkeypatch.setattr(batches.torch, "cuda", FakeCuda(free=1, per_image=1))

    def run(images):
        raise ERRORS["runtime"]

    assert fitting_batch(run, torch.zeros(4, 3, 2, 2), most=256) == 1


def test_only_errors_of_memory_are_taken_for_such():
    assert all(is_out_of_memory(error) for error in ERRORS.values())
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("device-side assert triggered"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    ("precision", "capability", "expected"),
    [
        ("fp16", (7, 0), torch.float16),
        ("fp16", (6, 1), None),
        ("bf16", (8, 0), torch.bfloat16),
        ("bf16", (7, 5), None),
        ("fp32", (9, 0), None),
    ],
)
def test_a_gpu_computes_in_the_precision_of_the_encoder_if_it_has_it(
    monkeypatch, precision, capability, expected
):
    cuda = SimpleNamespace(get_device_capability=lambda device: capability)
    monkeypatch.setattr(encoder.torch, "cuda", cuda)
    assert encoder._native_type(precision, torch.device("cuda")) is expected
    assert encoder._native_type(precision, torch.device("cpu")) is None
