"""A service that encodes patches for other computers, as docs/encoder-service.md describes.

It encodes one request at a time, with all cores or the whole GPU.
"""

import threading

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from parfocal.encoders.batches import PatchMemoryError
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.service.protocol import (
    BODY_TYPE,
    MAX_REQUEST_BYTES,
    WEIGHTS_HEADER,
    Description,
    Limits,
    ProtocolError,
    features_body,
    parse_patches,
)
from parfocal.encoders.weights import EncoderError

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]", "::1")
SERVED_BATCH_SIZE = 64


def build_service(encoder: Encoder, *, any_host: bool = False) -> Starlette:
    """Build the web application that serves an encoder.

    Args:
        encoder: encoder to serve.
        any_host: whether to accept requests for any host name. If False, only the names of this
            machine are accepted, so that no web page can use the service.
    """
    limits = Limits(batch_size=max(1, min(encoder.batch_size, SERVED_BATCH_SIZE)))
    description = Description(encoder.spec, encoder.macs_per_patch(), limits).to_json()
    lock = threading.Lock()

    def encode(body: bytes) -> bytes:
        patches = parse_patches(body)
        with lock:
            return features_body(encoder(patches))

    async def respond(request: Request) -> Response:
        if request.method != "POST":
            return Response(description, media_type="application/json")
        body = bytearray()
        async for block in request.stream():
            body += block
            if len(body) > MAX_REQUEST_BYTES:
                return PlainTextResponse(f"send at most {MAX_REQUEST_BYTES:,} bytes", 413)
        try:
            answer = await run_in_threadpool(encode, bytes(body))
        except ProtocolError as error:
            return PlainTextResponse(str(error), 400)
        except (EncoderError, PatchMemoryError) as error:
            return PlainTextResponse(" ".join(str(error).split()), 422)
        headers = {WEIGHTS_HEADER: encoder.spec.weights_hash}
        return Response(answer, media_type=BODY_TYPE, headers=headers)

    hosts = ["*"] if any_host else list(LOOPBACK_NAMES)
    return Starlette(
        routes=[Route("/", respond, methods=["GET", "POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
    )
