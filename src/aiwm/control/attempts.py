"""How often one may fail before one has to wait."""

from __future__ import annotations

from collections import deque

from aiwm.domain.times import Clock
from aiwm.errors import TooManyRequests

_CAPACITY = 10_000


class Attempts:
    """Failures by key (a username, an address) in a sliding window. In memory, of this process, bounded."""

    def __init__(self, *, most: int, seconds: int, clock: Clock) -> None:
        self._most = most
        self._window_ms = seconds * 1000
        self._clock = clock
        self._failures: dict[str, deque[int]] = {}

    def check(self, key: str) -> None:
        """Raises TooManyRequests when the key has failed too often lately."""
        now = self._clock()
        failures = self._failures.get(key)
        if failures is None or len(failures) < self._most:
            return
        wait_ms = failures[0] + self._window_ms - now
        if wait_ms > 0:
            seconds = -(-wait_ms // 1000)
            raise TooManyRequests(f"Too many failed attempts; try again in {seconds} s", retry_after=seconds)

    def failed(self, key: str) -> None:
        # Taken out and put in again: whoever failed longest ago is the first to be forgotten.
        failures = self._failures.pop(key, None) or deque(maxlen=self._most)
        failures.append(self._clock())
        self._failures[key] = failures
        if len(self._failures) > _CAPACITY:
            del self._failures[next(iter(self._failures))]

    def forget(self, key: str) -> None:
        self._failures.pop(key, None)
