"""What owners do with limits, and how the gate learns of it, and of what was spent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
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
    budget begins with, or told to the gate, and never both.
    """

    def __init__(
        self,
        *,
        store: LimitStore,
        limiter: Limiter,
        add: Callable[[Sequence[UsageRow]], Awaitable[Sequence[UsageRow]]],
        clock: Clock,
    ) -> None:
        """`add` adds rows to the ledger and answers them with their costs."""
        self._store = store
        self._limiter = limiter
        self._add = add
        self._clock = clock
        self._turn = asyncio.Lock()

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

    def standing(self, limit: Limit) -> Standing:
        return self._limiter.standing(limit)

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
        async with self._turn:
            await self._read()

    async def saved(self, rows: Sequence[UsageRow]) -> None:
        """Adds rows of this process to the ledger. Raises Unavailable."""
        async with self._turn:
            self._limiter.saved(await self._add(rows))

    async def recovered(self, rows: Sequence[UsageRow]) -> None:
        """Adds rows of processes that died. The ledger may have some of them: its sums are read anew."""
        async with self._turn:
            await self._add(rows)
            await self._read()

    async def watch(self, *, every_seconds: float = _READ_SECONDS) -> None:
        """Loads them again and again, until cancelled."""
        while True:
            await asyncio.sleep(every_seconds)
            with suppress(Unavailable):
                await self.load()

    async def _read(self) -> None:
        found = await self._store.all()
        self._limiter.keep(limit.id for limit in found)
        for limit in found:
            await self._put(limit)

    async def _changed(self, limit: Limit) -> None:
        """Reading the row and telling the gate is one step: else an older row could overtake a newer one."""
        async with self._turn:
            now = await self._store.get(limit.org_id, limit.id)
            if now is None:
                self._limiter.remove(limit)
            else:
                await self._put(now)

    async def _put(self, limit: Limit) -> None:
        """What was spent is known before anybody can spend by it."""
        if limit.budget is None:
            self._limiter.put(limit)
            return
        begin = limit.budget.per.begin(self._clock())
        spent = await self._store.spent(limit, begin)
        self._limiter.put(limit)
        self._limiter.spent(limit, begin, spent)


def _lost(limit: Limit) -> Conflict:
    return Conflict(f"The limit of {limit.subject} was changed by somebody else at the same time; get it and try again")
