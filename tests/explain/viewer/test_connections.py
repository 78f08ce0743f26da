"""Connections that do not complete a request, and the end of the server."""

import signal
import socket
import subprocess
import sys
import time

import pytest

from parfocal.explain.viewer import connections

REQUEST = b"GET /api/slides HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW = """
import signal, sys, time
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from parfocal.explain.viewer import listen
from parfocal.explain.viewer.connections import run_server

signal.signal(signal.SIGINT, signal.default_int_handler)

def slow(request):
    print("started", flush=True)
    time.sleep(600)
    return Response("done")

with listen("127.0.0.1", 0) as listening:
    print(listening.getsockname()[1], flush=True)
    try:
        run_server(Starlette(routes=[Route("/", slow)]), listening)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", 0.3)


def connect(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def receive_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_headers_that_never_end_are_cut_off(server, quick):
    with connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        received, sent = b"", 0
        connection.settimeout(0.05)
        while not received and sent < 1000:
            try:
                connection.sendall(f"X-{sent}: a\r\n".encode())
                sent += 1
                received = connection.recv(65536)
            except TimeoutError:
                continue
        assert received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")


@pytest.mark.parametrize("start", [b"", b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_silent_client_is_cut_off(server, quick, start):
    with connect(server) as connection:
        connection.sendall(start)
        assert receive_all(connection).startswith(b"HTTP/1.1 408 ")


def test_a_second_request_that_never_ends_is_cut_off(server, quick):
    with connect(server) as connection:
        connection.sendall(REQUEST + b"GET / HTT")
        received = receive_all(connection)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"HTTP/1.1 408 Request Timeout\r\n" in received


def test_one_connection_serves_many_requests(server, quick):
    with connect(server) as connection:
        for _ in range(4):
            connection.sendall(REQUEST)
            time.sleep(0.15)  # together longer than the limit of one
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_ctrl_c_ends_the_server_at_once_although_a_request_is_slow():
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert process.stdout.readline() == "started\n"
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=120)  # the request takes 600 s
    assert (process.returncode, out, errors) == (0, "interrupted\n", "")
