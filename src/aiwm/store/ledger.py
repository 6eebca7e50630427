"""The ledger in the database: rows, and the sums that are kept with them.

A row is small because its words are kept once: who, what and how it ended repeat from row to row, so each combination
is one line of `ledger_labels`, and a row has its number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import Any

from sqlalchemy import Row, Select, insert, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.store.database import Database
from aiwm.store.tables import deployment_totals, ledger, ledger_labels

_KNOWN_AT_ONCE = 500
"""Keys asked for in one statement: below the number of bound values that SQLite and PostgreSQL take."""

_WRITER_LOCK = 4_120_240_420
"""PostgreSQL advisory lock: those who add rows take turns, as SQLite makes them do anyway."""

_MOST_REMEMBERED = 20_000
"""Labels whose numbers are kept in memory; a gateway has a few hundred."""

_LABELS = tuple(column.name for column in ledger_labels.c if column.name not in {"id", "digest"})
_USAGE = Usage.__struct_fields__

Labels = tuple[Any, ...]
"""The words of a row, in the order of `_LABELS`."""

_labels: Callable[[UsageRow], Labels] = attrgetter(*_LABELS)
_facts: Callable[[UsageRow], Labels] = attrgetter("provider_request_id", "started_at", "first_byte_ms", "total_ms")
_counts: Callable[[Usage], Labels] = attrgetter(*_USAGE)


class LedgerStore:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._numbers: dict[Labels, int] = {}
        """Numbers of labels that are committed: labels are never removed."""
        self._insert: tuple[Dialect, str] | None = None

    async def add(self, rows: Sequence[UsageRow]) -> None:
        """Adds the rows and their sums in one transaction. A row that is there already changes nothing."""
        async with self._database.writing() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})"))
            by_id = {bytes.fromhex(row.request_id): row for row in rows}
            known = await _known(connection, list(by_id))
            new = {id_: row for id_, row in by_id.items() if id_ not in known}
            if not new:
                return
            numbers = await self._numbered(connection, list(new.values()))
            values = [_values(id_, numbers[_labels(row)], row) for id_, row in new.items()]
            # Values of plain types straight to the driver: at thousands of rows a second, each conversion counts.
            await connection.exec_driver_sql(self._statement(connection.dialect), values)
            await _add_up(connection, list(new.values()))
        # Only now: a transaction that was rolled back has no labels.
        if len(self._numbers) > _MOST_REMEMBERED:
            self._numbers.clear()
        self._numbers |= numbers

    async def of_deployment(self, org_id: str, deployment_id: str) -> Sequence[UsageRow]:
        """All rows of a deployment, oldest first."""
        async with self._database.reading() as connection:
            found = await connection.execute(
                _rows()
                .where(ledger_labels.c.org_id == org_id, ledger_labels.c.deployment_id == deployment_id)
                .order_by(ledger.c.started_at, ledger.c.request_id)
            )
            return [_row(each) for each in found]

    async def _numbered(self, connection: AsyncConnection, rows: Sequence[UsageRow]) -> dict[Labels, int]:
        """The number of each row's labels; labels that are new are added."""
        wanted = {_labels(row) for row in rows}
        numbers = {labels: self._numbers[labels] for labels in wanted if labels in self._numbers}
        missing = {_digest(labels): labels for labels in wanted if labels not in numbers}
        if not missing:
            return numbers
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        await connection.execute(
            dialect.insert(ledger_labels).on_conflict_do_nothing(),
            [{"digest": digest, **dict(zip(_LABELS, labels, strict=True))} for digest, labels in missing.items()],
        )
        for part in _parts(list(missing)):
            found = await connection.execute(
                select(ledger_labels.c.digest, ledger_labels.c.id).where(ledger_labels.c.digest.in_(part))
            )
            numbers |= {missing[bytes(digest)]: number for digest, number in found}
        return numbers

    def _statement(self, dialect: Dialect) -> str:
        """The insertion in the driver's own spelling, its values in the order of the table's columns."""
        if self._insert is None or self._insert[0] is not dialect:
            self._insert = dialect, str(insert(ledger).compile(dialect=dialect))
        return self._insert[1]


async def _known(connection: AsyncConnection, request_ids: Sequence[bytes]) -> set[bytes]:
    known: set[bytes] = set()
    for part in _parts(request_ids):
        found = await connection.scalars(select(ledger.c.request_id).where(ledger.c.request_id.in_(part)))
        known.update(bytes(id_) for id_ in found)
    return known


def _parts(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for first in range(0, len(keys), _KNOWN_AT_ONCE):
        yield keys[first : first + _KNOWN_AT_ONCE]


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


def _digest(labels: Labels) -> bytes:
    """The same on every machine: what makes labels unique in the database, where a null equals nothing."""
    return blake2b(repr(labels).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _values(request_id: bytes, labels_id: int, row: UsageRow) -> tuple[object, ...]:
    """In the order of the table's columns."""
    correlation_id = None if row.correlation_id == row.request_id else row.correlation_id
    return (request_id, labels_id, correlation_id, *_facts(row), *_counts(row.usage), row.raw_usage)


def _rows() -> Select[Any]:
    return select(ledger, *(ledger_labels.c[name] for name in _LABELS)).join(
        ledger_labels, ledger_labels.c.id == ledger.c.labels_id
    )


def _row(found: Row[Any]) -> UsageRow:
    values = dict(found._mapping)
    usage = Usage(**{name: values.pop(name) for name in _USAGE})
    request_id = bytes(values["request_id"]).hex()
    del values["labels_id"]
    values |= {
        "request_id": request_id,
        "correlation_id": values["correlation_id"] or request_id,
        "usage": usage,
        "end": End(values["end"]),
        "source": Source(values["source"]),
    }
    return UsageRow(**values)
