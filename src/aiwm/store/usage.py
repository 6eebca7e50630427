"""What is read of the ledger: reports from its sums, and its rows. Every question carries who asks."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import add
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, and_, func, or_, select, tuple_

from aiwm.domain.latencies import Histogram, unpacked
from aiwm.domain.reports import (
    Dimension,
    Group,
    Period,
    Place,
    Report,
    ReportQuery,
    RowQuery,
    Span,
    Sums,
    require_bearable,
)
from aiwm.domain.times import iso
from aiwm.domain.usage import Usage, UsageRow
from aiwm.domain.users import Principal
from aiwm.errors import Invalid
from aiwm.store.connection import AsyncConnection
from aiwm.store.database import Database
from aiwm.store.ledger import ledger_rows, usage_row
from aiwm.store.sums import NUMBERS, fold_all
from aiwm.store.tables import ledger, ledger_labels, usage_horizon, usage_series, usage_sums

_SUMS_AT_ONCE = 1000
_ROWS_AT_ONCE = 250
"""What is read before requests get their turn."""

_OF = {
    Dimension.DEPLOYMENT: usage_series.c.deployment_id,
    Dimension.MODEL: usage_series.c.model,
    Dimension.USER: usage_series.c.user_id,
    Dimension.API_KEY: usage_series.c.api_key_id,
    Dimension.PROVIDER: usage_series.c.provider,
}

FIELDS = {
    "deployment": ledger_labels.c.deployment_id,
    "user": ledger_labels.c.user_id,
    "apiKey": ledger_labels.c.api_key_id,
    "provider": ledger_labels.c.provider,
    "status": ledger_labels.c.status,
    "end": ledger_labels.c.end,
    "source": ledger_labels.c.source,
}
"""API name -> column: what rows can be filtered by, besides `model` and `correlationId`."""

_Key = tuple[Any, ...]
"""A group's values of dimensions, then the time its period begins."""


class UsageStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def report(self, principal: Principal | None, query: ReportQuery) -> Report:
        """Of all organizations without a principal: for whoever has the database at hand anyway.

        Raises Invalid for more groups than anybody reads, and for hours that are no longer kept.
        """
        await fold_all(self._database)
        async with self._database.reading() as connection:
            span = await _kept(connection, query)
            whole = [(Period.HOUR, span)] if query.period is Period.HOUR else span.parts()
            groups: defaultdict[_Key, _Adding] = defaultdict(_Adding)
            for period, part in whole:
                async for rows in connection.partitions(_sums(principal, query, period, part), _SUMS_AT_ONCE):
                    _add_up(groups, rows, query)
                    require_bearable(len(groups))
        # Thousands of groups are not made in the time of requests that run.
        return await asyncio.to_thread(_report, query, span, groups)

    async def rows(self, principal: Principal, query: RowQuery) -> Sequence[UsageRow]:
        async with self._database.reading() as connection:
            return [usage_row(each) for each in await connection.execute(_found(principal, query))]

    async def every(self, principal: Principal, query: RowQuery) -> AsyncIterator[UsageRow]:
        """All that match, without a limit, a few at a time: neither memory nor the database is held meanwhile."""
        query = replace(query, limit=_ROWS_AT_ONCE)
        while rows := await self.rows(principal, query):
            for row in rows:
                yield row
            query = replace(query, after=Place.of(rows[-1]))

    async def row(self, principal: Principal, request_id: str) -> UsageRow | None:
        async with self._database.reading() as connection:
            found = await connection.execute(_rows(principal).where(ledger.c.request_id == bytes.fromhex(request_id)))
            row = found.one_or_none()
            return None if row is None else usage_row(row)


# -- reports


@dataclass(slots=True)
class _Adding:
    """Sums on their way."""

    numbers: Sequence[int] = (0,) * len(NUMBERS)
    total: Histogram = 0
    first_byte: Histogram = 0
    waiting: list[Sequence[Any]] = field(default_factory=list)

    def settle(self) -> None:
        *columns, totals, first_bytes = zip(*self.waiting, strict=True)
        self.numbers = tuple(map(add, self.numbers, map(int, map(sum, columns))))
        self.total += sum(map(unpacked, totals))
        self.first_byte += sum(map(unpacked, first_bytes))
        self.waiting.clear()

    def sums(self) -> Sums:
        values: dict[str, Any] = dict(zip(NUMBERS, self.numbers, strict=True))
        usage = Usage(**{name: values.pop(name) for name in Usage.__struct_fields__})
        return Sums(usage=usage, total=self.total, first_byte=self.first_byte, **values)


