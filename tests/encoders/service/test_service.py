"""A client and the reference server give the features of the encoder that runs here."""

import http.client
import json
from urllib.parse import urlsplit

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.encoders.service import services

from parfocal.encoders.loading import load_encoder
from parfocal.encoders.service import PatchesError, load_service
from parfocal.encoders.service.protocol import MAX_REQUEST_BYTES


def patches(count: int, size: int = 64) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def post(address: str, body: bytes, **headers: str) -> tuple[int, str]:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    connection.request("POST", "/", body=body, headers=headers)
    response = connection.getresponse()
    answer = response.status, response.read().decode(errors="replace")
    connection.close()
    return answer


@pytest.mark.parametrize("count", [0, 1, 5, 150])
def test_features_are_those_of_the_encoder_that_runs_here(address: str, count: int):
    here, there = load_encoder("tiny"), load_service(address)
    pixels = patches(count)
    torch.testing.assert_close(there(pixels), here(pixels), rtol=1e-5, atol=1e-6)


def test_the_encoder_is_described_as_the_one_that_runs_here(address: str):
    here, there = load_encoder("tiny"), load_service(address)
    assert there.spec == here.spec
    assert there.spec.address == address
    assert there.macs_per_patch() == here.macs_per_patch()


def test_patches_of_any_size_are_encoded_as_here(address: str):
    here, there = load_encoder("tiny"), load_service(address)
    pixels = patches(3, size=96)
    torch.testing.assert_close(there(pixels), here(pixels), rtol=1e-5, atol=1e-6)


def test_the_description_is_json_that_a_person_can_read(address: str):
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    connection.request("GET", "/")
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert (answer["format"], answer["format_version"]) == ("parfocal encoder service", 1)
    assert answer["encoder"]["name"] == "tiny"
    assert answer["encoder"]["dim"] == 32
    assert answer["encoder"]["weights_hash"] == "random-seed-0"


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"patches": torch.zeros(2, 8, 8, 3)}, "type float32"),
        ({"patches": torch.zeros(8, 8, 3, dtype=torch.uint8)}, r"shape \(8, 8, 3\)"),
        ({"patches": torch.zeros(0, 8, 8, 3, dtype=torch.uint8)}, "no pixels"),
        ({"tiles": torch.zeros(1, 8, 8, 3, dtype=torch.uint8)}, "tensors tiles, expected patches"),
    ],
)
def test_the_server_refuses_other_tensors(
    address: str, tensors: dict[str, torch.Tensor], reason: str
):
    status, text = post(address, safetensors.torch.save(tensors))
    assert status == 400
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(text)


def test_the_server_refuses_a_body_whose_header_lies(address: str):
    body = safetensors.torch.save({"patches": torch.zeros(1, 8, 8, 3, dtype=torch.uint8)})
    assert post(address, body[:-5])[0] == 400
    assert post(address, b"\xff" * 100)[0] == 400
    assert post(address, b"")[0] == 400


def test_the_server_refuses_a_body_that_is_too_large(address: str):
    status, text = post(address, bytes(MAX_REQUEST_BYTES + 1))
    assert (status, text) == (413, "send at most 67,108,864 bytes")


def test_the_server_says_which_patches_it_cannot_encode(monkeypatch: pytest.MonkeyPatch):
    encoder = load_encoder("tiny")
    encoder.network.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    monkeypatch.setattr(services, "load_encoder", lambda name: encoder)
    with (
        services.served() as broken,
        pytest.raises(PatchesError, match=r"cannot encode a batch \(.*not finite"),
    ):
        load_service(broken)(patches(1))


def test_the_server_answers_only_under_the_names_of_this_machine(address: str):
    assert post(address, b"", Host="example.org")[0] == 400


def test_a_large_patch_is_refused_before_it_is_sent(address: str):
    there = load_service(address)
    with pytest.raises(ValueError, match="5000 x 5000 pixels are too large"):
        there(np.broadcast_to(np.uint8(0), (1, 5000, 5000, 3)))
