"""What a worker says to the others, and hears from them. A program of one process has no siblings: nothing to say."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final

from aiwm.errors import Unavailable
from aiwm.metering.counts import Counting
from aiwm.metering.tallies import Tally
from aiwm.workers.line import Gone, Hear, Line
from aiwm.workers.shared import SharedCounts
from aiwm.workers.switchboard import LEADER

_ANSWER_SECONDS: Final = 15.0


class Siblings:
    """Of one who has none."""

    number: int | None = None
    leads = True
    """Whether this process does what only one may do."""

    counts: Counting | None = None
    """What is taken of limits, if it is counted elsewhere."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}

    def lock(self, name: str) -> AbstractAsyncContextManager[Any]:
        """Held by one at a time, in all workers."""
        return self._locks.setdefault(name, asyncio.Lock())

    async def join(self, hear: Hear) -> None:
        """From now on `hear` is called with what others say; before anything is read that they may change."""

    async def part(self) -> None:
        """Nothing is heard any more, and nothing is going on that was heard: what it works on is about to be closed."""

    async def changed(self, what: str, *values: Any) -> None:
        """Returns when no other worker goes by what was before the change, which is in the database."""

    async def ask(
        self,
        name: str,  # noqa: ARG002 - nobody hears it
        *values: Any,  # noqa: ARG002
        seconds: float | None = _ANSWER_SECONDS,  # noqa: ARG002
    ) -> list[Any]:
        """What the others answer; those that died say nothing. Raises Unavailable when one of them can't."""
        return []

    async def tallies(self, own: Tally) -> list[Tally]:  # noqa: ARG002 - nobody wants to know
        """What others have counted, and those that are no more."""
        return []

    def tell(self, name: str, *values: Any) -> None:
        """To all others. What is asked or changed after it, they hear after it."""

    def lead(self, name: str, *values: Any) -> None:
        """To the worker that leads."""

    async def deaths(self) -> list[int]:
        """Of workers whose journals are still to be moved into the ledger."""
        return []

    def mourned(self, deaths: list[int]) -> None:
        """What those have left is moved."""

    def ready(self) -> None:
        """This one serves."""

    async def alone(self) -> None:
        """Returns when all others have come to their end."""


class Joined(Siblings):
    """Of a worker: `number` is its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.leads = number == LEADER
        self._hear: dict[str, Callable[..., Any]] = {}
        self._line = Line(self._hear)

    @asynccontextmanager
    async def on(self, descriptor: int, *, orphaned: Callable[[], None]) -> AsyncIterator[None]:
        """`orphaned` is called when the parent has died: nobody would start or stop this process any more."""
        self._line = Line(self._hear, ended=orphaned)
        self.counts = SharedCounts(self._line)
        os.set_inheritable(descriptor, False)
        await self._line.open(socket.socket(fileno=descriptor))
        try:
            yield
        finally:
            self._line.close()

    def lock(self, name: str) -> AbstractAsyncContextManager[Any]:
        return self._locked(name)

    @asynccontextmanager
    async def _locked(self, name: str) -> AsyncIterator[None]:
        taking = asyncio.ensure_future(self._line.ask("lock", name))
        try:
            await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(lambda _: self._line.tell("unlock", name))
            raise
        except Gone:
            raise Unavailable("AIWM is stopping; send the request again") from None
        try:
            yield
        finally:
            self._line.tell("unlock", name)

    async def join(self, hear: Hear) -> None:
        self._hear.update(hear)
        with suppress(Gone):
            await self._line.ask("join")

    async def part(self) -> None:
        with suppress(Gone):
            await self._line.ask("part")
        await self._line.finish()

    async def changed(self, what: str, *values: Any) -> None:
        with suppress(Gone):  # Without a parent all come to their end.
            await self._line.ask("changed", what, *values)

    async def ask(self, name: str, *values: Any, seconds: float | None = _ANSWER_SECONDS) -> list[Any]:
        try:
            async with asyncio.timeout(seconds):
                told = await self._line.ask("others", name, *values)
        except Gone:
            return []
        except TimeoutError:
            raise Unavailable("A worker does not answer; try again") from None
        for well, value in told:
            if not well:
                raise Unavailable(value)
        return [value for _, value in told]

    async def tallies(self, own: Tally) -> list[Tally]:
        with suppress(Gone):
            return list(await self._line.ask("tallies", own))
        return []

    def tell(self, name: str, *values: Any) -> None:
        self._line.tell("tell", name, *values)

    def lead(self, name: str, *values: Any) -> None:
        self._line.tell("lead", name, *values)

    async def deaths(self) -> list[int]:
        with suppress(Gone):
            return list(await self._line.ask("deaths"))
        return []

    def mourned(self, deaths: list[int]) -> None:
        self._line.tell("mourned", deaths)

    def ready(self) -> None:
        self._line.tell("ready")

    async def alone(self) -> None:
        with suppress(Gone):
            await self._line.ask("alone")
