"""The HTTP server: uvicorn on sockets that were bound before, stopped by signals, drained within a time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from aiwm.domain.ids import new_id
from aiwm.errors import Invalid, StartError
from aiwm.web.errors import render

_KEEP_ALIVE_SECONDS = 75
"""Longer than callers keep idle connections (60 s is usual): who sends the next request should close first."""
_MAX_HEADER_BYTES = 64 * 1024
"""Of one request, its target included."""
_BACKLOG = 2048
_LAST_STEPS_SECONDS = 5
"""What cancelled requests get to write their ledger rows."""


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 with a limit on what stands before the body, and with our own answer to what is no HTTP."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._room = _MAX_HEADER_BYTES

    def on_url(self, url: bytes) -> None:
        self._take(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._take(len(name) + len(value))
        super().on_header(name, value)

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            # The parser stops here, and `send_400_response` closes the connection.
            raise ValueError("the head of the request is too large")

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text; ours says more
        """Called where there is no request for the application to answer."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            # An answer is on its way: bytes of another would become part of it.
            self.transport.close()
            return
        error = Invalid(f"This is no HTTP/1.1 request, or its head is larger than {_MAX_HEADER_BYTES} bytes")
        _, headers, body = render(error, path="", correlation_id=new_id())
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n%bconnection: close\r\n\r\n%b" % (lines, body))
        self.transport.close()


class Server(uvicorn.Server):
    """One server for all ports. `draining` from the first signal on; a second one ends it at once."""

    def __init__(self, app: ASGIApp, *, drain_seconds: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=drain_seconds,
            )
        )

    interrupted = False
    """Whether it was a person at the keyboard who stopped it."""

    @property
    def draining(self) -> bool:
        return self.should_exit

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's, but the process does not die of the signal afterwards: it exits with 0."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _interrupt(self) -> None:
        self.interrupted = True
        self.stop()

    def stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    async def run_on(self, sockets: Sequence[socket.socket]) -> None:
        """Serves until stopped, and until the last request has come to its end or was cancelled."""
        await self.serve(sockets=list(sockets))
        if tasks := list(self.server_state.tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_LAST_STEPS_SECONDS)


@contextlib.contextmanager
def bound(addresses: Mapping[str, tuple[str, int, str]]) -> Iterator[Mapping[str, socket.socket]]:
    """All listeners or none: each (host, port, setting), by name. Closed at the end."""
    with contextlib.ExitStack() as opened:
        yield {name: opened.enter_context(bind(*address)) for name, address in addresses.items()}


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises StartError naming the setting to change."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
    except OSError as error:
        raise StartError(f"{host} is not an address of this machine ({error.strerror}): set AIWM_HOST") from error
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # At once: two programs may both bind an address that neither listens on yet.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StartError(
                f"port {port} on {host} is taken: stop the program that has it, or set {setting}"
            ) from error
        raise StartError(
            f"can't listen on port {port} of {host} ({error.strerror}): set {setting} or AIWM_HOST"
        ) from error
    listener.set_inheritable(False)
    return listener
