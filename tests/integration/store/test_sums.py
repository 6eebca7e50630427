"""store/sums.py: what waits to be summed is in every report, once, however it got there and whatever fails."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from sqlalchemy import func, select, text

import store_rows as rows
from aiwm.domain.reports import DAY_MS, HOUR_MS, Dimension, Period, ReportQuery, Span
from aiwm.domain.usage import UsageRow
from aiwm.errors import Unavailable
from aiwm.store.database import Database
from aiwm.store.ledger import LedgerStore
from aiwm.store.sums import fold_all
from aiwm.store.tables import usage_recent, usage_sums
from aiwm.store.usage import UsageStore

MIDNIGHT = 20_000 * DAY_MS
RED = rows.principal(org="red")
DAYS = ReportQuery(span=Span(since=MIDNIGHT, until=MIDNIGHT + 7 * DAY_MS), by=(Dimension.USER,), period=Period.DAY)


def _row(user: int = 0, hour: int = 0, **changes: Any) -> UsageRow:
    return rows.usage_row("d" * 24, user_id=f"user-{user}", started_at=MIDNIGHT + hour * HOUR_MS, **changes)


async def _requests(database: Database) -> int:
    return (await UsageStore(database).report(RED, DAYS)).totals.requests


async def _lines(database: Database) -> tuple[int, int]:
    """What waits, and sums."""
    async with database.reading() as connection:
        waiting = await connection.scalar(select(func.count()).select_from(usage_recent))
        return waiting or 0, await connection.scalar(select(func.count()).select_from(usage_sums)) or 0


async def test_what_waits_is_summed_by_who_reads_it_and_nothing_waits_then(database: Database) -> None:
    store = LedgerStore(database)
    for hour in (1, 2, 30):
        await store.add([_row(n, hour) for n in range(5)])
    assert await _lines(database) == (3, 0)
    # Another program on the same database, which has added nothing.
    found = await UsageStore(database).report(RED, DAYS)
    assert [group.sums.requests for group in found.ordered] == [2] * 5 + [1] * 5
    assert await _lines(database) == (0, 5 * (3 + 2))
    assert await _requests(database) == 15


async def test_what_waits_is_summed_when_there_is_enough_of_it_though_nobody_reads(database: Database) -> None:
    store = LedgerStore(database)
    for _ in range(9):
        await store.add([_row(n) for n in range(600)])
    waiting, sums = await _lines(database)
    assert waiting < 9 * 3
    assert sums > 0
    assert await _requests(database) == 9 * 600
    assert await _lines(database) == (0, 600 * 2)


async def test_rows_that_come_again_are_not_summed_again(database: Database) -> None:
    store, first = LedgerStore(database), [_row(n) for n in range(3)]
    await store.add(first)
    await store.add(first)
    await fold_all(database)
    await store.add([*first, _row(5)])
    assert await _requests(database) == 4


async def test_reports_add_and_sum_at_once_and_each_row_counts_once(database: Database) -> None:
    chance = random.Random(4)

    async def serve() -> None:
        store = LedgerStore(database)
        for _ in range(15):
            await store.add([_row(chance.randrange(9), chance.randrange(50)) for _ in range(20)])

    async def read() -> None:
        before = 0
        while before < 900:
            before, last = await _requests(database), before
            assert before >= last

    await asyncio.gather(read(), read(), *(serve() for _ in range(3)))
    found = await UsageStore(database).report(RED, DAYS)
    assert found.totals.usage.total_tokens == 900 * 10
    hours = await UsageStore(database).report(RED, ReportQuery(span=DAYS.span, period=Period.HOUR))
    assert hours.totals == found.totals


async def test_what_can_not_be_summed_now_waits_and_rows_are_added_meanwhile(database: Database) -> None:
    store = LedgerStore(database)
    await store.add([_row(n) for n in range(3)])
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE usage_sums RENAME TO away"))
    with pytest.raises(Unavailable):
        await _requests(database)
    await store.add([_row(n) for n in range(3)])
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO usage_sums"))
    assert await _requests(database) == 6


async def test_rows_together_whose_sum_no_number_of_the_database_holds_are_added(database: Database) -> None:
    store, most = LedgerStore(database), 10**18
    for _ in range(2):
        await store.add([_row(cost=most) for _ in range(20)])
    found = await UsageStore(database).report(RED, DAYS)
    assert found.totals.requests == 40
    assert found.totals.cost == pytest.approx(40 * most)
