"""A seat at one of our engines, lent to a request for as long as that takes."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

from aiwm.errors import ClientGone, Unavailable, UpstreamUnreachable
from aiwm.targets import Hosted, Seat, Target
from aiwm.web.call import Call

_TIMES_REACHED = 2
"""How many engines that had got the request may have failed over it. It could be the request that kills them."""


class Loan:
    """`async with Loan(hosted, call) as loan`: waits until an engine is ready. Raises what `Hosted.borrow` raises."""

    __slots__ = ("_began", "_call", "_hosted", "_reached", "_seat")

    def __init__(self, hosted: Hosted, call: Call) -> None:
        self._hosted = hosted
        self._call = call
        self._seat: Seat | None = None
        self._reached = 0
        self._began = time.monotonic()

    @property
    def target(self) -> Target:
        assert self._seat is not None  # noqa: S101 - narrows the type
        return self._seat.target

    async def elsewhere(self, error: UpstreamUnreachable) -> bool:
        """After a failure: whether there is another target now, if need be after waiting for it."""
        failed = self._seat
        self._reached += error.reached
        if self._reached > _TIMES_REACHED or time.monotonic() - self._began > self._hosted.hold_seconds:
            return False
        self._give_back()
        self._seat = await self._hosted.borrow(avoid=failed)
        return True

    async def __aenter__(self) -> Self:
        call, task = self._call, asyncio.current_task()
        if call.gone:
            raise ClientGone
        if task is not None:
            call.on_gone = task.cancel  # Who does not wait any more takes no place among those who do.
        try:
            self._seat = await self._hosted.borrow()
        except asyncio.CancelledError:
            if call.gone:
                raise ClientGone from None
            raise Unavailable("AIWM is stopping; send the request again") from None
        finally:
            call.on_gone = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def _give_back(self) -> None:
        seat, self._seat = self._seat, None
        if seat is not None:
            self._hosted.give_back(seat)
