"""The ledger in the database: rows, and the sums that are kept with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter
from typing import Any

from sqlalchemy import insert, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.store.database import Database
from aiwm.store.tables import deployment_totals, ledger

_KNOWN_AT_ONCE = 500
"""Request ids asked for in one statement: below the number of bound values that SQLite and PostgreSQL take."""

_WRITER_LOCK = 4_120_240_420
"""PostgreSQL advisory lock: those who add rows take turns, as SQLite makes them do anyway."""


class LedgerStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: Sequence[UsageRow]) -> None:
        """Adds the rows and their sums in one transaction. A row that is there already changes nothing."""
        async with self._database.writing() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})"))
            by_id = {row.request_id: row for row in rows}
            known = await _known(connection, list(by_id))
            if new := [row for id_, row in by_id.items() if id_ not in known]:
                await _insert(connection, new)
                await _add_up(connection, new)

    async def of_deployment(self, org_id: str, deployment_id: str) -> Sequence[UsageRow]:
        """All rows of a deployment, oldest first."""
        async with self._database.reading() as connection:
            found = await connection.execute(
                select(ledger)
                .where(ledger.c.org_id == org_id, ledger.c.deployment_id == deployment_id)
                .order_by(ledger.c.started_at, ledger.c.request_id)
            )
            return [_row(dict(row._mapping)) for row in found]


async def _known(connection: AsyncConnection, request_ids: Sequence[str]) -> set[str]:
    known: set[str] = set()
    for first in range(0, len(request_ids), _KNOWN_AT_ONCE):
        part = request_ids[first : first + _KNOWN_AT_ONCE]
        known.update(await connection.scalars(select(ledger.c.request_id).where(ledger.c.request_id.in_(part))))
    return known


async def _insert(connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
    """Values of plain types straight to the driver: at thousands of rows a second, each conversion counts."""
    statement, values = _inserting(connection.dialect)
    await connection.exec_driver_sql(statement, [values(row) for row in rows])


@cache
def _inserting(dialect: Dialect) -> tuple[str, Callable[[UsageRow], tuple[object, ...]]]:
    """The statement in the driver's own spelling, and what it takes of a row, in its order."""
    compiled = insert(ledger).compile(dialect=dialect)
    names = compiled.positiontup or []
    return str(compiled), attrgetter(*(f"usage.{name}" if name in _USAGE_FIELDS else name for name in names))


async def _add_up(connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
    requests: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for row in rows:
        requests[row.deployment_id] += 1
        tokens[row.deployment_id] += row.usage.total_tokens
    sums = [{"deployment_id": id_, "requests": requests[id_], "tokens": tokens[id_]} for id_ in requests]
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(deployment_totals)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[deployment_totals.c.deployment_id],
            set_={
                "requests": deployment_totals.c.requests + statement.excluded.requests,
                "tokens": deployment_totals.c.tokens + statement.excluded.tokens,
            },
        ),
        sums,
    )


_USAGE_FIELDS = Usage.__struct_fields__


def _row(values: dict[str, Any]) -> UsageRow:
    usage = Usage(*(int(values.pop(name)) for name in _USAGE_FIELDS))
    values |= {"usage": usage, "end": End(values["end"]), "source": Source(values["source"])}
    return UsageRow(**values)
