"""A client retries what may pass, and refuses what a service must not answer, in one line."""

import base64
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.encoders.service.services import QUICK, Request, ScriptedService, description

from parfocal.encoders.service import (
    PatchesError,
    Patience,
    ServiceEncoder,
    ServiceError,
    load_service,
)
from parfocal.encoders.service.connection import ServiceConnections, parse_address
from parfocal.encoders.service.protocol import Limits
from parfocal.encoders.weights import EncoderError
from parfocal.slide.failure import EndsBatch, catch_failure

Answer = tuple[int, dict[str, str], bytes]
WEIGHTS = {"X-Weights-Hash": "random-seed-0"}
SECRET = "s3cr3t-token"


def patches(count: int = 2) -> np.ndarray:
    return np.full((count, 8, 8, 3), np.arange(count)[:, None, None, None], dtype=np.uint8)


def features_of(request: Request) -> torch.Tensor:
    """Return features whose values are the first pixel of each patch."""
    sent = safetensors.torch.load(request.body)["patches"]
    return sent[:, :1, 0, 0].float().expand(-1, 32).contiguous()


def good(request: Request) -> Answer:
    if request.method == "GET":
        return 200, {}, description().to_json()
    return 200, WEIGHTS, safetensors.torch.save({"features": features_of(request)})


def answering(tensor: torch.Tensor, **fields: str) -> Callable[[Request], Answer]:
    """Return a service that describes itself well and answers with a tensor."""

    def answer(request: Request) -> Answer:
        if request.method == "GET":
            return good(request)
        return 200, WEIGHTS | fields, safetensors.torch.save({"features": tensor})

    return answer


def connect(service: ScriptedService) -> ServiceEncoder:
    return load_service(service.address, patience=QUICK)


def test_features_come_back_in_order_with_requests_side_by_side(service: ScriptedService):
    waiting, together = threading.Barrier(3), []

    def answer(request: Request) -> Answer:
        if request.method == "POST":
            waiting.wait(timeout=20)  # passes only if three requests are under way
            together.append(request)
        return good(request)

    service.answer = answer
    features = connect(service)(patches(6))
    assert features[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(together) == 3


def test_a_connection_is_used_again(service: ScriptedService):
    service.answer = good
    encoder = connect(service)
    for _ in range(5):
        encoder(patches())
    assert (len(service.requests), service.connections) == (6, 1)


def test_a_connection_that_the_service_has_closed_is_made_again_without_a_wait(
    service: ScriptedService,
):
    service.answer = good
    encoder = load_service(service.address, patience=Patience(attempts=1))
    cuts = [1]

    def answer(request: Request) -> Answer:
        if cuts:
            cuts.pop()
            raise ConnectionAbortedError
        return good(request)

    service.answer = answer
    assert encoder(patches())[:, 0].tolist() == [0, 1]
    assert service.connections == 2


def test_float16_features_are_accepted(service: ScriptedService):
    service.answer = answering(torch.ones(2, 32, dtype=torch.float16))
    assert connect(service)(patches()).dtype == torch.float32


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_temporary_failure_is_retried(service: ScriptedService, status: int):
    failures = [status, status]

    def answer(request: Request) -> Answer:
        if request.method == "POST" and failures:
            return failures.pop(), {}, b"busy"
        return good(request)

    service.answer = answer
    encoder = connect(service)
    assert encoder(patches())[:, 0].tolist() == [0, 1]
    assert not failures


def test_a_cut_connection_is_retried(service: ScriptedService):
    cuts = [1, 1]

    def answer(request: Request) -> Answer:
        if request.method == "POST" and cuts:
            cuts.pop()
            raise ConnectionAbortedError
        return good(request)

    service.answer = answer
    assert connect(service)(patches())[:, 0].tolist() == [0, 1]


def test_the_wait_grows_and_follows_the_service(
    service: ScriptedService,
):
    waits: list[float] = []
    answers: list[Answer] = [(503, {}, b""), (503, {"Retry-After": "7"}, b""), (503, {}, b"")]
    answers += [(503, {"Retry-After": "9999"}, b"")]

    def answer(request: Request) -> Answer:
        return answers.pop(0) if answers else good(request)

    service.answer = answer
    connections = ServiceConnections(
        parse_address(service.address), Patience(wait_s=0.5), sleep=waits.append
    )
    connections.request("GET", max_bytes=10**5)
    assert waits == [0.5, 7.0, 2.0, 60.0]


def test_a_service_that_stays_away_is_an_error_that_says_so(
    service: ScriptedService, caplog: pytest.LogCaptureFixture
):
    service.answer = lambda request: (503, {}, b"out of memory\n")
    with pytest.raises(ServiceError) as caught:
        connect(service)
    assert str(caught.value) == (
        f"encoder at {service.address}: it answers with status 503 (out of memory) (3 attempts). "
        "Check the address, or start a service there with `parfocal serve-encoder NAME` "
        "(docs/encoder-service.md)."
    )
    assert len(service.requests) == 3
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1  # not one for each attempt


def test_an_address_without_a_service_is_an_error_that_says_so():
    with pytest.raises(ServiceError, match=r"it cannot be reached \(Connection refused\)"):
        load_service("http://127.0.0.1:1/", patience=QUICK)


def test_a_slow_answer_is_given_up(service: ScriptedService):
    release = threading.Event()

    def answer(request: Request) -> Answer:
        if request.method == "POST":
            release.wait(20)
        return good(request)

    service.answer = answer
    patience = Patience(attempts=2, wait_s=0.0, timeout_s=0.2)
    encoder = load_service(service.address, patience=patience)
    with pytest.raises(ServiceError, match=r"does not answer in time \(2 attempts\)"):
        encoder(patches())
    release.set()


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(2, 31), r"shape \(2, 31\), expected \(2, 32\) for 2 patches"),
        (torch.zeros(1, 32), r"shape \(1, 32\), expected"),
        (torch.zeros(64), r"shape \(64,\), expected"),
        (torch.zeros(2, 32, dtype=torch.int32), "type int32, expected float16 or float32"),
        (torch.zeros(2, 32, dtype=torch.bfloat16), "type bfloat16"),
        (torch.zeros(2, 10_000), "answers 80,0.. bytes, expected at most"),
    ],
)
def test_wrong_features_are_refused(service: ScriptedService, tensor: torch.Tensor, reason: str):
    service.answer = answering(tensor)
    encoder = connect(service)
    with pytest.raises(ServiceError, match=reason) as caught:
        encoder(patches())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_fail_the_slide_and_not_the_batch(
    service: ScriptedService, value: float
):
    service.answer = answering(torch.full((2, 32), value))
    encoder = connect(service)
    with pytest.raises(PatchesError, match="features of a batch are not finite") as caught:
        encoder(patches())
    assert not isinstance(caught.value, EndsBatch)


