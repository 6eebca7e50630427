"""What is written in one turn of the loop, sent together at its end.

To send wakes the process that waits for it, and to wake a sleeping one costs about as much as all else that is done for
a request. One send close behind the other finds it awake: with many calls at once, most wake nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_ALONE_SECONDS = 0.001
"""What comes so long after the one before it goes out at once: there is nothing to wait for."""
_LARGE = 16 * 1024
"""To copy this takes longer than to wake somebody, and a transport that is full says so only when it is written to."""


class Outbox:
    """For the transports of one loop. What one of them is given stays in order as long as all goes through here."""

    __slots__ = ("_clock", "_last", "_waiting", "first")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` counts seconds."""
        self.first: Callable[[], object] = _nothing
        """Done each time before anything is sent."""
        self._clock = clock
        self._last = -_ALONE_SECONDS
        self._waiting: list[tuple[asyncio.WriteTransport, bytes]] = []

    def write(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        if len(data) > _LARGE:
            self.flush()
        elif self._waiting:
            self._waiting.append((transport, data))
            return
        now = self._clock()
        alone = now - self._last >= _ALONE_SECONDS
        self._last = now
        if alone or len(data) > _LARGE:
            self.first()
            transport.write(data)
        else:
            asyncio.get_running_loop().call_soon(self.flush)
            self._waiting.append((transport, data))

    def flush(self) -> None:
        """Sends what waits. To be called before anything else is done with a transport that may have something here."""
        waiting, self._waiting = self._waiting, []
        try:
            self.first()
        finally:
            # Whatever is wrong there: what is kept back now would keep back all that comes behind it.
            for transport, data in waiting:
                if not transport.is_closing():
                    transport.write(data)
            if waiting:
                self._last = self._clock()


def _nothing() -> None:
    pass
