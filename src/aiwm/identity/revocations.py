"""Which logins are dead although their access tokens have not expired yet.

Everything is revoked by session: an access token of ours names the session it comes from, and whatever
ends a user's rights (log-out, another password, other roles, being deactivated or deleted) revokes
sessions. Times would not do: a token tells its birth in whole seconds, so a login in the second of a
password change could not be told from one before it.

The store is the truth. Each process keeps what was revoked lately in memory and asks the store for news
every half second, so that every process on one database knows within a second. What a process revokes
itself applies at once, in its siblings too: they are told before the caller is. Tokens of another IAM name no
session here: they live until they expire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final

from aiwm.domain.times import Clock
from aiwm.errors import AiwmError
from aiwm.logs import Log

_log = Log(__name__)

Revoked = tuple[str, int]
"""A session and when it was revoked, in milliseconds."""
ReadRevoked = Callable[[int], Awaitable[Sequence[Revoked]]]
"""Reads from the store all that was revoked at or after a time."""

POLL_SECONDS: Final = 0.5

_OVERLAP_MS: Final = 60_000
"""Read again each time: clocks of two machines differ, and a row is seen only after its transaction's end."""


Announce = Callable[[Collection[str]], Awaitable[None]]
"""Tells processes that serve the same ports; returns when they know."""


async def _to_nobody(_: Collection[str]) -> None:
    """One process has nobody to tell."""


class Revocations:
    def __init__(self, *, keep_seconds: int, clock: Clock, announce: Announce = _to_nobody) -> None:
        """`keep_seconds` is the longest that an access token can live."""
        self._announce = announce
        self._keep_ms = keep_seconds * 1000 + _OVERLAP_MS
        self._clock = clock
        self._revoked_at: dict[str, int] = {}
        self._seen_until = 0
        self._listeners: list[Callable[[Collection[str]], None]] = []

    def __contains__(self, session: str) -> bool:
        return session in self._revoked_at

    def on_revoked(self, listener: Callable[[Collection[str]], None]) -> None:
        """`listener` is called with sessions newly revoked, before the revoking call returns."""
        self._listeners.append(listener)

    async def end(self, sessions: Collection[str]) -> None:
        """Revokes them wherever their tokens could be shown."""
        self.revoke(sessions)
        if sessions:
            await self._announce(sessions)

    def revoke(self, sessions: Iterable[str]) -> None:
        """In this process."""
        now = self._clock()
        self._add([(session, now) for session in sessions])

    async def refresh(self, read: ReadRevoked) -> None:
        """One look into the store. Must have succeeded once before tokens are accepted."""
        now = self._clock()
        found = await read(max(self._seen_until - _OVERLAP_MS, now - self._keep_ms))
        self._seen_until = now
        self._add(found)
        self._forget_before(now - self._keep_ms)

    async def watch(self, read: ReadRevoked, *, every_seconds: float = POLL_SECONDS) -> None:
        """Looks into the store until cancelled. A store that is away is asked again, and told of once."""
        away = False
        while True:
            await asyncio.sleep(every_seconds)
            try:
                await self.refresh(read)
            except AiwmError as error:
                if not away:
                    _log.warning("revocations of other processes are not seen", reason=str(error))
                away = True
            else:
                away = False

    def _add(self, revoked: Sequence[Revoked]) -> None:
        news = [(session, at) for session, at in revoked if session not in self._revoked_at]
        if not news:
            return
        self._revoked_at.update(news)
        sessions = {session for session, _ in news}
        for listener in self._listeners:
            listener(sessions)

    def _forget_before(self, time: int) -> None:
        """Entries are about in the order of their times; one out of order is only kept a little longer."""
        while self._revoked_at:
            oldest = next(iter(self._revoked_at))
            if self._revoked_at[oldest] >= time:
                return
            del self._revoked_at[oldest]