def test_patches_that_a_service_cannot_encode_fail_their_slide_only(service: ScriptedService):
    service.answer = lambda request: (
        good(request) if request.method == "GET" else (422, {}, b"features are not finite")
    )
    encoder = connect(service)
    with catch_failure("a.svs") as attempt:
        encoder(patches())
    assert "it cannot encode a batch (features are not finite)" in str(attempt.reason)
    assert len(service.requests) == 2


def test_credentials_without_encryption_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "netrc"
    path.write_text(f"machine gpu7 password {SECRET}\nmachine 127.0.0.1 password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(path))
    for address in ("https://gpu7/", "http://127.0.0.1/", "http://gpu7/"):
        ServiceConnections(parse_address(address), QUICK)
    (record,) = caplog.records
    assert "http://gpu7/: the credentials are sent without encryption" in record.message


def test_a_service_that_fails_ends_a_batch(service: ScriptedService):
    service.answer = answering(torch.zeros(2, 31))
    encoder = connect(service)
    with pytest.raises(ServiceError), catch_failure("a.svs"):
        encoder(patches())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not in safetensors format"),
        (b"\xff" * 64, "not in safetensors format"),
        (safetensors.torch.save({"x": torch.zeros(2, 32)}), "tensors x, expected features"),
        (
            safetensors.torch.save({"a": torch.zeros(1), "features": torch.zeros(2, 32)}),
            "tensors a, features, expected features",
        ),
    ],
)
def test_a_body_that_is_not_features_is_refused(service: ScriptedService, body: bytes, reason: str):
    service.answer = lambda request: (
        good(request) if request.method == "GET" else (200, WEIGHTS, body)
    )
    encoder = connect(service)
    with pytest.raises(ServiceError, match=reason):
        encoder(patches())


def test_an_answer_shorter_than_announced_is_retried_and_then_refused(service: ScriptedService):
    service.answer = answering(
        torch.zeros(2, 32), **{"Content-Length": "900", "Connection": "close"}
    )
    encoder = connect(service)
    with pytest.raises(ServiceError, match="shorter than announced"):
        encoder(patches())
    assert len(service.requests) == 1 + 3


def test_an_endless_answer_is_cut_off(service: ScriptedService):
    chunked = {"Transfer-Encoding": "chunked", "Connection": "close", "Content-Length": ""}
    content = b"".join(b"%x\r\n%s\r\n" % (1000, bytes(1000)) for _ in range(100)) + b"0\r\n\r\n"
    service.answer = lambda request: (
        good(request) if request.method == "GET" else (200, chunked, content)
    )
    encoder = connect(service)
    with pytest.raises(ServiceError, match="more than 4,352 bytes"):
        encoder(patches())


@pytest.mark.parametrize("found", ["other", None])
def test_a_service_that_changes_its_weights_is_refused(service: ScriptedService, found: str | None):
    headers = {} if found is None else {"X-Weights-Hash": found}

    def answer(request: Request) -> Answer:
        status, _, body = good(request)
        return status, headers, body

    service.answer = answer
    encoder = connect(service)
    with pytest.raises(ServiceError, match="has described 'random-seed-0'"):
        encoder(patches())


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(service: ScriptedService, status: int):
    service.answer = lambda request: (status, {"Location": "http://127.0.0.1:9/?t=1"}, b"")
    with pytest.raises(ServiceError, match="refers to another address, which is not followed"):
        connect(service)
    assert len(service.requests) == 1


