"""Connections of the viewer's server: none waits for a request for long, and all end at once."""

import asyncio
import socket
import threading

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_TIMEOUT_S = 10.0  # for the line and the headers of a request
POLL_S = 0.2  # Windows does not interrupt a wait by Ctrl-C
TIMEOUT_RESPONSE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class TimedConnection(H11Protocol):
    """A connection that is closed if the client does not complete a request in time.

    uvicorn has such a limit only between two requests. Without one, a client that sends its headers
    byte by byte could keep any number of connections open.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first request."""
        super().connection_made(transport)
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        """Stop the timer if the request is complete."""
        super().data_received(data)
        self._set_timer()

    def on_response_complete(self) -> None:
        """Start the timer of the next request."""
        super().on_response_complete()
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        is_waiting = self.cycle is None or self.cycle.response_complete
        if is_waiting and self._timer is None:
            self._timer = self.loop.call_later(REQUEST_TIMEOUT_S, self._give_up)
        elif not is_waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(TIMEOUT_RESPONSE)
            self.transport.close()


def run_server(app: ASGIApp, listening: socket.socket) -> None:
    """Serve an application until a KeyboardInterrupt, which ends it at once.

    Responses that are under way are cut off, and threads that still read a slide are left behind.

    Args:
        app: the application.
        listening: socket to serve on.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    config = uvicorn.Config(
        app,
        http=TimedConnection,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    # Threads that a daemon thread starts are daemons, too, so the program does not wait for them.
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listening]}, name="viewer", daemon=True
    )
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_S)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(2 * POLL_S)
