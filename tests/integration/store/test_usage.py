"""store/usage.py: reports are the sums of the rows they are about, and rows are read in pages that do not shift."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Select, select, text
from sqlalchemy.dialects import sqlite

import store_rows as rows
from aiwm.domain.reports import DAY_MS, HOUR_MS, Dimension, Period, Place, ReportQuery, RowQuery, Span
from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.errors import Invalid
from aiwm.store import deployments as deployments_
from aiwm.store import usage as usage_
from aiwm.store.database import Database
from aiwm.store.deployments import DeploymentStore
from aiwm.store.ledger import LedgerStore
from aiwm.store.models import ModelStore
from aiwm.store.usage import UsageStore

MIDNIGHT = 20_000 * DAY_MS
RED, BLUE = rows.principal(org="red"), rows.principal(org="blue")
WEEK = Span(since=MIDNIGHT, until=MIDNIGHT + 7 * DAY_MS)


@pytest.fixture
def usage(database: Database) -> UsageStore:
    return UsageStore(database)


def _at(hours: float, **changes: Any) -> UsageRow:
    """A row that started some hours after midnight."""
    deployment_id = changes.pop("deployment_id", "d" * 24)
    return rows.usage_row(deployment_id, started_at=MIDNIGHT + round(hours * HOUR_MS), **changes)


async def _add(database: Database, *given: UsageRow) -> None:
    await LedgerStore(database).add(given)


def _some(number: int) -> Sequence[UsageRow]:
    chance = random.Random(5)
    return [
        _at(
            chance.uniform(0, 24 * 7),
            user_id=f"user-{chance.randrange(3)}",
            api_key_id=chance.choice([None, "e" * 24]),
            provider=chance.choice(["openai", "anthropic"]),
            model_answered=chance.choice(["gpt-4-0613", None, ""]),
            model_asked=chance.choice(["gpt-4", None]),
            status=chance.choice([200, 200, 429, None]),
            end=chance.choice([End.COMPLETE, End.CLIENT_GONE]),
            usage=Usage(*(chance.randrange(100) for _ in Usage.__struct_fields__)),
            cost=chance.choice([None, 0, 123_456_789]),
            first_byte_ms=chance.choice([None, 7, 900]),
            total_ms=chance.randrange(2000),
        )
        for _ in range(number)
    ]


@pytest.mark.parametrize("period", [None, Period.DAY, Period.HOUR])
async def test_every_group_is_the_sum_of_its_rows(usage: UsageStore, database: Database, period: Period | None) -> None:
    some = _some(200)
    for first in range(0, 200, 50):
        await _add(database, *some[first : first + 50])
    span = Span(since=MIDNIGHT + 5 * HOUR_MS, until=MIDNIGHT + 100 * HOUR_MS)
    query = ReportQuery(span=span, by=(Dimension.USER, Dimension.MODEL, Dimension.API_KEY), period=period)

    report = await usage.report(RED, query)

    summed = report.span
    expected: defaultdict[tuple[Any, ...], list[UsageRow]] = defaultdict(list)
    for row in some:
        if summed.since <= row.started_at < summed.until:
            start = row.started_at - row.started_at % period.ms if period else None
            expected[row.user_id, row.model or None, row.api_key_id, start].append(row)
    found = {(*group.of.values(), group.start): group.sums for group in report.groups}
    assert found.keys() == expected.keys()
    for key, sums in found.items():
        of = expected[key]
        assert sums.requests == len(of)
        assert sums.errors == sum(row.failed for row in of)
        assert sums.usage == sum((row.usage for row in of), Usage())
        assert (sums.cost, sums.unpriced) == (sum(row.cost or 0 for row in of), sum(row.unpriced for row in of))
        assert sums.total_ms == sum(row.total_ms for row in of)
        assert sums.first_byte_count == sum(row.first_byte_ms is not None for row in of)
    inside = [row for of in expected.values() for row in of]
    assert report.totals.requests == len(inside) > 50
    assert report.totals.usage == sum((row.usage for row in inside), Usage())
    assert report.span == (span if period is not Period.DAY else span.in_whole(Period.DAY))


async def test_a_report_is_about_one_organization_and_what_it_is_asked_for(
    usage: UsageStore, database: Database
) -> None:
    await _add(
        database, _at(1), _at(2, user_id="bo"), _at(3, org_id="blue"), _at(4, provider="x"), _at(24 * 7), _at(-0.1)
    )
    one = await usage.report(RED, ReportQuery(span=WEEK, equals={Dimension.USER: "mai", Dimension.PROVIDER: "openai"}))
    assert one.totals.requests == 1
    assert [group.of for group in one.groups] == [{}]
    assert (await usage.report(BLUE, ReportQuery(span=WEEK))).totals.requests == 1
    nothing = await usage.report(rows.principal(org="green"), ReportQuery(span=WEEK, by=(Dimension.USER,)))
    assert (nothing.groups, nothing.totals.requests) == ([], 0)


async def test_an_api_key_for_some_deployments_is_told_of_these_only(usage: UsageStore, database: Database) -> None:
    other = _at(2, deployment_id="a" * 24)
    await _add(database, _at(1), other, _at(3, deployment_id="a" * 24, org_id="blue"))
    limited = replace(RED, deployments=frozenset({"a" * 24}))
    assert (await usage.report(limited, ReportQuery(span=WEEK))).totals.requests == 1
    assert await usage.rows(limited, RowQuery()) == [other]
    none = replace(RED, deployments=frozenset())
    assert (await usage.report(none, ReportQuery(span=WEEK))).totals.requests == 0
    assert await usage.row(none, other.request_id) is None


async def test_names_of_models_that_callers_make_up_have_no_sums_of_their_own(
    usage: UsageStore, database: Database
) -> None:
    made_up = [_at(1, model_asked=f"made-up-{n}", model_answered=None, status=404 - 4 * (n % 2)) for n in range(9)]
    await _add(database, *made_up, _at(1, model_asked="gpt-4", model_answered=None, status=429))
    report = await usage.report(RED, ReportQuery(span=WEEK, by=(Dimension.MODEL,)))
    assert {group.of[Dimension.MODEL]: group.sums.requests for group in report.groups} == {None: 9, "gpt-4": 1}


async def test_whoever_has_the_database_at_hand_is_told_of_all(usage: UsageStore, database: Database) -> None:
    await _add(database, _at(1), _at(2, org_id="blue"))
    assert (await usage.report(None, ReportQuery(span=WEEK))).totals.requests == 2


async def test_where_hours_are_no_longer_kept_whole_days_are_summed(usage: UsageStore, database: Database) -> None:
    await _add(database, _at(1), _at(23), _at(30), _at(49), _at(60))
    store = LedgerStore(database)
    while await store.expire(MIDNIGHT + 2 * DAY_MS + 1):
        # What began to go is not asked any more, however much of it is still there.
        assert (await usage.report(RED, ReportQuery(span=WEEK, period=Period.DAY))).totals.requests == 5

    def asked(since: float, until: float, period: Period | None = None) -> ReportQuery:
        span = Span(since=MIDNIGHT + round(since * HOUR_MS), until=MIDNIGHT + round(until * HOUR_MS))
        return ReportQuery(span=span, period=period)

    early = await usage.report(RED, asked(2, 26))
    assert early.span == Span(since=MIDNIGHT, until=MIDNIGHT + 2 * DAY_MS)
    assert early.totals.requests == 3
    late = await usage.report(RED, asked(2, 50))
    assert late.span == Span(since=MIDNIGHT, until=MIDNIGHT + 50 * HOUR_MS)
    assert late.totals.requests == 4
    assert len((await usage.report(RED, asked(48, 72, Period.HOUR))).groups) == 2
    with pytest.raises(Invalid, match=r"hours are kept from 2024-10-06T00:00:00\.000Z on"):
        await usage.report(RED, asked(47, 72, Period.HOUR))


async def test_pages_of_rows_neither_shift_nor_leave_one_out(usage: UsageStore, database: Database) -> None:
    given = [_at(hour // 3) for hour in range(20)]  # Three at a time have the same time.
    await _add(database, *given, _at(1, org_id="blue"))
    seen: list[UsageRow] = []
    place = None
    while found := await usage.rows(RED, RowQuery(limit=6, after=place)):
        seen += found
        place = Place.of(found[-1])
        await _add(database, _at(100 + len(seen)))  # Comes while somebody reads.
    assert sorted(seen, key=lambda row: row.request_id) == sorted(given, key=lambda row: row.request_id)
    assert seen == sorted(seen, key=lambda row: (row.started_at, row.request_id), reverse=True)


async def test_all_rows_are_read_a_few_at_a_time(
    usage: UsageStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiwm.store.usage._ROWS_AT_ONCE", 3)
    given = [_at(hour) for hour in range(7)]
    await _add(database, *given)
    query = RowQuery(since=MIDNIGHT + HOUR_MS, until=MIDNIGHT + 6 * HOUR_MS)
    assert [row async for row in usage.every(RED, query)] == list(reversed(given[1:6]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deployment", "a" * 24),
        ("user", "bo"),
        ("apiKey", "e" * 24),
        ("provider", "anthropic"),
        ("status", 429),
        ("end", "client-gone"),
        ("source", "estimated"),
        ("model", "claude"),
        ("correlationId", "order-7"),
    ],
)
async def test_rows_are_found_by_what_they_say(
    usage: UsageStore, database: Database, name: str, value: str | int
) -> None:
    special = _at(
        1,
        deployment_id="a" * 24,
        user_id="bo",
        api_key_id="e" * 24,
        provider="anthropic",
        status=429,
        end=End.CLIENT_GONE,
        source=Source.ESTIMATED,
        model_answered="claude",
        correlation_id="order-7",
    )
    await _add(database, special, _at(2), _at(1, org_id="blue"))
    assert await usage.rows(RED, RowQuery(equals={name: value})) == [special]


async def test_a_row_is_found_by_the_model_asked_for_only_if_no_other_answered(
    usage: UsageStore, database: Database
) -> None:
    silent = _at(1, model_asked="gpt-4", model_answered=None)
    await _add(database, silent, _at(2, model_asked="gpt-4", model_answered="gpt-4-0613"))
    assert await usage.rows(RED, RowQuery(equals={"model": "gpt-4"})) == [silent]


async def test_a_request_without_a_correlation_id_of_its_own_is_found_by_its_id(
    usage: UsageStore, database: Database
) -> None:
    request_id = "ab" * 12
    row = _at(1, request_id=request_id, correlation_id=request_id)
    await _add(database, row, _at(2, correlation_id=request_id[:-2]))
    assert await usage.rows(RED, RowQuery(equals={"correlationId": request_id})) == [row]


async def test_a_row_is_read_by_its_own_organization_only(usage: UsageStore, database: Database) -> None:
    row = _at(1)
    await _add(database, row)
    assert await usage.row(RED, row.request_id) == row
    assert await usage.row(BLUE, row.request_id) is None
    assert await usage.row(RED, "f" * 24) is None


async def test_old_rows_go_and_the_sums_of_days_and_deployments_stay(
    usage: UsageStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiwm.store.ledger._EXPIRED_AT_ONCE", 2)
    model = rows.model()
    await ModelStore(database).add(model)
    deployment = rows.deployment(model)
    await DeploymentStore(database).add(deployment)
    ours = {"deployment_id": deployment.id}
    kept = [_at(50, **ours), _at(73, **ours)]
    await _add(database, *(_at(hour, **ours) for hour in (1, 2, 3, 25, 49)), *kept, _at(1, org_id="blue"))
    await _add(database, _at(50, org_id="blue"))

    store, steps = LedgerStore(database), 0
    while await store.expire(MIDNIGHT + 50 * HOUR_MS):
        steps += 1
        assert steps < 20

    assert steps == 3 + 1 + 4  # Two rows at a time of each organization, then hour by hour of two days.
    assert await usage.rows(RED, RowQuery()) == list(reversed(kept))
    assert len(await usage.rows(BLUE, RowQuery())) == 1
    found = await DeploymentStore(database).by_id(deployment.id)
    assert found is not None
    assert found.totals.requests == 7
    days = await usage.report(RED, ReportQuery(span=WEEK, period=Period.DAY))
    assert [group.sums.requests for group in days.groups] == [3, 1, 2, 1]
    # Of the day that is not wholly before the time, all hours are there.
    third = Span(since=MIDNIGHT + 48 * HOUR_MS, until=MIDNIGHT + 72 * HOUR_MS)
    hours = await usage.report(RED, ReportQuery(span=third, period=Period.HOUR))
    assert [group.sums.requests for group in hours.groups] == [1, 1]
    assert not await store.expire(MIDNIGHT + 50 * HOUR_MS)
    # Who keeps them longer from now on has not got them back.
    assert not await store.expire(MIDNIGHT)
    with pytest.raises(Invalid, match="hours are kept from"):
        await usage.report(RED, ReportQuery(span=WEEK, period=Period.HOUR))


async def _plan(database: Database, statement: Select[Any]) -> str:
    async with database.reading() as connection:
        if database.is_shared:
            pytest.skip("PostgreSQL chooses by how much there is")
        spelled = statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
        return "\n".join(row[-1] for row in await connection.execute(text(f"EXPLAIN QUERY PLAN {spelled}")))


async def test_a_report_reads_the_sums_of_its_own_organization_and_time_only(database: Database) -> None:
    query = ReportQuery(span=WEEK, by=(Dimension.USER,))
    for period in Period:
        plan = await _plan(database, usage_._sums(RED, query, period, WEEK))
        assert "USING PRIMARY KEY (series_id=? AND hours=? AND start>? AND start<?)" in plan
        assert "ix_usage_series_org_id" in plan
        assert "SCAN" not in plan


@pytest.mark.parametrize("equals", [{}, {"deployment": "d" * 24}, {"status": 200, "model": "gpt-4"}], ids=str)
async def test_a_page_of_rows_is_read_in_the_order_of_an_index(database: Database, equals: dict[str, Any]) -> None:
    plan = await _plan(database, usage_._found(RED, RowQuery(equals=equals, since=WEEK.since)))
    assert plan.startswith("SEARCH ledger USING INDEX ix_ledger_org_hash_started_at")
    assert "SCAN" not in plan
    assert "TEMP B-TREE" not in plan


async def test_the_totals_of_a_deployment_are_one_look_up(database: Database) -> None:
    statement = select(deployments_._with_totals).where(deployments_._with_totals.c.id == "d" * 24)
    plan = await _plan(database, statement)
    assert "SCAN" not in plan
    assert "deployment_id=?" in plan
