"""Workers and their parent in one process: real lines between them, real locks and numbers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from aiwm.domain import times
from aiwm.domain.ids import new_id
from aiwm.domain.limits import Budget, Limit, Per, Subject, SubjectType
from aiwm.errors import Unavailable
from aiwm.workers.line import Line
from aiwm.workers.siblings import Joined, Siblings
from aiwm.workers.switchboard import Switchboard
from patience import PATIENCE

BUDGET = Limit(
    id=new_id(),
    org_id="red",
    subject=Subject(SubjectType.USER, "mai"),
    budget=Budget(100, Per.DAY),
    created_by="",
    updated_by="",
    created_at=0,
    updated_at=0,
)


class Family:
    """A parent, and workers that are born and die as a test wants it."""

    def __init__(self, *, patience_seconds: float = 60) -> None:
        self.ended: list[int] = []
        self.switchboard = Switchboard(stuck=self._end, patience_seconds=patience_seconds)
        self._lives: dict[int, AsyncExitStack] = {}

    async def born(self, number: int, **hear: Callable[..., Any]) -> Joined:
        ours, theirs = socket.socketpair()
        parent = Line(self.switchboard.words(number, lambda: parent))
        await parent.open(ours)
        worker = Joined(number)
        self._lives[number] = AsyncExitStack()
        await self._lives[number].enter_async_context(worker.on(theirs.detach(), orphaned=lambda: None))
        await worker.join({"died": lambda: None, **hear})
        return worker

    async def dies(self, number: int) -> None:
        await self._lives.pop(number).aclose()
        await self.switchboard.left(number)

    async def all_die(self) -> None:
        for number in list(self._lives):
            await self.dies(number)

    def _end(self, number: int) -> None:
        self.ended.append(number)
        self._task = asyncio.create_task(self.dies(number))


@pytest.fixture
async def family() -> AsyncIterator[Family]:
    family = Family()
    yield family
    await family.all_die()


# --- one alone -----------------------------------------------------------------------------------------------


async def test_who_has_no_siblings_has_nobody_to_ask_and_nothing_to_wait_for() -> None:
    alone = Siblings()
    assert alone.leads
    await alone.join({})
    await alone.changed("deployment", "1")
    assert await alone.ask("flush") == []
    assert await alone.deaths() == []
    await alone.alone()
    async with alone.lock("ledger"):
        alone.lead("anything")


# --- changes -------------------------------------------------------------------------------------------------


async def test_a_change_has_been_followed_by_all_others_when_it_is_told(family: Family) -> None:
    followed: list[tuple[int, str]] = []

    def follower(number: int) -> Callable[[str], Any]:
        async def follow(what: str) -> None:
            await asyncio.sleep(0.01)
            followed.append((number, what))

        return follow

    one, *_ = [await family.born(number, deployment=follower(number)) for number in (1, 2, 3)]
    await one.changed("deployment", "d")
    assert sorted(followed) == [(2, "d"), (3, "d")]


async def test_who_does_not_follow_in_time_is_ended_before_the_change_is_done() -> None:
    family = Family(patience_seconds=0.5)
    one = await family.born(1)
    await family.born(2, deployment=lambda _: asyncio.Event().wait())
    await one.changed("deployment", "d")
    assert family.ended == [2]
    assert len(await one.deaths()) == 1
    await family.all_die()


async def test_a_change_is_followed_by_who_joins_while_it_is_made_or_not_needed_any_more(family: Family) -> None:
    one = await family.born(1)
    await one.changed("deployment", "d")
    heard: list[str] = []
    await family.born(2, deployment=heard.append)
    await one.changed("deployment", "e")
    assert heard == ["e"]


async def test_who_parts_ends_what_it_was_told_to_do_and_is_told_nothing_more(family: Family) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def follow(_: str) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    one = await family.born(1, flush=lambda: 1)
    two = await family.born(2, deployment=follow, flush=lambda: 2)
    change = asyncio.create_task(one.changed("deployment", "d"))
    await begun.wait()
    await two.part()
    assert ended.is_set()
    await change  # Who serves nobody any more has followed.
    await one.changed("deployment", "e")
    assert await one.ask("flush") == []
    assert await two.ask("flush") == [1]
    assert family.ended == []


async def test_an_answer_is_each_others_and_a_reason_is_told(family: Family) -> None:
    def refuse() -> None:
        raise Unavailable("the disk is full")

    one = await family.born(1, flush=lambda: 1)
    two = await family.born(2, flush=lambda: 2)
    assert (await one.ask("flush"), await two.ask("flush")) == ([2], [1])
    await family.born(3, flush=refuse)
    with pytest.raises(Unavailable, match="the disk is full"):
        await one.ask("flush")


async def test_the_leader_is_told_and_nobody_else(family: Family) -> None:
    heard: list[str] = []
    woken = asyncio.Event()

    def wake(what: str) -> None:
        heard.append(what)
        woken.set()

    one = await family.born(1, wake=wake)
    two = await family.born(2, wake=lambda _: heard.append("not two"))
    assert (one.leads, two.leads) == (True, False)
    two.lead("wake", "d")
    await asyncio.wait_for(woken.wait(), PATIENCE)
    assert heard == ["d"]


async def test_who_is_left_alone_is_told_so(family: Family) -> None:
    one = await family.born(1)
    await family.born(2)
    waiting = asyncio.create_task(one.alone())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await family.dies(2)
    await asyncio.wait_for(waiting, PATIENCE)


# --- locks ---------------------------------------------------------------------------------------------------


async def test_a_lock_is_held_by_one_worker_at_a_time(family: Family) -> None:
    held = most = 0

    async def hold(worker: Joined) -> None:
        nonlocal held, most
        async with worker.lock("ledger"):
            held += 1
            most = max(most, held)
            await asyncio.sleep(0.001)
            held -= 1

    workers = [await family.born(number) for number in (1, 2, 3)]
    await asyncio.gather(*(hold(worker) for worker in workers * 10))
    assert most == 1


async def test_a_lock_of_one_that_died_or_gave_up_waiting_is_had_by_the_next(family: Family) -> None:
    one, two, three = [await family.born(number) for number in (1, 2, 3)]
    locks = [each.lock("ledger") for each in (one, two, three)]
    await locks[0].__aenter__()
    given_up = asyncio.create_task(locks[1].__aenter__())
    await asyncio.sleep(0.01)
    given_up.cancel()
    waiting = asyncio.create_task(locks[2].__aenter__())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await family.dies(1)
    await asyncio.wait_for(waiting, PATIENCE)
    await locks[2].__aexit__(None, None, None)


# --- limits --------------------------------------------------------------------------------------------------


async def test_all_take_from_one_budget(family: Family) -> None:
    one, two = [(await family.born(number)).counts for number in (1, 2)]
    assert one is not None
    assert two is not None
    one.put(BUDGET)
    taken = await asyncio.gather(*(each.take([BUDGET.id], new_id(), 0, 10) for each in (one, two) * 10))
    assert [refusal is None for refusal in taken].count(True) == 10
    assert {refusal.limit for refusal in taken if refusal} == {"budget"}
    assert (await two.standing(BUDGET.id)).reserved == 100


async def test_what_a_worker_has_taken_comes_back_when_it_dies_its_money_when_its_rows_are_read(family: Family) -> None:
    limit = replace(BUDGET, concurrent_requests=5)
    one = await family.born(1)
    two = await family.born(2)
    assert one.counts is not None
    assert two.counts is not None
    one.counts.put(limit)
    for _ in range(5):
        assert await two.counts.take([limit.id], new_id(), 0, 20) is None
    answered = new_id()
    refusal = await one.counts.take([limit.id], answered, 0, 1)
    assert refusal is not None
    assert refusal.limit == "concurrentRequests"

    await family.dies(2)

    standing = await one.counts.standing(limit.id)
    assert (standing.concurrent, standing.reserved) == (0, 100)
    refusal = await one.counts.take([limit.id], answered, 0, 1)
    assert refusal is not None
    assert refusal.limit == "budget"
    [death] = await one.deaths()
    one.counts.spent(limit.id, Per.DAY.begin(times.now()), 90)
    one.mourned([death])
    assert await one.counts.take([limit.id], answered, 0, 10) is None
    assert await one.deaths() == []


async def test_a_row_that_is_saved_before_its_request_is_over_leaves_nothing_behind(family: Family) -> None:
    one = await family.born(1)
    assert one.counts is not None
    one.counts.put(BUDGET)
    request = new_id()
    await one.counts.take([BUDGET.id], request, 0, 50)
    one.counts.saved([(request, times.now(), 7, [BUDGET.id])])
    one.counts.leave(request, 3, 7)
    standing = await one.counts.standing(BUDGET.id)
    assert (standing.spent, standing.reserved, standing.concurrent) == (7, 0, 0)


# --- lines ---------------------------------------------------------------------------------------------------


async def test_words_of_any_size_arrive_in_their_order() -> None:
    ours, theirs = socket.socketpair()
    heard: list[int] = []
    one, two = Line({}), Line({"say": lambda text: heard.append(len(text)), "last": lambda: "over"})
    await one.open(ours)
    await two.open(theirs)
    sizes = [0, 1, 1_000_000, 3, 200_000, 70_000]
    for size in sizes:
        one.tell("say", "x" * size)
    assert await one.ask("last") == "over"
    assert heard == sizes
    one.close()
    two.close()


async def test_a_word_that_nobody_knows_is_refused_and_the_line_goes_on() -> None:
    ours, theirs = socket.socketpair()
    one, two = Line({}), Line({"known": lambda: 1})
    await one.open(ours)
    await two.open(theirs)
    with pytest.raises(Unavailable):
        await one.ask("unknown")
    assert await one.ask("known") == 1
    one.close()
    two.close()
