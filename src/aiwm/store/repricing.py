"""Rows of the ledger given other costs, and their sums with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from operator import add, attrgetter
from typing import NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Connection, bindparam, or_, select, update

from aiwm.domain.reports import DAY_MS, HOUR_MS
from aiwm.domain.usage import UsageRow
from aiwm.store.database import Database
from aiwm.store.ledger import usage_row
from aiwm.store.statements import Lookup
from aiwm.store.sums import Folding
from aiwm.store.tables import deployment_totals, ledger, ledger_labels, usage_series, usage_sums
from aiwm.store.turns import take_turns
from aiwm.store.words import WordBook

K = TypeVar("K")

_LABELS = WordBook(ledger_labels).names


class Change(NamedTuple):
    """A row as it was read, and with its other cost."""

    before: UsageRow
    after: UsageRow


class Repricing:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._labels = WordBook(ledger_labels)
        self._series = WordBook(usage_series)
        self._kept = Lookup(ledger, "request_id", "cost")
        self._folding = Folding()

    async def rows(
        self, *, after: str, limit: int, since: int | None = None, until: int | None = None, model: str | None = None
    ) -> Sequence[UsageRow]:
        """Rows of all organizations in the order of their ids, from the one after `after` on ("" for the first).

        `model` is a model's id, or its name at the provider.
        """
        wanted: list[ColumnElement[bool]] = [ledger.c.request_id > bytes.fromhex(after)]
        if since is not None:
            wanted.append(ledger.c.started_at >= since)
        if until is not None:
            wanted.append(ledger.c.started_at < until)
        if model is not None:
            names = (ledger_labels.c.model_id, ledger_labels.c.model_answered, ledger_labels.c.model_asked)
            wanted.append(or_(*(name == model for name in names)))
        statement = (
            select(ledger, *(ledger_labels.c[name] for name in _LABELS))
            .join(ledger_labels, ledger_labels.c.id == ledger.c.labels_id)
            .where(*wanted)
            .order_by(ledger.c.request_id)
            .limit(limit)
        )
        async with self._database.reading() as connection:
            return [usage_row(each) for each in await connection.execute(statement)]

    async def write(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Writes costs, prices and sums in one transaction, and answers what it has written.

        A row that is gone, or has another cost than it was read with, stays as it is.
        """
        return await self._database.written(partial(self._write, changes)) if changes else ()

    def _write(self, changes: Sequence[Change], connection: Connection) -> Sequence[Change]:
        take_turns(connection)
        ids = [bytes.fromhex(change.before.request_id) for change in changes]
        kept = {bytes(id_).hex(): cost for id_, cost in self._kept.run(connection, ids)}
        changes = [
            change
            for change in changes
            if change.before.request_id in kept and kept[change.before.request_id] == change.before.cost
        ]
        if not changes:
            return ()
        words = attrgetter(*_LABELS)
        labels = self._labels.numbers(connection, {words(change.after) for change in changes})
        connection.execute(
            update(ledger)
            .where(ledger.c.request_id == bindparam("id"))
            .values(labels_id=bindparam("new_labels"), cost=bindparam("new_cost")),
            [
                {
                    "id": bytes.fromhex(change.after.request_id),
                    "new_labels": labels[words(change.after)],
                    "new_cost": change.after.cost,
                }
                for change in changes
            ],
        )
        self._write_sums(connection, changes)
        return changes

    def _write_sums(self, connection: Connection, changes: Sequence[Change]) -> None:
        of_deployments = _added((change.before.deployment_id, _grown(change)) for change in changes)
        connection.execute(
            update(deployment_totals)
            .where(deployment_totals.c.deployment_id == bindparam("id"))
            .values(
                cost=deployment_totals.c.cost + bindparam("more_cost"),
                unpriced=deployment_totals.c.unpriced + bindparam("more_unpriced"),
            ),
            [{"id": id_, "more_cost": cost, "more_unpriced": more} for id_, (cost, more) in of_deployments.items()],
        )
        words = attrgetter(*self._series.names)
        series = self._series.numbers(connection, {words(change.before) for change in changes})
        self._folding.fold_series(connection, series.values())
        periods = _added(
            ((series[words(change.before)], hours, change.before.started_at // length * length), _grown(change))
            for change in changes
            for hours, length in ((1, HOUR_MS), (24, DAY_MS))
        )
        connection.execute(
            update(usage_sums)
            .where(
                usage_sums.c.series_id == bindparam("series"),
                usage_sums.c.hours == bindparam("long"),
                usage_sums.c.start == bindparam("begin"),
            )
            .values(
                cost=usage_sums.c.cost + bindparam("more_cost"),
                unpriced=usage_sums.c.unpriced + bindparam("more_unpriced"),
            ),
            [
                {"series": number, "long": hours, "begin": start, "more_cost": cost, "more_unpriced": more}
                for (number, hours, start), (cost, more) in periods.items()
            ],
        )


def _grown(change: Change) -> tuple[int, int]:
    """By how much cost, and requests without one, become more."""
    before, after = change
    return (after.cost or 0) - (before.cost or 0), after.unpriced - before.unpriced


def _added(grown: Iterable[tuple[K, tuple[int, int]]]) -> dict[K, tuple[int, int]]:
    sums: defaultdict[K, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for key, more in grown:
        cost, unpriced = map(add, sums[key], more)
        sums[key] = cost, unpriced
    return sums
