"""What callers are told of their usage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from aiwm.domain.reports import Report, ReportQuery, RowQuery
from aiwm.domain.usage import UsageRow
from aiwm.domain.users import Principal, Role
from aiwm.errors import NotFound
from aiwm.store.usage import UsageStore


class UsageReports:
    """Each is about the caller's organization, and Forbidden to those without a role in it.

    `settled` waits until every answer that was given is in the ledger: it is read after that.
    """

    def __init__(self, *, store: UsageStore, settled: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._settled = settled

    async def report(self, principal: Principal, query: ReportQuery) -> Report:
        """Raises Invalid for what can't be reported."""
        principal.require(Role.VIEWER)
        await self._settled()
        return await self._store.report(principal, query)

    async def rows(self, principal: Principal, query: RowQuery) -> Sequence[UsageRow]:
        principal.require(Role.VIEWER)
        await self._settled()
        return await self._store.rows(principal, query)

    async def every(self, principal: Principal, query: RowQuery) -> AsyncIterator[UsageRow]:
        """All that match, whatever the query's limit is."""
        principal.require(Role.VIEWER)
        await self._settled()
        async for row in self._store.every(principal, query):
            yield row

    async def row(self, principal: Principal, request_id: str) -> UsageRow:
        principal.require(Role.VIEWER)
        await self._settled()
        row = await self._store.row(principal, request_id)
        if row is None:
            raise NotFound(f"Request with ID {request_id} not found")
        return row
