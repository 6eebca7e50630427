"""metering/limits.py: windows, places and money, by a clock of the test's own."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest
from msgspec.structs import replace as with_

from aiwm.domain.ids import new_id
from aiwm.domain.limits import Budget, Limit, Per, Subject, SubjectType
from aiwm.domain.prices import OwnPrices, PriceEntry
from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.domain.users import Principal
from aiwm.errors import TooManyRequests, WrongState
from aiwm.metering.counts import Counts, OwnCounts, Window
from aiwm.metering.limits import Limiter, Pass
from aiwm.metering.metrics import Metrics
from aiwm.metering.prices import Prices
from aiwm.metering.worst_case import Ceilings
from aiwm.providers import registry
from aiwm.targets import Target
from aiwm.wire.origins import Timeouts
from aiwm.wire.urls import base_url
from store_rows import principal, usage_row

NOON = 1_795_435_200_000
DAY = 86_400_000
DOLLAR = 10**12
MODEL = OwnPrices("a-model", [PriceEntry(0, (("input", Decimal(0)), ("output", Decimal(1_000_000))))])
"""A dollar for each token that is written."""
DEPLOYMENT = "d" * 24
KEY = Subject(SubjectType.API_KEY, "k" * 24)
MAI = Subject(SubjectType.USER, "mai")
ORG = Subject(SubjectType.ORGANIZATION, "red")


class Time:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


async def _no_prices(ids: Collection[str]) -> Mapping[str, OwnPrices]:
    return {}


TARGET = Target(
    deployment_id=DEPLOYMENT,
    org_id="red",
    model_id="m" * 24,
    provider=registry.provider("openai"),
    base=base_url("https://provider.example"),
    lines=b"",
    replaced=frozenset(),
    defaults=(),
    query=(),
    secrets=(),
    model="a-model",
    aliases=frozenset(),
    allowed=None,
    timeouts=Timeouts(1, 1, 1),
    prices=MODEL,
)


class Door:
    """A limiter with one limit, and requests that come to it."""

    def __init__(self, subject: Subject = MAI, **numbers: Any) -> None:
        self.time = Time()
        self.counts = Counts(self.time)
        self.limiter = Limiter(
            prices=Prices(_no_prices),
            ceilings=Ceilings(1000, 100),
            clock=self.time,
            counts=OwnCounts(self.counts),
        )
        self.limit = Limit(
            id=new_id(),
            org_id="red",
            subject=subject,
            created_by="",
            updated_by="",
            created_at=0,
            updated_at=0,
            **numbers,
        )
        self.put(self.limit)

    def put(self, limit: Limit) -> None:
        self.limiter.know(limit)
        self.counts.put(limit)

    def remove(self, limit: Limit) -> None:
        self.limiter.forget(limit.org_id, limit.id)
        self.counts.remove(limit.id)

    async def enter(
        self,
        *,
        request: str = "",
        who: Principal | None = None,
        target: Target = TARGET,
        method: bytes = b"POST",
        asked: str | None = "a-model",
        **body: Any,
    ) -> Pass:
        return await self.limiter.enter(
            who or principal(),
            target,
            request_id=request or new_id(),
            method=method,
            asked=asked,
            body=orjson.dumps({"max_tokens": 1} | body),
            length=None,
        )

    async def refused(self, **request: Any) -> tuple[int, str]:
        with pytest.raises(TooManyRequests) as caught:
            await self.enter(**request)
        return int(caught.value.headers["retry-after"]), str(caught.value)

    def row(self, request_id: str, tokens: int = 1, **changes: Any) -> UsageRow:
        """As the meter closes it: its cost comes with `saved`."""
        fields = {
            "model_asked": "a-model", "model_answered": "a-model", "request_id": request_id,
            "started_at": self.time.now, "usage": Usage(output_tokens=tokens),
        }  # fmt: skip
        return usage_row(DEPLOYMENT, **fields | changes)

    def saved(self, row: UsageRow) -> None:
        cost = Prices(_no_prices).cost(row, MODEL)
        self.limiter.saved([with_(row, cost=cost)])

    @property
    def money(self) -> tuple[float, float]:
        """In dollars: spent, reserved."""
        standing = self.counts.standing(self.limit.id)
        return standing.spent / DOLLAR, standing.reserved / DOLLAR


# --- windows -------------------------------------------------------------------------------------------------


async def test_requests_wait_until_the_first_of_the_last_minute_is_a_minute_old() -> None:
    door = Door(requests_per_minute=2)
    await door.enter()
    door.time.passes(20)
    await door.enter()
    assert await door.refused() == (41, "The limit of user mai is 2 requests per minute; try again in 41 s")
    door.time.passes(40.9)
    assert (await door.refused())[0] == 1
    door.time.passes(0.1)
    await door.enter()
    assert (await door.refused())[0] == 20


async def test_a_request_that_is_refused_takes_nothing() -> None:
    door = Door(requests_per_minute=1)
    await door.enter()
    for _ in range(100):
        await door.refused()
    door.time.passes(61)
    await door.enter()


def test_no_minute_has_more_than_a_window_lets_through() -> None:
    choice = random.Random(7)
    window, now, entered = Window(), NOON, []
    for _ in range(5000):
        now += choice.randrange(0, 2000)
        if window.sum(now) < 10:
            window.add(now, 1)
            entered.append(now)
        else:
            wait = window.seconds_until(now, 9) * 1000
            assert window.sum(now) == 10
            assert 1000 <= wait <= 61_000
    assert all(later - first >= 60_000 for first, later in zip(entered, entered[10:], strict=False))
    assert len(entered) > 600


def test_who_waits_as_long_as_is_said_finds_room() -> None:
    choice = random.Random(7)
    window, now = Window(), NOON
    for _ in range(500):
        amount = choice.randrange(1, 50)
        if window.sum(now) + amount > 100:
            now += window.seconds_until(now, 100 - amount) * 1000
        assert window.sum(now) + amount <= 100
        window.add(now, amount)
        now += choice.randrange(0, 5000)


async def test_tokens_are_counted_as_answers_tell_and_meanwhile_as_is_likely() -> None:
    door = Door(tokens_per_minute=100)
    passed = await door.enter(max_tokens=60)
    wait, said = await door.refused(max_tokens=60)
    assert (wait, said) == (1, "The limit of user mai is 100 tokens per minute; try again in 1 s")
    passed.leave(door.row(new_id(), 30))
    door.time.passes(10)
    (await door.enter(max_tokens=60)).leave(door.row(new_id(), 60))
    assert (await door.refused(max_tokens=60))[0] == 61
    assert (await door.refused(max_tokens=20))[0] == 51
    assert door.counts.standing(door.limit.id).tokens == 90


async def test_a_request_that_asks_for_more_than_a_minute_has_goes_alone() -> None:
    door = Door(tokens_per_minute=10)
    passed = await door.enter(max_tokens=5000)
    await door.refused(max_tokens=1)
    passed.leave(door.row(new_id(), 5000))
    assert (await door.refused())[0] == 61
    door.time.passes(61)
    await door.enter()


async def test_places_are_given_back_whatever_became_of_the_request() -> None:
    door = Door(concurrent_requests=2)
    first, second = await door.enter(), await door.enter()
    assert await door.refused() == (1, "The limit of user mai is 2 requests at the same time; try again in 1 s")
    first.leave(None)
    first.leave(None)
    third = await door.enter()
    await door.refused()
    for passed in (second, third):
        passed.leave(door.row(new_id()))
    assert door.counts.standing(door.limit.id).concurrent == 0


# --- whose requests ------------------------------------------------------------------------------------------


async def test_requests_of_others_are_not_counted() -> None:
    door = Door(requests_per_minute=1)
    await door.enter()
    await door.enter(who=principal("lan"))
    await door.refused()
    assert not door.limiter.limits(principal(), replace(TARGET, org_id="blue"))
    await door.enter(target=replace(TARGET, org_id="blue"))


async def test_what_a_users_key_does_counts_for_the_key_and_the_user() -> None:
    with_key = replace(principal(), api_key_id=KEY.id)
    for subject in (KEY, MAI, ORG, Subject(SubjectType.DEPLOYMENT, DEPLOYMENT)):
        door = Door(subject, requests_per_minute=1)
        await door.enter(who=with_key)
        assert str(subject) in (await door.refused(who=with_key))[1]


async def test_a_request_takes_of_all_limits_or_of_none() -> None:
    door = Door(ORG, requests_per_minute=5)
    narrow = replace(door.limit, id=new_id(), subject=MAI, requests_per_minute=1)
    door.put(narrow)
    await door.enter()
    for _ in range(10):
        assert "user mai" in (await door.refused())[1]
    assert door.counts.standing(door.limit.id).requests == 1


async def test_a_changed_limit_goes_on_counting_and_a_removed_one_is_forgotten() -> None:
    door = Door(requests_per_minute=1)
    await door.enter()
    door.put(replace(door.limit, requests_per_minute=2))
    await door.enter()
    await door.refused()
    door.remove(door.limit)
    assert not door.limiter.limits(principal(), TARGET)
    await door.enter()


async def test_limits_that_are_not_kept_are_removed() -> None:
    door = Door(requests_per_minute=1)
    other = replace(door.limit, id=new_id())
    door.put(other)
    door.limiter.know_all([other])
    door.counts.keep([other.id])
    await door.enter()
    assert door.counts.standing(door.limit.id).requests == 0
    assert door.counts.standing(other.id).requests == 1


# --- money ---------------------------------------------------------------------------------------------------


def rich(dollars: int, per: Per = Per.DAY, **changes: Any) -> Door:
    return Door(budget=Budget(dollars * DOLLAR, per), **changes)


async def test_the_most_is_reserved_until_the_cost_is_spent() -> None:
    door = rich(10)
    passed = await door.enter(request="1" * 24, max_tokens=8)
    assert door.money == (0, 8)
    row = door.row("1" * 24, 3)
    passed.leave(row)
    assert door.money == (3, 0)
    door.saved(row)
    assert door.money == (3, 0)


async def test_the_ledger_may_be_quicker_than_the_end_of_the_request() -> None:
    door = rich(10)
    passed = await door.enter(request="1" * 24, max_tokens=8)
    row = door.row("1" * 24, 3)
    door.saved(row)
    passed.leave(row)
    assert door.money == (3, 0)


async def test_a_request_that_may_cost_more_than_is_left_is_refused() -> None:
    door = rich(10)
    first = await door.enter(request="1" * 24, max_tokens=6)
    wait, said = await door.refused(max_tokens=5)
    assert wait == 1
    assert said == (
        "The budget of user mai is 10 USD a day: 0 USD are spent, 6 USD reserved for requests under way, and this one "
        "may cost 5 USD; try again in 1 s, or allow fewer tokens to be written (such as max_tokens)"
    )
    await door.enter(max_tokens=4)
    row = door.row("1" * 24, 6)
    first.leave(row)
    assert (await door.refused(max_tokens=5))[0] == (Per.DAY.end(NOON) - NOON) // 1000


async def test_a_new_day_has_a_new_budget_and_what_began_before_is_not_of_it() -> None:
    door = rich(10)
    late = await door.enter(request="1" * 24, max_tokens=10)
    row = door.row("1" * 24, 10)
    door.time.passes(86_400)
    await door.enter(max_tokens=10)
    late.leave(row)
    door.saved(row)
    assert door.money == (0, 10)


async def test_a_month_is_no_day() -> None:
    door = rich(10, Per.MONTH)
    await door.enter(max_tokens=10)
    door.time.passes(86_400)
    await door.refused()


async def test_what_never_reached_the_provider_is_not_spent() -> None:
    door = rich(10)
    (await door.enter()).leave(None)
    passed = await door.enter(request="1" * 24)
    row = door.row("1" * 24, 0, status=None, end=End.PROVIDER_BROKE, source=Source.NONE)
    passed.leave(row)
    assert door.money == (0, 0)
    door.saved(row)
    assert door.money == (0, 0)


async def test_an_answer_whose_cost_is_not_known_is_taken_for_the_most() -> None:
    door = rich(10)
    passed = await door.enter(request="1" * 24, max_tokens=8)
    row = door.row("1" * 24, 0, source=Source.NONE, raw_usage=None)
    passed.leave(row)
    assert door.money == (0, 8)
    door.saved(row)
    assert door.money == (8, 0)
    door.counts.spent(door.limit.id, Per.DAY.begin(NOON), 0)
    assert door.money == (8, 0)


async def test_a_refusal_of_the_provider_gives_all_of_it_back() -> None:
    door = rich(10)
    passed = await door.enter(request="1" * 24, max_tokens=8)
    passed.leave(door.row("1" * 24, 0, status=429, source=Source.NONE, raw_usage=None))
    assert door.money == (0, 0)


async def test_what_was_spent_before_is_told_and_rows_without_a_pass_are_added() -> None:
    door = rich(10)
    door.counts.spent(door.limit.id, Per.DAY.begin(NOON), 4 * DOLLAR)
    door.saved(door.row(new_id(), 3))
    door.saved(door.row(new_id(), 3, started_at=NOON - DAY))
    assert door.money == (7, 0)
    door.counts.spent(door.limit.id, Per.DAY.begin(NOON - DAY), 9 * DOLLAR)
    assert door.money == (7, 0)


async def test_without_a_price_a_budget_can_not_be_kept_and_says_so() -> None:
    door = rich(10)
    unpriced = replace(TARGET, prices=None)
    with pytest.raises(WrongState, match=r'nobody knows a price of the model "a-model"\. Set `prices` of the model'):
        await door.enter(target=unpriced)
    with pytest.raises(WrongState, match="it names no model"):
        await door.enter(target=unpriced, asked=None)
    with pytest.raises(WrongState, match='the model "another"'):
        await door.enter(asked="another")
    await door.enter(target=unpriced, method=b"GET", asked=None)
    assert door.money == (0, 0)


async def test_an_engine_of_ours_without_a_price_costs_nothing() -> None:
    door = rich(10)
    base = TARGET.base
    ours = replace(TARGET, prices=None, base=replace(base, origin=base.origin._replace(ours=True)))
    await door.enter(target=ours)
    assert door.money == (0, 0)


async def test_whatever_comes_together_never_more_than_the_budget_is_promised() -> None:
    choice = random.Random(7)
    door = rich(50)
    under_way: list[tuple[str, int, Pass]] = []
    spent = 0
    for _ in range(5000):
        if choice.random() < 0.6:
            id_, most = new_id(), choice.randrange(1, 10)
            try:
                under_way.append((id_, most, await door.enter(request=id_, max_tokens=most)))
            except TooManyRequests:
                continue
        elif under_way:
            id_, most, passed = under_way.pop(choice.randrange(len(under_way)))
            row = door.row(id_, choice.randrange(1, most + 1))
            spent += row.usage.output_tokens
            steps = [lambda row=row, passed=passed: passed.leave(row), lambda row=row: door.saved(row)]
            choice.shuffle(steps)
            for step in steps:
                step()
        assert sum(door.money) <= 50
    for _, _, passed in under_way:
        passed.leave(None)
    assert door.money == (spent, 0)
    assert 40 < spent <= 50


async def test_refusals_are_counted_by_what_the_limit_is_for_and_what_of_it_was_used_up() -> None:
    door = Door(KEY, concurrent_requests=1, requests_per_minute=2)
    caller = replace(principal(), api_key_id=KEY.id)
    first = await door.enter(who=caller)
    await door.refused(who=caller)
    first.leave(None)
    (await door.enter(who=caller)).leave(None)
    await door.refused(who=caller)
    await door.refused(who=caller)
    assert door.limiter.refused == {("apiKey", "concurrentRequests"): 1, ("apiKey", "requestsPerMinute"): 2}
    metrics = Metrics(waiting=lambda: 0, failing=lambda: False, refused=lambda: door.limiter.refused)
    told = metrics.exposition().decode()
    assert 'aiwm_refused_requests_total{limit="requestsPerMinute",subject="apiKey"} 2.0' in told
    assert KEY.id not in told
