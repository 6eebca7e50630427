"""Lists in SQL: filters and order from allow-lists, pages and counts in one place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, FromClause, Row, func, or_, select

from aiwm.domain.pages import Page, PageQuery
from aiwm.store.connection import AsyncConnection

_WILDCARD = re.compile(r"[%_/]")

T = TypeVar("T")
Columns = Mapping[str, ColumnElement[Any]]


def matching(
    query: PageQuery, fields: Columns, *, searched: Sequence[ColumnElement[str]]
) -> Iterable[ColumnElement[bool]]:
    """What the caller's filters and search text ask for. The tenant is the store's own business, never the query's."""
    for name, value in query.equals.items():
        yield fields[name] == value
    if query.search:
        # A % or _ of the caller is a character, not a wildcard. Both sides are lowered by the database: Python and
        # PostgreSQL need not agree on what lower case is.
        escaped = _WILDCARD.sub(r"/\g<0>", query.search)
        pattern = func.lower(f"%{escaped}%")
        yield or_(*(func.lower(column).like(pattern, escape="/") for column in searched))


async def page(
    connection: AsyncConnection,
    source: FromClause,
    where: ColumnElement[bool],
    query: PageQuery,
    sortable: Columns,
    counted: Columns,
    item: Callable[[Row[Any]], T],
) -> Page[T]:
    """One page of what matches, with the totals of all that matches. Equal sort keys are told apart by id."""
    column = sortable[query.sort.removeprefix("-")]
    descending = query.sort.startswith("-")
    identity = source.c.id
    rows = await connection.execute(
        select(source)
        .where(where)
        .order_by(column.desc() if descending else column, identity.desc() if descending else identity)
        .limit(query.limit)
        .offset(query.offset)
    )
    items = [item(row) for row in rows]
    total = await connection.scalar(select(func.count()).select_from(source).where(where))
    counts = {}
    for name, counted_column in counted.items():
        grouped = await connection.execute(
            select(counted_column, func.count()).select_from(source).where(where).group_by(counted_column)
        )
        counts[name] = {row[0]: row[1] for row in grouped}
    return Page(items=items, total=total or 0, counts=counts)
