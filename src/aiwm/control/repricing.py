"""All rows of the ledger priced anew, in batches: what prices that were not known then, or were wrong, change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from aiwm.domain.usage import UsageRow
from aiwm.store.repricing import Change, Repricing

BATCH = 200
"""Rows of one transaction: others who write wait some twenty milliseconds for it."""

Priced = Callable[[Sequence[UsageRow]], Awaitable[Sequence[UsageRow]]]


@dataclass(slots=True)
class Difference:
    """What became of the rows of one model. Costs are in picodollars, without those that are not known."""

    rows: int = 0
    changed: int = 0
    cost_before: int = 0
    cost_after: int = 0
    unpriced_before: int = 0
    unpriced_after: int = 0

    def add(self, before: UsageRow, after: UsageRow) -> None:
        self.rows += 1
        self.changed += before.cost != after.cost
        self.cost_before += before.cost or 0
        self.cost_after += after.cost or 0
        self.unpriced_before += before.unpriced
        self.unpriced_after += after.unpriced


async def reprice(
    store: Repricing,
    priced: Priced,
    *,
    since: int | None = None,
    until: int | None = None,
    model: str | None = None,
    dry_run: bool = False,
    batch: int = BATCH,
) -> Mapping[str, Difference]:
    """Differences by the name of the model that answered. Doing it twice changes nothing the second time.

    A row whose cost stays the same keeps the price that it was made with. Raises Unavailable; batches that are written
    stay written.
    """
    found: dict[str, Difference] = {}
    last = ""
    while rows := await store.rows(after=last, limit=batch, since=since, until=until, model=model):
        last = rows[-1].request_id
        after = dict(zip((row.request_id for row in rows), await priced(rows), strict=True))
        changes = [Change(row, new) for row in rows if (new := after[row.request_id]).cost != row.cost]
        if not dry_run:
            written = {change.before.request_id for change in await store.write(changes)}
            after |= {row.request_id: row for row in rows if row.request_id not in written}
        for row in rows:
            found.setdefault(row.model, Difference()).add(row, after[row.request_id])
    return found
