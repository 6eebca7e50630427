"""Lets go of what the ledger need not keep any longer, a little at a time, while requests go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiwm.domain.times import Clock
from aiwm.errors import Unavailable
from aiwm.logs import Log

Expire = Callable[[int], Awaitable[bool]]
"""Removes some of what began before a time; answers whether there may be more. Raises Unavailable."""

_DAY_MS = 86_400_000
_PAUSE_SECONDS = 0.05
"""Between two steps: writers of rows get their turn."""

_log = Log(__name__)


async def watch(expire: Expire, *, keep_days: int, clock: Clock, every_seconds: float = 600.0) -> None:
    """Until cancelled; at once if everything is kept (`keep_days` 0). A database that is away is tried again."""
    while keep_days:
        steps = await _expired(expire, clock() - keep_days * _DAY_MS)
        if steps:
            _log.info("old rows of the ledger are removed", steps=steps, keep_days=keep_days)
        await asyncio.sleep(every_seconds)


async def _expired(expire: Expire, before: int) -> int:
    """How many steps removed something."""
    steps = 0
    try:
        while await expire(before):
            steps += 1
            await asyncio.sleep(_PAUSE_SECONDS)
    except Unavailable:
        _log.warning("old rows of the ledger can't be removed now; it is tried again")
    return steps
