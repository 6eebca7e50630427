"""The HTTP server: uvicorn on sockets that were bound before, stopped by signals, drained within a time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Iterator, Sequence

import uvicorn
from starlette.types import ASGIApp

from aiwm.errors import StartError

_KEEP_ALIVE_SECONDS = 75
"""Longer than callers keep idle connections (60 s is usual): who sends the next request should close first."""
_MAX_HEADER_BYTES = 64 * 1024
_LAST_STEPS_SECONDS = 5
"""What cancelled requests get to write their ledger rows."""


class Server(uvicorn.Server):
    """One server for all ports. `draining` from the first signal on; a second one ends it at once."""

    def __init__(self, app: ASGIApp, *, drain_seconds: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=drain_seconds,
                h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            )
        )

    @property
    def draining(self) -> bool:
        return self.should_exit

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's, but the process does not die of the signal afterwards: it exits with 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

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
