"""The ledger in the database: rows, and the sums that are kept with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.store.database import Database
from aiwm.store.tables import deployment_totals, ledger


class LedgerStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: Sequence[UsageRow]) -> None:
        """Adds the rows and their sums in one transaction. A row that is there already changes nothing."""
        async with self._database.writing() as connection:
            await _add(connection, rows)

    async def of_deployment(self, org_id: str, deployment_id: str) -> Sequence[UsageRow]:
        """All rows of a deployment, oldest first."""
        async with self._database.reading() as connection:
            found = await connection.execute(
                select(ledger)
                .where(ledger.c.org_id == org_id, ledger.c.deployment_id == deployment_id)
                .order_by(ledger.c.started_at, ledger.c.request_id)
            )
            return [_row(dict(row._mapping)) for row in found]


async def _add(connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    # One statement text for every batch, so that it is compiled once; the driver repeats it for the rows.
    inserted = await connection.execute(
        dialect.insert(ledger).on_conflict_do_nothing().returning(ledger.c.request_id), [_values(row) for row in rows]
    )
    new = set(inserted.scalars())
    requests: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for row in rows:
        if row.request_id in new:
            requests[row.deployment_id] += 1
            tokens[row.deployment_id] += row.usage.total_tokens
    if not new:
        return
    # Always in one order: two writers that add to the same deployments wait for each other, never in a circle.
    sums = [{"deployment_id": id_, "requests": requests[id_], "tokens": tokens[id_]} for id_ in sorted(requests)]
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


_USAGE_FIELDS = [field.name for field in fields(Usage)]


def _values(row: UsageRow) -> dict[str, object]:
    values = {field.name: getattr(row, field.name) for field in fields(UsageRow)}
    del values["usage"], values["cost"]
    return values | asdict(row.usage)


def _row(values: dict[str, Any]) -> UsageRow:
    usage = Usage(*(int(values.pop(name)) for name in _USAGE_FIELDS))
    values |= {"usage": usage, "end": End(values["end"]), "source": Source(values["source"])}
    return UsageRow(**values)
