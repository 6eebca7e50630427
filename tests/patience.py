"""How long tests wait for what must happen. It is seen as soon as it happens: only a failure takes all this time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0
"""Seconds after which something is taken for missing. A machine that is busy with other things is slow, not broken."""
_STEP = 0.02


async def eventually(look: Callable[[], Any]) -> Any:
    """What `look`, a coroutine function or not, gives once it gives something."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = look()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(_STEP)


def waited(look: Callable[[], Any]) -> Any:
    """The same for tests without a loop."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(_STEP)
    return found
