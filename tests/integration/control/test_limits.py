"""control/limits.py on both databases: what a budget begins with, while the ledger grows."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import pytest

from aiwm.control.limits import Limits, NewLimit
from aiwm.domain.limits import Budget, Per, Subject, SubjectType
from aiwm.domain.pages import PageQuery
from aiwm.domain.prices import OwnPrices
from aiwm.domain.usage import UsageRow
from aiwm.domain.users import Role
from aiwm.metering.limits import Limiter
from aiwm.metering.prices import Prices
from aiwm.metering.worst_case import Ceilings
from aiwm.store.database import Database
from aiwm.store.ledger import LedgerStore
from aiwm.store.limits import LimitStore
from store_rows import principal, usage_row

NOON = 1_795_435_200_000
OWNER = principal("mai", "red", Role.OWNER)
ORG = NewLimit(subject=Subject(SubjectType.ORGANIZATION, "red"), budget=Budget(10**18, Per.DAY))


async def _no_prices(ids: Collection[str]) -> Mapping[str, OwnPrices]:
    return {}


class Office:
    """One program's limits; rows come with their costs."""

    def __init__(self, database: Database) -> None:
        self._ledger = LedgerStore(database)
        clock = lambda: NOON  # noqa: E731 - a clock that stands
        self.limiter = Limiter(prices=Prices(_no_prices), ceilings=Ceilings(1, 1), clock=clock)
        self.limits = Limits(store=LimitStore(database), limiter=self.limiter, add=self._add, clock=clock)

    async def _add(self, rows: Sequence[UsageRow]) -> Sequence[UsageRow]:
        await self._ledger.add(rows)
        return rows

    async def spent(self) -> set[int]:
        """Under each limit there is."""
        listed = await self.limits.list(OWNER, PageQuery(limit=100))
        return {(await self.limits.standing(limit)).spent for limit in listed.items}


@pytest.fixture
def office(database: Database) -> Office:
    return Office(database)


def rows(number: int, cost: int) -> list[UsageRow]:
    return [usage_row("d" * 24, cost=cost, started_at=NOON) for _ in range(number)]


async def test_each_row_is_in_the_sum_or_told_whenever_a_budget_is_made(office: Office) -> None:
    async def books() -> None:
        for _ in range(30):
            await office.limits.saved(rows(3, 7))

    async def limits() -> None:
        for _ in range(10):
            await office.limits.create(OWNER, ORG)
            await office.limits.load()

    await asyncio.gather(books(), limits(), books(), limits())
    assert await office.spent() == {2 * 30 * 3 * 7}


async def test_what_a_dead_process_left_is_counted_once_though_the_ledger_had_it(office: Office) -> None:
    await office.limits.create(OWNER, ORG)
    known, left = rows(2, 5), rows(1, 100)
    await office.limits.saved(known)
    await office.limits.recovered([*known, *left])
    assert await office.spent() == {110}


async def test_a_program_that_starts_begins_with_what_was_spent(database: Database, office: Office) -> None:
    await office.limits.create(OWNER, ORG)
    await office.limits.saved(rows(4, 25))
    again = Office(database)
    await again.limits.load()
    assert await again.spent() == {100}


async def test_what_another_program_changes_is_known_at_the_next_look(database: Database, office: Office) -> None:
    here = await office.limits.create(OWNER, ORG)
    other = Office(database)
    await other.limits.load()
    await other.limits.saved(rows(1, 30))
    there = await other.limits.create(OWNER, ORG)
    await other.limits.delete(OWNER, here.id)
    await office.limits.load()
    assert (await office.limiter.standing(here)).spent == 0
    assert (await office.limiter.standing(there)).spent == 30
