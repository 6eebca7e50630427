"""store/ledger.py: each request once, and the sums of a deployment are the sums of its rows whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from sqlalchemy import text

import store_rows as rows
from aiwm.domain.deployments import Deployment
from aiwm.domain.usage import End, Source, Usage
from aiwm.errors import Unavailable
from aiwm.store.database import Database
from aiwm.store.deployments import DeploymentStore
from aiwm.store.ledger import LedgerStore
from aiwm.store.models import ModelStore
from patience import PATIENCE


@pytest.fixture
def ledger(database: Database) -> LedgerStore:
    return LedgerStore(database)


@pytest.fixture
async def deployments(database: Database) -> Sequence[Deployment]:
    model = rows.model()
    await ModelStore(database).add(model)
    made = [rows.deployment(model) for _ in range(3)]
    for deployment in made:
        await DeploymentStore(database).add(deployment)
    return made


async def _sums(database: Database, deployment_id: str) -> tuple[int, int]:
    """Requests and tokens as callers are told them."""
    found = await DeploymentStore(database).by_id(deployment_id)
    assert found is not None
    return found.totals.requests, found.totals.tokens


async def _require_sums_equal_rows(database: Database, deployments: Sequence[Deployment]) -> None:
    for deployment in deployments:
        kept = await LedgerStore(database).of_deployment("red", deployment.id)
        assert await _sums(database, deployment.id) == (len(kept), sum(row.usage.total_tokens for row in kept))


async def test_a_row_comes_back_as_it_was_written(ledger: LedgerStore) -> None:
    full = rows.usage_row(
        "d" * 24,
        correlation_id="order-42",
        usage=Usage(100, 50, 40, 10, 30),
        raw_usage='{"prompt_tokens":100,"note":"ünï \\u0000 \\ud83d\\ude00"}',
        streamed=True,
        end=End.CLIENT_GONE,
        source=Source.ESTIMATED,
        api_key_id="e" * 24,
        cost=123_456_789,
        price='{"rates":{"input_tokens":"2.5"}}',
    )
    bare = rows.usage_row(
        "d" * 24,
        provider_request_id=None,
        model_asked=None,
        model_answered=None,
        status=None,
        first_byte_ms=None,
        raw_usage=None,
        usage=Usage(),
        end=End.GATEWAY_DIED,
        source=Source.NONE,
    )
    huge = rows.usage_row("d" * 24, usage=Usage(input_tokens=1 << 40, output_tokens=1 << 40), total_ms=1 << 31)

    await ledger.add([full, bare, huge])

    assert await ledger.of_deployment("red", "d" * 24) == [full, bare, huge]


async def test_the_rows_of_a_deployment_are_its_organizations(ledger: LedgerStore) -> None:
    await ledger.add([rows.usage_row("d" * 24), rows.usage_row("e" * 24), rows.usage_row("d" * 24, org_id="blue")])
    assert len(await ledger.of_deployment("red", "d" * 24)) == 1
    assert await ledger.of_deployment("green", "d" * 24) == []


async def test_a_cost_that_is_not_known_is_counted_apart_and_never_as_nothing(
    ledger: LedgerStore, database: Database, deployments: Sequence[Deployment]
) -> None:
    known, mixed, unknown = (deployment.id for deployment in deployments)
    refused = {"status": 429, "usage": Usage(), "source": Source.NONE, "cost": 0}
    await ledger.add([rows.usage_row(known, cost=1), rows.usage_row(known, cost=10**12), rows.usage_row(known, cost=0)])
    await ledger.add([rows.usage_row(mixed, cost=5), rows.usage_row(mixed), rows.usage_row(mixed, **refused)])
    await ledger.add([rows.usage_row(unknown), rows.usage_row(unknown, status=None, usage=Usage())])

    totals = []
    for deployment in deployments:
        found = await DeploymentStore(database).by_id(deployment.id)
        assert found is not None
        totals.append(found.totals)
    assert [(each.cost, each.unpriced, each.known_cost) for each in totals] == [
        (10**12 + 1, 0, 1.000000000001),
        (5, 1, 5e-12),
        (0, 2, None),
    ]


async def test_no_numbers_of_a_provider_are_too_large_for_the_sums(
    ledger: LedgerStore, database: Database, deployments: Sequence[Deployment]
) -> None:
    most = (1 << 63) - 1
    usage = Usage(input_tokens=1 << 49, output_tokens=1 << 49)
    for _ in range(3):
        await ledger.add([rows.usage_row(deployments[0].id, cost=most, usage=usage, total_ms=1 << 50)])
    found = await DeploymentStore(database).by_id(deployments[0].id)
    assert found is not None
    assert found.totals.cost == pytest.approx(3 * most)
    assert found.totals.tokens == 3 << 50


async def test_adding_the_same_rows_again_changes_nothing(
    ledger: LedgerStore, database: Database, deployments: Sequence[Deployment]
) -> None:
    first = [rows.usage_row(deployments[0].id) for _ in range(5)]
    await ledger.add(first)
    await ledger.add(first)
    await ledger.add(list(reversed(first)))
    # Another program on the same database remembers nothing of the first.
    await LedgerStore(database).add([*first, rows.usage_row(deployments[0].id)])

    assert await _sums(database, deployments[0].id) == (6, 60)
    await _require_sums_equal_rows(database, deployments)


async def test_a_row_that_stands_twice_in_one_batch_counts_once(
    ledger: LedgerStore, database: Database, deployments: Sequence[Deployment]
) -> None:
    row = rows.usage_row(deployments[0].id)
    await ledger.add([row, row, rows.usage_row(deployments[1].id), row])
    assert await _sums(database, deployments[0].id) == (1, 10)
    await _require_sums_equal_rows(database, deployments)


async def test_nothing_to_add_is_fine(ledger: LedgerStore, database: Database) -> None:
    await ledger.add([])


async def test_a_batch_larger_than_the_engines_take_bound_values_is_one(
    ledger: LedgerStore, database: Database, deployments: Sequence[Deployment]
) -> None:
    many = [rows.usage_row(deployments[0].id) for _ in range(2500)]
    await ledger.add(many[:1200])
    await ledger.add(many)
    assert await _sums(database, deployments[0].id) == (2500, 25_000)


async def test_writers_at_once_with_the_same_rows_in_any_order_count_each_once(
    database: Database, deployments: Sequence[Deployment]
) -> None:
    chance = random.Random(7)
    all_rows = [rows.usage_row(deployments[n % 3].id, user_id=f"user-{n % 5}") for n in range(60)]

    async def write(store: LedgerStore) -> None:
        for _ in range(4):
            await store.add(chance.sample(all_rows, 20))

    await asyncio.gather(*(write(LedgerStore(database)) for _ in range(6)))
    await LedgerStore(database).add(all_rows)

    assert [await _sums(database, deployment.id) for deployment in deployments] == [(20, 200)] * 3
    await _require_sums_equal_rows(database, deployments)


async def test_a_batch_that_fails_leaves_neither_rows_nor_sums(
    ledger: LedgerStore, database: Database, deployments: Sequence[Deployment]
) -> None:
    deployment_id = deployments[0].id
    await ledger.add([rows.usage_row(deployment_id)])
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE deployment_totals RENAME TO away"))
    batch = [rows.usage_row(deployment_id, user_id=f"new-{n}") for n in range(3)]
    with pytest.raises(Unavailable):
        await ledger.add(batch)
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO deployment_totals"))

    assert await _sums(database, deployment_id) == (1, 10)
    await _require_sums_equal_rows(database, deployments)
    await ledger.add(batch)
    assert await _sums(database, deployment_id) == (4, 40)
    await _require_sums_equal_rows(database, deployments)


async def test_the_rows_of_a_deleted_deployment_stay(
    ledger: LedgerStore, database: Database, deployments: Sequence[Deployment]
) -> None:
    store, deployment = DeploymentStore(database), deployments[0]
    await ledger.add([rows.usage_row(deployment.id)])
    await store.change(deployment, deployment, deleted_at=5)
    await ledger.add([rows.usage_row(deployment.id)])
    assert len(await ledger.of_deployment("red", deployment.id)) == 2


async def test_counting_does_not_wait_for_who_changes_the_deployment(
    ledger: LedgerStore, database: Database, deployments: Sequence[Deployment]
) -> None:
    async with database.reading() as connection:
        if not database.is_shared:
            return  # One writer at a time is all that SQLite has.
    async with database.writing() as connection:
        await connection.execute(text("UPDATE deployments SET name = 'x'"))
        await connection.execute(text("UPDATE models SET name = 'x'"))
        await asyncio.wait_for(ledger.add([rows.usage_row(deployments[0].id)]), PATIENCE)


async def test_names_of_any_script_and_of_the_greatest_length_are_kept(ledger: LedgerStore) -> None:
    """The meter cuts them and takes out what no database keeps; the store writes what it is given."""
    asked = ["x" * 200, "ünï", "🙂" * 200, "", "'; DROP TABLE ledger; --"]
    await ledger.add([rows.usage_row("d" * 24, model_asked=name, model_answered=name) for name in asked])
    assert [row.model_answered for row in await ledger.of_deployment("red", "d" * 24)] == asked
