"""What our own parts log, as events instead of lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiwm.logs import FACTS


class _Gathering(logging.Handler):
    def __init__(self, events: list[dict[str, Any]]) -> None:
        super().__init__()
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        named = {"event": record.getMessage(), "level": record.levelname.lower()}
        if record.exc_info:
            named["exception"] = repr(record.exc_info[1])
        self._events.append(getattr(record, FACTS) | named)


@contextmanager
def logged() -> Iterator[list[dict[str, Any]]]:
    """The events meanwhile, of every level, wherever they go else."""
    events: list[dict[str, Any]] = []
    logger, handler = logging.getLogger("aiwm"), _Gathering(events)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield events
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
