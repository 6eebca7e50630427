"""How often one may fail to log in before one has to wait, whichever program one comes to."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from aiwm.domain.times import Clock
from aiwm.errors import TooManyRequests
from aiwm.store.attempts import Allowance, AttemptStore

_WINDOW_SECONDS: Final = 300
_MOST_BY_ACCOUNT: Final = 10
_MOST_BY_ADDRESS: Final = 50
"""More than for one account: behind a proxy or in an office many people have one address."""


class Attempts:
    """Failures by account and by network in a sliding window. Accounts that do not exist are counted like others."""

    def __init__(self, *, store: AttemptStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def check(self, account: str, network: str) -> None:
        """Raises TooManyRequests when one of them has failed too often lately."""
        now = self._clock()
        _require_open(await self._store.closed(_allowances(account, network), since=_since(now)), now)

    async def failed(self, account: str, network: str) -> None:
        """One more, unless there were too many: then it raises TooManyRequests."""
        now = self._clock()
        _require_open(await self._store.add(_allowances(account, network), since=_since(now), at=now), now)

    async def forget(self, account: str) -> None:
        await self._store.forget(_account(account))


def _since(now: int) -> int:
    return now - _WINDOW_SECONDS * 1000


def _require_open(closed: int | None, now: int) -> None:
    if closed is not None:
        # Another machine's clock may be ahead.
        seconds = max(1, -(-(closed - _since(now)) // 1000))
        raise TooManyRequests(f"Too many failed attempts; try again in {seconds} s", retry_after=seconds)


def _allowances(account: str, network: str) -> Sequence[Allowance]:
    return (_account(account), _MOST_BY_ACCOUNT), (_digest(f"network {network}"), _MOST_BY_ADDRESS)


def _account(name: str) -> bytes:
    return _digest(f"account {name}")


def _digest(text: str) -> bytes:
    # People type passwords where names belong, and names as long as they like.
    return sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
