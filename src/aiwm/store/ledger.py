"""The ledger in the database: rows are added with their sums, and go when they are old enough.

A row is small because its words are kept once: who, what and how it ended repeat from row to row, so each combination
is one line of `ledger_labels`, and a row has its number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from operator import attrgetter
from typing import Any

from msgspec.structs import astuple
from sqlalchemy import Connection, Row, Select, delete, func, literal_column, select
from sqlalchemy.exc import IntegrityError

from aiwm.domain.reports import DAY_MS
from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.store.database import Database
from aiwm.store.statements import Insertion, Lookup, refuses, rises
from aiwm.store.sums import UsageSums, fold_all
from aiwm.store.tables import ledger, ledger_labels, usage_horizon, usage_sums
from aiwm.store.turns import take_turns
from aiwm.store.words import WordBook, Words

_EXPIRED_AT_ONCE = 500
"""Rows that go in one transaction: others wait for it for some milliseconds at most."""

_HORIZON = Insertion(usage_horizon, rises("hours_since", key="id"))

_LABELS = WordBook(ledger_labels).names
_USAGE = Usage.__struct_fields__

_labels: Callable[[UsageRow], Words] = attrgetter(*_LABELS)
_facts: Callable[[UsageRow], tuple[Any, ...]] = attrgetter(
    "provider_request_id", "started_at", "first_byte_ms", "total_ms"
)


_Numbers = tuple[dict[Words, int], dict[Words, int]]
"""Of labels and of series."""


class LedgerStore:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._words = WordBook(ledger_labels)
        self._sums = UsageSums()
        self._insertion = Insertion(ledger, refuses)
        self._known = Lookup(ledger, "request_id")

    async def add(self, rows: Sequence[UsageRow]) -> None:
        """Adds the rows and their sums in one transaction. A row that is there already changes nothing."""
        by_id = {row.request_id: row for row in rows}
        if not by_id:
            return
        try:
            labels, series = await self._database.written(partial(self._add, list(by_id.values())))
        except IntegrityError:
            # Rows are new unless something went wrong before, so they are looked for only when one is not.
            labels, series = await self._database.written(partial(self._add_new, by_id))
        self._words.remember(labels)
        self._sums.remember(series)

    async def of_deployment(self, org_id: str, deployment_id: str) -> Sequence[UsageRow]:
        """All rows of a deployment, oldest first."""
        async with self._database.reading() as connection:
            found = await connection.execute(
                ledger_rows(org_id)
                .where(ledger_labels.c.deployment_id == deployment_id)
                .order_by(ledger.c.started_at, ledger.c.request_id)
            )
            return [usage_row(each) for each in found]

    async def expire(self, before: int) -> bool:
        """Removes some rows that started before a time, and then an hour's sums of days that are wholly before it.

        Sums of days and of deployments stay. Answers whether there may be more to remove.
        """
        # What comes to hourly sums later would outlive the others.
        await fold_all(self._database)
        return await self._database.written(partial(_expire, before))

    def _add_new(self, by_id: Mapping[str, UsageRow], connection: Connection) -> _Numbers:
        take_turns(connection)
        known = {bytes(id_).hex() for (id_,) in self._known.run(connection, [bytes.fromhex(id_) for id_ in by_id])}
        new = [row for id_, row in by_id.items() if id_ not in known]
        return self._add(new, connection) if new else ({}, {})

    def _add(self, rows: Sequence[UsageRow], connection: Connection) -> _Numbers:
        """Raises IntegrityError if one of them is there already."""
        take_turns(connection)
        groups: defaultdict[Words, list[UsageRow]] = defaultdict(list)
        for row in rows:
            groups[_labels(row)].append(row)
        labels = self._words.numbers(connection, groups)
        values = [value for words, group in groups.items() for value in _values(labels[words], group)]
        self._insertion.run(connection, values)
        return labels, self._sums.add(connection, groups.values())


def _expire(before: int, connection: Connection) -> bool:
    take_turns(connection)
    organizations = connection.scalars(select(ledger_labels.c.org_id).distinct())
    for org_hash in sorted({_hash(org_id) for org_id in organizations}):
        old = (
            select(ledger.c.request_id)
            .where(ledger.c.org_hash == org_hash, ledger.c.started_at < before)
            .order_by(ledger.c.started_at)
            .limit(_EXPIRED_AT_ONCE)
        )
        if connection.execute(delete(ledger).where(ledger.c.request_id.in_(old))).rowcount:
            return True
    # Told before the first of them goes: what is left of a day must not look like the whole.
    day = before - before % DAY_MS
    _HORIZON.run(connection, [(1, day)])
    # Written out, because a bound value would not lead SQLite to the index.
    hourly = usage_sums.c.hours == literal_column("1")
    oldest = connection.scalar(select(func.min(usage_sums.c.start)).where(hourly))
    if oldest is None or oldest >= day:
        return False
    connection.execute(delete(usage_sums).where(hourly, usage_sums.c.start == oldest))
    return True


def _values(labels_id: int, rows: Sequence[UsageRow]) -> Sequence[tuple[object, ...]]:
    """In the order of the table's columns; the rows have the same labels."""
    org_hash = _hash(rows[0].org_id)
    return [
        (
            bytes.fromhex(row.request_id),
            labels_id,
            org_hash,
            None if row.correlation_id == row.request_id else row.correlation_id,
            *_facts(row),
            *astuple(row.usage),
            row.cost,
            row.raw_usage,
        )
        for row in rows
    ]


@lru_cache(maxsize=1024)
def _hash(org_id: str) -> int:
    """31 bits: two organizations that share one only cost time."""
    return int.from_bytes(blake2b(org_id.encode("utf-8", "surrogatepass"), digest_size=4).digest()) >> 1


def ledger_rows(org_id: str) -> Select[Any]:
    """The rows of an organization, to be narrowed down; `usage_row` makes them."""
    return (
        select(ledger, *(ledger_labels.c[name] for name in _LABELS))
        .join(ledger_labels, ledger_labels.c.id == ledger.c.labels_id)
        .where(ledger.c.org_hash == _hash(org_id), ledger_labels.c.org_id == org_id)
    )


def usage_row(found: Row[Any]) -> UsageRow:
    values = dict(found._mapping)
    usage = Usage(**{name: values.pop(name) for name in _USAGE})
    request_id = bytes(values["request_id"]).hex()
    del values["labels_id"], values["org_hash"]
    values |= {
        "request_id": request_id,
        "correlation_id": values["correlation_id"] or request_id,
        "usage": usage,
        "end": End(values["end"]),
        "source": Source(values["source"]),
    }
    return UsageRow(**values)
