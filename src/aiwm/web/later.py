"""An application that takes long to make: it is made on a thread, beside what answers already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiwm.web.call import Application, Call


class Later:
    """Who calls it before it is made waits for it. If it can't be made, every call raises why."""

    def __init__(self, make: Callable[[], Application]) -> None:
        self._make = make
        self._made: asyncio.Future[Application] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Makes it; to be called once. Raises nothing."""
        try:
            self._made.set_result(await asyncio.to_thread(self._make))
        except Exception as error:  # noqa: BLE001 - told to each who calls, and logged there
            self._made.set_exception(error)

    async def __call__(self, call: Call) -> None:
        # A caller who leaves takes nothing from the others.
        application = await asyncio.shield(self._made)
        await application(call)
