"""What another process that serves the same ports has changed: taken over before anybody is told that it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiwm.logs import Log

_READ_SECONDS: Final = 3.0
_TRY_AGAIN_SECONDS: Final = 0.5

_log = Log(__name__)

Work = Callable[[], Awaitable[object]]


class Changes:
    """Reads again what has changed. While that can't be read, `withhold` keeps what was known from being used."""

    def __init__(self) -> None:
        self._owed: set[asyncio.Task[None]] = set()

    async def taken(self, read: Work, *, withhold: Callable[[], None] = lambda: None) -> None:
        """Returns soon, whatever becomes of it: another process waits for this one."""
        try:
            async with asyncio.timeout(_READ_SECONDS):
                await read()
        except Exception as error:  # noqa: BLE001 - whatever it is, what was known is not true any more
            _log.warning("what another worker has changed can't be read; it is tried again", reason=repr(error))
            withhold()
            task = asyncio.create_task(self._at_last(read))
            self._owed.add(task)
            task.add_done_callback(self._owed.discard)

    async def aclose(self) -> None:
        for task in self._owed:
            task.cancel()
        await asyncio.gather(*self._owed, return_exceptions=True)

    async def _at_last(self, read: Work) -> None:
        while True:
            await asyncio.sleep(_TRY_AGAIN_SECONDS)
            try:
                await read()
            except Exception as error:  # noqa: BLE001 - as above
                _log.debug("it can't be read yet", reason=repr(error))
            else:
                return
