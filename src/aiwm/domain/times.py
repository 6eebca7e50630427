"""Times are whole milliseconds since the epoch, UTC; a clock is a function that gives one."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], int]


def now() -> int:
    return time.time_ns() // 1_000_000


def iso(milliseconds: int) -> str:
    """ISO 8601 with milliseconds and Z."""
    stamp = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"