def test_a_request_that_is_refused_is_not_sent_again(service: ScriptedService):
    service.answer = lambda request: (404, {}, b"<html>no such page</html>")
    with pytest.raises(ServiceError, match=r"it answers with status 404\. Check the address, or"):
        connect(service)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("line", "header"),
    [
        (f"login ann password {SECRET}", f"ann:{SECRET}"),
        (f"password {SECRET}", None),
    ],
)
def test_credentials_come_from_netrc_and_are_in_no_message(
    service: ScriptedService, caplog: pytest.LogCaptureFixture, line: str, header: str | None
):
    Path(os.environ["NETRC"]).write_text(f"machine 127.0.0.1 {line}\n")
    service.answer = lambda request: (500, {}, b"")
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ServiceError) as caught:
        connect(service)
    expected = f"Bearer {SECRET}"
    if header is not None:
        expected = "Basic " + base64.b64encode(header.encode()).decode()
    assert service.requests[0].headers["authorization"] == expected
    assert SECRET not in str(caught.value) + caplog.text
    service.answer = good
    assert SECRET not in repr(connect(service).spec)


def test_credentials_of_another_host_are_not_sent(service: ScriptedService):
    Path(os.environ["NETRC"]).write_text(f"machine example.org login ann password {SECRET}\n")
    service.answer = good
    connect(service)
    assert "authorization" not in service.requests[0].headers


def test_refused_access_says_where_credentials_belong(service: ScriptedService):
    service.answer = lambda request: (401, {}, b"")
    with pytest.raises(ServiceError, match=r"refuses access \(status 401\). Add its host .* netrc"):
        connect(service)


def test_a_damaged_netrc_is_an_error_without_its_content(service: ScriptedService):
    Path(os.environ["NETRC"]).write_text(f"machine 127.0.0.1 secret {SECRET}\n")
    with pytest.raises(EncoderError, match="line 1: not a valid netrc file") as caught:
        connect(service)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (f"http://ann:{SECRET}@gpu/", "contains a user name or a password"),
        (f"http://{SECRET}@gpu/", "contains a user name"),
        (f"http://gpu/?token={SECRET}", "query or a fragment"),
        ("http:///uni", "not an address"),
        ("http://gpu:port/", "Port could not be cast"),
        ("http://gpu/a b", "ASCII characters only"),
    ],
)
def test_an_address_is_checked_before_anything_is_sent(address: str, reason: str):
    with pytest.raises(ValueError, match=reason) as caught:
        load_service(address)
    assert SECRET not in str(caught.value)


def change(**changes: object) -> Callable[[dict[str, object]], object]:
    return lambda content: content | changes


def change_encoder(**changes: object) -> Callable[[dict[str, object]], object]:
    return lambda content: content | {"encoder": content["encoder"] | changes}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (change(format="other"), "not of the format"),
        (change(format_version=2), "version 2, and this parfocal reads version 1"),
        (change(encoder=None), "encoder: None is not a mapping"),
        (change(batch_size=0), "batch_size: 0 is not in 1..1024"),
        (change(requests=10**6), "requests: 1000000 is not in 1..32"),
        (change(macs_per_patch=-1), "macs_per_patch: -1 is negative"),
        (change(macs_per_patch="many"), "'many' is not a whole number"),
        (change_encoder(dim=2**40), "dim: 1099511627776 is not in"),
        (change_encoder(dim="1"), "dim: '1' is not a whole number"),
        (change_encoder(weights_hash=""), "weights_hash: empty"),
        (change_encoder(std=[0, 0, 0]), "std: .* is not positive"),
        (lambda content: [1], "not of the format"),
    ],
)
def test_a_wrong_description_is_refused(
    service: ScriptedService, alter: Callable[[dict[str, object]], object], reason: str
):
    content = json.dumps(alter(json.loads(description().to_json()))).encode()
    service.answer = lambda request: (200, {}, content)
    remedy = r"start a service there with `parfocal serve-encoder NAME` \(docs/encoder-service.md\)"
    with pytest.raises(ServiceError, match=f"not an encoder service: .*{reason}.*{remedy}"):
        connect(service)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[" * 5000])
def test_a_page_that_is_no_description_is_refused(service: ScriptedService, body: bytes):
    service.answer = lambda request: (200, {}, body)
    with pytest.raises(ServiceError, match="did not describe itself in JSON"):
        connect(service)


def test_a_service_may_leave_out_what_has_a_default(service: ScriptedService):
    content = json.loads(description().to_json())
    for key in ("batch_size", "requests", "macs_per_patch"):
        del content[key]
    content["encoder"]["address"] = "http://elsewhere/"  # not for a service to decide
    content["later"] = 1
    body = json.dumps(content).encode()
    service.answer = lambda request: (200, {}, body)
    encoder = connect(service)
    assert (encoder.batch_size, encoder.workers) == (Limits().batch_size, Limits().requests)
    assert encoder.macs_per_patch() is None
    assert encoder.spec.address == service.address
