"""What owners do with limits, and how the gate learns of it, and of what was spent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from aiwm.domain.audit import entry
from aiwm.domain.ids import new_id
from aiwm.domain.limits import Budget, Limit, Standing, Subject
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.times import Clock
from aiwm.domain.usage import UsageRow
from aiwm.domain.users import Principal, Role
from aiwm.errors import Conflict, Invalid, NotFound, Unavailable
from aiwm.metering.limits import Limiter
from aiwm.store.limits import LimitStore

_READ_SECONDS: Final = 15
"""How often limits and what was spent are read again: other programs change them, too, and prices are made anew."""


Announce = Callable[[str, str], Awaitable[None]]


async def _to_nobody(_org_id: str, _limit_id: str) -> None:
    """One process has nobody to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLimit:
    subject: Subject
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    budget: Budget | None = None


class Limits:
    """Owners only, and only in the organization they act in: every other limit is not found.

    Rows come into the ledger, and budgets to the gate, one after the other: so each row is either in the sum that a
    budget begins with, or told to the gate, and never both. All workers take these turns together; each knows by
    itself who falls under which limit, and what is taken is counted for all.
    """

    def __init__(
        self,
        *,
        store: LimitStore,
        limiter: Limiter,
        add: Callable[[Sequence[UsageRow]], Awaitable[Sequence[UsageRow]]],
        clock: Clock,
        turn: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
        announce: Announce = _to_nobody,
    ) -> None:
        """`add` adds rows to the ledger and answers them with their costs.

        `turn` is had by one at a time, in all workers; `announce` tells them of a limit (its organization and id), and
        returns when they know who falls under it.
        """
        self._store = store
        self._limiter = limiter
        self._add = add
        self._clock = clock
        own_turn = asyncio.Lock()
        self._turn = turn or (lambda: own_turn)
        self._announce = announce
        self._reading = asyncio.Lock()

    # -- verbs

    async def list(self, principal: Principal, query: PageQuery) -> Page[Limit]:
        principal.require(Role.OWNER)
        return await self._store.list(principal.org_id, query)

    async def get(self, principal: Principal, limit_id: str) -> Limit:
        principal.require(Role.OWNER)
        limit = await self._store.get(principal.org_id, limit_id)
        if limit is None:
            raise NotFound(f"Limit with ID {limit_id} not found")
        return limit

    async def standing(self, limit: Limit) -> Standing:
        return await self._limiter.standing(limit)

    async def create(self, principal: Principal, new: NewLimit) -> Limit:
        principal.require(Role.OWNER)
        now = self._clock()
        limit = Limit(
            id=new_id(),
            org_id=principal.org_id,
            subject=new.subject.checked(principal.org_id),
            requests_per_minute=new.requests_per_minute,
            tokens_per_minute=new.tokens_per_minute,
            concurrent_requests=new.concurrent_requests,
            budget=new.budget,
            created_by=principal.user_id,
            updated_by=principal.user_id,
            created_at=now,
            updated_at=now,
        )
        limit.require_something()
        if not await self._store.add(limit, entry=entry(principal, "create", after=limit, at=now)):
            raise Invalid([f"subject.id: {limit.subject} not found"])
        await self._changed(limit)
        return limit

    async def change(self, principal: Principal, limit_id: str, given: Mapping[str, Any]) -> Limit:
        """`given` holds the fields to change, by their names in `NewLimit`; never the subject."""
        before = await self.get(principal, limit_id)
        now = max(self._clock(), before.updated_at + 1)
        after = replace(before, **given, updated_by=principal.user_id, updated_at=now)
        after.require_something()
        told = entry(principal, "change", before=before, after=after, at=now)
        if not await self._store.change(before, after, entry=told):
            raise _lost(before)
        await self._changed(after)
        return after

    async def delete(self, principal: Principal, limit_id: str) -> int:
        """Soft; answers the time of it."""
        before = await self.get(principal, limit_id)
        now = max(self._clock(), before.updated_at + 1)
        after = replace(before, updated_by=principal.user_id, updated_at=now)
        told = entry(principal, "delete", before=before, at=now)
        if not await self._store.change(before, after, deleted_at=now, entry=told):
            raise _lost(before)
        await self._changed(before)
        return now

    # -- what the gate is told

    async def load(self) -> None:
        """All of them, as they are now. Raises Unavailable."""
        async with self._turn():
            await self._read()

    async def saved(self, rows: Sequence[UsageRow]) -> None:
        """Adds rows of this process to the ledger. Raises Unavailable."""
        async with self._turn():
            self._limiter.saved(await self._add(rows))

    async def recovered(self, rows: Sequence[UsageRow]) -> None:
        """Adds rows of processes that died. The ledger may have some of them: its sums are read anew."""
        async with self._turn():
            await self._add(rows)
            await self._read()

    async def watch(self, *, counts: bool = True, every_seconds: float = _READ_SECONDS) -> None:
        """Loads them again and again, until cancelled; without `counts` only who falls under them."""
        while True:
            await asyncio.sleep(every_seconds)
            with suppress(Unavailable):
                await (self.load() if counts else self.learn())

    async def _read(self) -> None:
        found = await self.learn()
        self._limiter.counts.keep([limit.id for limit in found])
        for limit in found:
            await self._put(limit)

    async def learn(self) -> Sequence[Limit]:
        """Who falls under which limit, and no more than that."""
        async with self._reading:
            found = await self._store.all()
            self._limiter.know_all(found)
        return found

    async def reload(self, org_id: str, limit_id: str) -> None:
        """Of one limit, who falls under it."""
        # Reading the row and telling the gate is one step: else an older row could overtake a newer one.
        async with self._reading:
            limit = await self._store.get(org_id, limit_id)
            if limit is None:
                self._limiter.forget(org_id, limit_id)
            else:
                self._limiter.know(limit)

    async def _changed(self, limit: Limit) -> None:
        """First all know who falls under it, then it is counted: what comes in between is in the ledger's sum."""
        await asyncio.gather(self.reload(limit.org_id, limit.id), self._announce(limit.org_id, limit.id))
        async with self._turn():
            now = await self._store.get(limit.org_id, limit.id)
            if now is None:
                self._limiter.counts.remove(limit.id)
            else:
                await self._put(now)

    async def _put(self, limit: Limit) -> None:
        """What was spent is known before anybody can spend by it."""
        counts = self._limiter.counts
        if limit.budget is None:
            counts.put(limit)
            return
        begin = limit.budget.per.begin(self._clock())
        spent = await self._store.spent(limit, begin)
        counts.put(limit)
        counts.spent(limit.id, begin, spent)


def _lost(limit: Limit) -> Conflict:
    return Conflict(f"The limit of {limit.subject} was changed by somebody else at the same time; get it and try again")
