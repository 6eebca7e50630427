"""store/repricing.py and control/repricing.py: rows get their new costs, sums follow them, and twice is once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import delete, func, select, text

import store_rows as rows
from aiwm.control.repricing import Difference, Priced, reprice
from aiwm.domain.ids import new_id
from aiwm.domain.usage import UsageRow
from aiwm.errors import Unavailable
from aiwm.store.database import Database
from aiwm.store.ledger import LedgerStore, usage_row
from aiwm.store.repricing import Repricing
from aiwm.store.sums import fold_all
from aiwm.store.tables import deployment_totals, ledger, ledger_labels, usage_series, usage_sums
from aiwm.store.words import WordBook

HOUR, DAY = 3_600_000, 86_400_000
START = 20_000 * DAY
"""A midnight."""
DEPLOYMENTS = [new_id() for _ in range(3)]


def priced_at(rates: Mapping[str, int | None]) -> Priced:
    """Prices by the model that answered, in picodollars a token."""

    async def priced(found: Sequence[UsageRow]) -> Sequence[UsageRow]:
        return [
            replace(row, cost=None, price=None)
            if (rate := rates.get(row.model)) is None
            else replace(row, cost=rate * row.usage.total_tokens, price=f'{{"rate":{rate}}}')
            for row in found
        ]

    return priced


OLD = priced_at({"small": 2, "large": 30})
NEW = priced_at({"small": 2, "large": 25, "unheard": 7})
MODELS = ("small", "large", "unheard")


async def _filled(database: Database, number: int = 60) -> Sequence[UsageRow]:
    """Rows of three models, three deployments and four days, priced by the old list."""
    made = await OLD(
        [
            rows.usage_row(
                DEPLOYMENTS[n % 3],
                model_answered=MODELS[n % 5 % 3],
                org_id=("red", "blue")[n % 2],
                started_at=START + n * 97 * 60_000,
            )
            for n in range(number)
        ]
    )
    await LedgerStore(database).add(made)
    return made


async def _rows(database: Database) -> dict[str, UsageRow]:
    names = WordBook(ledger_labels).names
    statement = select(ledger, *(ledger_labels.c[name] for name in names)).join(ledger_labels)
    async with database.reading() as connection:
        found = [usage_row(each) for each in await connection.execute(statement)]
    return {row.request_id: row for row in found}


async def _require_sums_equal_rows(database: Database) -> None:
    """Of each deployment, hour, day and model, whatever table keeps them."""
    kept = list((await _rows(database)).values())
    expected: dict[tuple[Any, ...], list[int]] = {}
    for row in kept:
        series = row.deployment_id, row.org_id, row.model
        for key in (
            (row.deployment_id,),
            (*series, 1, row.started_at - row.started_at % HOUR),
            (*series, 24, row.started_at - row.started_at % DAY),
        ):
            sums = expected.setdefault(key, [0, 0, 0])
            sums[0] += 1
            sums[1] += row.cost or 0
            sums[2] += row.cost is None
    await fold_all(database)
    async with database.reading() as connection:
        totals = await connection.execute(select(deployment_totals))
        found = {(each.deployment_id,): [each.requests, int(each.cost), each.unpriced] for each in totals}
        words = (usage_series.c.deployment_id, usage_series.c.org_id, usage_series.c.model)
        periods = await connection.execute(select(*words, usage_sums).join(usage_series))
        found |= {
            (each.deployment_id, each.org_id, each.model, each.hours, each.start): [
                each.requests, int(each.cost), each.unpriced,
            ]
            for each in periods
        }  # fmt: skip
    assert found == expected


async def test_rows_and_all_sums_have_the_new_costs(database: Database) -> None:
    before = await _filled(database)
    await _require_sums_equal_rows(database)

    found = await reprice(Repricing(database), NEW)

    assert await _rows(database) == {
        old.request_id: new if new.cost != old.cost else old for old, new in zip(before, await NEW(before), strict=True)
    }
    await _require_sums_equal_rows(database)
    assert found == {
        "small": Difference(24, 0, 480, 480, 0, 0),
        "large": Difference(24, 24, 7200, 6000, 0, 0),
        "unheard": Difference(12, 12, 0, 840, 12, 0),
    }


async def test_doing_it_twice_changes_nothing_the_second_time(database: Database) -> None:
    await _filled(database)
    await reprice(Repricing(database), NEW)
    first = await _rows(database)
    found = await reprice(Repricing(database), NEW)
    assert [each.changed for each in found.values()] == [0, 0, 0]
    assert await _rows(database) == first
    await _require_sums_equal_rows(database)


async def test_a_dry_run_tells_and_changes_nothing(database: Database) -> None:
    await _filled(database)
    before = await _rows(database)
    dry = await reprice(Repricing(database), NEW, dry_run=True)
    assert await _rows(database) == before
    assert dry == await reprice(Repricing(database), NEW)


async def test_a_price_that_is_lost_makes_costs_unknown_and_not_free(database: Database) -> None:
    await _filled(database)
    await reprice(Repricing(database), priced_at({}))
    assert {(row.cost, row.price) for row in (await _rows(database)).values()} == {(None, None)}
    await _require_sums_equal_rows(database)


async def test_only_rows_of_the_time_and_the_model_are_priced_anew(database: Database) -> None:
    before = await _filled(database)
    middle, end = START + DAY, START + 2 * DAY
    found = await reprice(Repricing(database), NEW, since=middle, until=end, model="large")
    chosen = {row.request_id for row in before if middle <= row.started_at < end and row.model == "large"}
    assert found["large"].rows == found["large"].changed == len(chosen) > 0
    after = await _rows(database)
    assert {row.request_id for row in before if after[row.request_id] != row} == chosen
    await _require_sums_equal_rows(database)

    assert await reprice(Repricing(database), NEW, model="a" * 24, dry_run=True) != {}
    assert await reprice(Repricing(database), NEW, model="b" * 24) == {}


async def test_many_batches_are_one(database: Database) -> None:
    await _filled(database)
    found = await reprice(Repricing(database), NEW, batch=7)
    assert sum(each.rows for each in found.values()) == 60
    await _require_sums_equal_rows(database)


async def test_rows_that_are_added_meanwhile_are_neither_lost_nor_counted_twice(database: Database) -> None:
    chance = random.Random(5)
    await _filled(database)
    store = LedgerStore(database)

    async def serve() -> None:
        for _ in range(10):
            added = [
                rows.usage_row(
                    chance.choice(DEPLOYMENTS),
                    model_answered=chance.choice(MODELS),
                    started_at=START + chance.randrange(4 * DAY),
                )
                for _ in range(10)
            ]
            await store.add(await OLD(added))

    await asyncio.gather(serve(), *(reprice(Repricing(database), NEW) for _ in range(2)))
    assert len(await _rows(database)) == 160
    await _require_sums_equal_rows(database)
    await reprice(Repricing(database), NEW)
    assert all(row.cost == 7 * 10 for row in (await _rows(database)).values() if row.model == "unheard")
    await _require_sums_equal_rows(database)


async def test_a_row_that_is_gone_meanwhile_changes_no_sum(database: Database) -> None:
    before = await _filled(database)
    gone = [row.request_id for row in before[:20]]

    async def priced(found: Sequence[UsageRow]) -> Sequence[UsageRow]:
        async with database.writing() as connection:
            ids = [bytes.fromhex(id_) for id_ in gone]
            await connection.execute(delete(ledger).where(ledger.c.request_id.in_(ids)))
        return await NEW(found)

    found = await reprice(Repricing(database), priced)
    left = [row for row in before[20:] if row.model != "small"]
    assert sum(each.changed for each in found.values()) == len(left)
    async with database.reading() as connection:
        cost = await connection.scalar(select(func.sum(deployment_totals.c.cost)))
    new = await NEW(left)
    assert int(cost or 0) == sum((row.cost or 0) for row in before) + sum(
        (after.cost or 0) - (old.cost or 0) for old, after in zip(left, new, strict=True)
    )


async def test_a_batch_that_fails_leaves_rows_and_sums_as_they_were(database: Database) -> None:
    await _filled(database)
    before = await _rows(database)
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE usage_sums RENAME TO away"))
    with pytest.raises(Unavailable):
        await reprice(Repricing(database), NEW)
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO usage_sums"))
    assert await _rows(database) == before
    await _require_sums_equal_rows(database)
