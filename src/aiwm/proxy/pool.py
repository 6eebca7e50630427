"""The connections of one Upstream: those kept for another request, by origin, and all there are."""

from __future__ import annotations

import asyncio

from aiwm.proxy.connection import Connection
from aiwm.web.outbox import Outbox
from aiwm.wire.origins import Origin


class Pool:
    """The last connection kept is the first one taken, so that those not needed grow old and go."""

    __slots__ = ("_all", "_emptied", "_idle", "_idle_seconds", "_max_idle", "outbox")

    def __init__(self, *, max_idle_per_origin: int, idle_seconds: float) -> None:
        self.outbox = Outbox()
        self._max_idle = max_idle_per_origin
        self._idle_seconds = idle_seconds
        # A dict is an ordered set here: the last is taken, the first is evicted, and any one can drop out.
        self._idle: dict[Origin, dict[Connection, None]] = {}
        self._all: set[Connection] = set()
        self._emptied: asyncio.Future[None] | None = None  # There is one once the pool is being closed.

    def take(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection, _ = idle.popitem()
            if connection.usable:
                return connection
        return None

    def add(self, connection: Connection) -> None:
        """A new one, which is about to be used."""
        if self._emptied is not None:
            connection.close()
        elif connection.usable:  # Or it has been closed already, and nobody will tell us again.
            self._all.add(connection)

    async def aclose(self) -> None:
        """Close every connection, whatever it is doing, and wait until the last one is gone."""
        if self._emptied is None:
            self._emptied = asyncio.get_running_loop().create_future()
        for connection in tuple(self._all):
            connection.close()
        if self._all:
            await asyncio.shield(self._emptied)

    # What a connection calls.

    def keep(self, connection: Connection) -> None:
        idle = self._idle.setdefault(connection.origin, {})
        idle[connection] = None
        connection.rest(self._idle_seconds)
        if len(idle) > self._max_idle:
            oldest = next(iter(idle))
            del idle[oldest]
            oldest.close()

    def gone(self, connection: Connection) -> None:
        self._all.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[connection.origin]
        if self._emptied is not None and not self._all and not self._emptied.done():
            self._emptied.set_result(None)
