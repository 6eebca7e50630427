"""The server: on listeners that were bound before, stopped by signals, drained within a time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence

from aiwm.listeners import BACKLOG
from aiwm.logs import Log
from aiwm.web.call import Application
from aiwm.web.connection import Connection, Crowd, Patience

_log = Log(__name__)

_LAST_STEPS_SECONDS = 5
"""What cancelled requests get to write their ledger rows."""


class Server:
    """One server for all ports: `applications` by port, looked up when a connection comes.

    `draining` from the first signal on; a second one ends it at once.
    """

    def __init__(
        self, applications: Mapping[int, Application], *, drain_seconds: float, patience: Patience | None = None
    ) -> None:
        self._applications = applications
        self._drain_seconds = drain_seconds
        self._patience = patience or Patience()
        self._crowd = Crowd()
        self._stopped = asyncio.Event()
        self._hurried = asyncio.Event()
        self.interrupted = False
        """Whether it was a person at the keyboard who stopped it."""

    def before_sending(self, work: Callable[[], object]) -> None:
        """`work` is done each time before anything is sent to callers."""
        self._crowd.outbox.first = work

    @property
    def draining(self) -> bool:
        return self._stopped.is_set()

    def _interrupt(self) -> None:
        self.interrupted = True
        self.stop()

    def stop(self) -> None:
        if self._stopped.is_set():
            self._hurried.set()
        self._stopped.set()

    async def run_on(self, sockets: Sequence[socket.socket], *, ready: Callable[[], None] = lambda: None) -> None:
        """Serves until stopped, and until the last request has come to its end or was cancelled.

        `ready` is called when it listens on all.
        """
        loop = asyncio.get_running_loop()
        with _signals(terminate=self.stop, interrupt=self._interrupt):
            listening = [
                await loop.create_server(self._connection, sock=listener, backlog=BACKLOG) for listener in sockets
            ]
            ready()
            await self._stopped.wait()
            for server in listening:
                server.close()
            for connection in tuple(self._crowd.connections):
                connection.stop()
            await self._drained()

    def _connection(self) -> Connection:
        return Connection(self._applications.__getitem__, self._crowd, self._patience)

    async def _drained(self) -> None:
        hurried = asyncio.ensure_future(self._hurried.wait())
        finished = asyncio.ensure_future(self._crowd.emptied())
        await asyncio.wait((hurried, finished), timeout=self._drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        finished.cancel()
        if tasks := tuple(self._crowd.tasks):
            _log.warning("requests that did not end in time are broken off", requests=len(tasks))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_LAST_STEPS_SECONDS)
        for connection in tuple(self._crowd.connections):
            connection.abort()


@contextlib.contextmanager
def _signals(*, terminate: Callable[[], None], interrupt: Callable[[], None]) -> Iterator[None]:
    """The process does not die of them: it comes to its end, and exits with 0."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, terminate)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