def _report(query: ReportQuery, span: Span, groups: Mapping[_Key, _Adding]) -> Report:
    return Report(
        query=query,
        span=span,
        groups=[_group(query, key, adding.sums()) for key, adding in groups.items()],
        totals=_together(groups.values()).sums(),
    )


def _together(parts: Collection[_Adding]) -> _Adding:
    numbers = tuple(map(sum, zip(*(part.numbers for part in parts), strict=True))) or _Adding().numbers
    return _Adding(numbers, sum(part.total for part in parts), sum(part.first_byte for part in parts))


def _add_up(groups: defaultdict[_Key, _Adding], rows: Iterable[Sequence[Any]], query: ReportQuery) -> None:
    dimensions = len(query.by)
    period_ms = query.period.ms if query.period else 0
    touched = set()
    for row in rows:
        start = row[dimensions]
        key = (*row[:dimensions], start - start % period_ms if period_ms else None)
        groups[key].waiting.append(row[dimensions + 1 :])
        touched.add(key)
    for key in touched:
        groups[key].settle()


def _group(query: ReportQuery, key: _Key, sums: Sums) -> Group:
    # A model that nobody named has no name, rather than an empty one.
    return Group(of={each: value or None for each, value in zip(query.by, key, strict=False)}, start=key[-1], sums=sums)


def _sums(principal: Principal | None, query: ReportQuery, period: Period, span: Span) -> Select[Any]:
    numbers = (usage_sums.c[name] for name in (*NUMBERS, "total", "first_byte"))
    return (
        select(*(_OF[each] for each in query.by), usage_sums.c.start, *numbers)
        .join(usage_series, usage_series.c.id == usage_sums.c.series_id)
        .where(
            *_own(principal, usage_series),
            *(_OF[each] == value for each, value in query.equals.items()),
            usage_sums.c.hours == (24 if period is Period.DAY else 1),
            usage_sums.c.start >= span.since,
            usage_sums.c.start < span.until,
        )
    )


def _own(principal: Principal | None, table: Table) -> Iterable[ColumnElement[bool]]:
    """What the caller may know of: the organization's, and of it only what an API key is for."""
    if principal is not None:
        yield table.c.org_id == principal.org_id
        if principal.deployments is not None:
            yield table.c.deployment_id.in_(principal.deployments)


async def _kept(connection: AsyncConnection, query: ReportQuery) -> Span:
    """What can be summed: whole hours, and whole days where hours are no longer kept."""
    asked = query.span.in_whole(Period.DAY if query.period is Period.DAY else Period.HOUR)
    since = await connection.scalar(select(usage_horizon.c.hours_since))
    if since is None or asked.since >= since:
        return asked
    if query.period is Period.HOUR:
        raise Invalid(f"groupBy: hours are kept from {iso(since)} on; ask for days, or for a later from")
    days = asked.in_whole(Period.DAY)
    return replace(days, until=asked.until) if asked.until > since else days


# -- rows


def _rows(principal: Principal) -> Select[Any]:
    return ledger_rows(principal.org_id).where(*_own(principal, ledger_labels))


def _found(principal: Principal, query: RowQuery) -> Select[Any]:
    started_at = ledger.c.started_at
    statement = _rows(principal).order_by(started_at.desc(), ledger.c.request_id.desc()).limit(query.limit)
    if query.since is not None:
        statement = statement.where(started_at >= query.since)
    if query.until is not None:
        statement = statement.where(started_at < query.until)
    if query.after is not None:
        place = (query.after.started_at, bytes.fromhex(query.after.request_id))
        statement = statement.where(tuple_(started_at, ledger.c.request_id) < place)
    return statement.where(*(_matches(name, value) for name, value in query.equals.items()))


def _matches(name: str, value: Any) -> ColumnElement[bool]:
    if name == "model":
        answered = ledger_labels.c.model_answered
        named = func.coalesce(answered, "") != ""
        return or_(answered == value, and_(~named, ledger_labels.c.model_asked == value))
    if name == "correlationId":
        # It is not kept where it is the request's own id.
        return or_(ledger.c.correlation_id == value, and_(ledger.c.correlation_id.is_(None), _is(value)))
    column = FIELDS[name]
    return and_(column == value)


def _is(request_id: str) -> ColumnElement[bool]:
    try:
        return ledger.c.request_id == bytes.fromhex(request_id)
    except ValueError:
        return ledger.c.request_id == b""
