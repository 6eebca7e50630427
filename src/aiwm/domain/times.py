"""Times are whole milliseconds since the epoch, UTC; a clock is a function that gives one."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], int]

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> int:
    return time.time_ns() // 1_000_000


def iso(milliseconds: int) -> str:
    """ISO 8601 with milliseconds and Z."""
    stamp = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"


def parsed(text: str) -> int | None:
    """Of a date, which begins at midnight UTC, or of a date and time with a zone; None for anything else."""
    if not _DATE.match(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if len(text) == len("2030-01-31"):
        moment = moment.replace(tzinfo=UTC)
    if moment.tzinfo is None or not _EPOCH.year <= moment.year < 9999:
        return None
    return (moment - _EPOCH) // timedelta(milliseconds=1)
