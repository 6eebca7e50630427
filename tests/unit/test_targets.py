"""Who gets a seat at an engine, and who waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from aiwm.errors import NotFound, Unavailable, WrongState
from aiwm.providers import registry
from aiwm.targets import Entry, Hosted, Resting, Target, TargetTable
from aiwm.wire.origins import Origin, Timeouts
from aiwm.wire.urls import BaseUrl


def _target(port: int) -> Target:
    return Target(
        deployment_id="d",
        org_id="red",
        model_id="m",
        provider=registry.provider("openai"),
        base=BaseUrl(Origin("http", "127.0.0.1", port, ours=True), "", b""),
        lines=b"",
        replaced=frozenset(),
        defaults=(),
        query=(),
        secrets=(),
        model="m",
        aliases=frozenset(),
        allowed=None,
        timeouts=Timeouts(1, 1, 1),
    )


def _hosted(**given: Any) -> tuple[Hosted, list[int]]:
    woken: list[int] = []
    given = {"hold_seconds": 5, "most_waiting": 10} | given
    return Hosted("red", wake=lambda: woken.append(1), **given), woken


async def test_the_one_with_the_least_to_do_is_lent() -> None:
    hosted, _ = _hosted()
    hosted.ready([_target(1), _target(2)])
    seats = [await hosted.borrow() for _ in range(4)]
    assert sorted(seat.target.base.origin.port for seat in seats) == [1, 1, 2, 2]
    hosted.give_back(seats[0])
    assert await hosted.borrow() is seats[0]


async def test_who_waits_wakes_the_engine_and_is_served_when_it_is_ready() -> None:
    hosted, woken = _hosted()
    waiting = [asyncio.create_task(hosted.borrow()) for _ in range(3)]
    await asyncio.sleep(0)
    assert hosted.waiting == 3
    assert hosted.busy
    assert woken
    hosted.ready([_target(1)])
    assert [(await task).load for task in waiting][-1] == 3
    assert hosted.waiting == 0


async def test_no_more_wait_than_may() -> None:
    hosted, _ = _hosted(most_waiting=1)
    first = asyncio.create_task(hosted.borrow())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="1 requests wait for it already"):
        await hosted.borrow()
    hosted.ready([_target(1)])
    await first


async def test_nobody_waits_for_ever() -> None:
    hosted, _ = _hosted(hold_seconds=0.01)
    with pytest.raises(Unavailable, match="not ready in time"):
        await hosted.borrow()
    assert hosted.waiting == 0


async def test_who_waits_for_what_was_stopped_is_told() -> None:
    hosted, _ = _hosted()
    waiting = asyncio.create_task(hosted.borrow())
    await asyncio.sleep(0)
    hosted.rests(WrongState("Deployment is not running. Current status: stopped"))
    with pytest.raises(WrongState, match="stopped"):
        await waiting


async def test_who_left_waits_no_more() -> None:
    hosted, _ = _hosted()
    waiting = asyncio.create_task(hosted.borrow())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not hosted.busy


async def test_an_engine_that_failed_is_the_last_choice() -> None:
    hosted, _ = _hosted()
    hosted.ready([_target(1), _target(2)])
    failed = await hosted.borrow()
    hosted.give_back(failed)
    assert await hosted.borrow(avoid=failed) is not failed
    hosted.ready([failed.target])
    seat = await hosted.borrow()
    assert (await hosted.borrow(avoid=seat)) is seat


async def test_an_engine_is_left_when_its_last_request_has_gone() -> None:
    hosted, _ = _hosted()
    hosted.ready([_target(1)])
    seats = [await hosted.borrow(), await hosted.borrow()]
    hosted.ready([_target(2)])
    leaving = asyncio.create_task(hosted.left(_target(1).base.origin))
    hosted.give_back(seats[0])
    await asyncio.sleep(0)
    assert not leaving.done()
    hosted.give_back(seats[1])
    await leaving
    assert not hosted.busy


async def test_one_that_stays_keeps_its_requests() -> None:
    hosted, _ = _hosted()
    hosted.ready([_target(1)])
    seat = await hosted.borrow()
    hosted.ready([_target(1), _target(2)])
    assert (await hosted.borrow()).target.base.origin.port == 2
    hosted.give_back(seat)
    assert (await hosted.borrow()) is seat


# --- the table -----------------------------------------------------------------------------------------------


class _Unmade:
    """Targets that are made on demand, and for which of them that was."""

    def __init__(self, *ids: str) -> None:
        self.made: list[str] = []
        self.table = TargetTable()
        self.table.replace({}, {id_: partial(self._make, id_) for id_ in ids})

    def _make(self, id_: str) -> Entry:
        self.made.append(id_)
        return _target(len(id_))


def test_a_target_is_made_when_it_is_asked_for_and_only_once() -> None:
    unmade = _Unmade("d", "e")
    first = unmade.table.reach("d", "red")
    assert unmade.table.reach("d", "red") is first
    assert unmade.made == ["d"]
    with pytest.raises(NotFound):
        unmade.table.reach("f", "red")


async def test_what_nobody_asks_for_is_made_beside() -> None:
    unmade = _Unmade("d", "e", "f")
    unmade.table.reach("e", "red")
    await unmade.table.make_all()
    assert sorted(unmade.made) == ["d", "e", "f"]


async def test_a_change_takes_the_place_of_what_was_not_made() -> None:
    unmade, changed = _Unmade("d", "e"), _target(9)
    unmade.table.put([("d", changed)])
    unmade.table.remove("e")
    await unmade.table.make_all()
    assert unmade.made == []
    assert unmade.table.reach("d", "red") is changed
    with pytest.raises(NotFound):
        unmade.table.reach("e", "red")


def test_a_change_that_cannot_be_made_whole_changes_nothing() -> None:
    table = TargetTable()
    table.replace({"d": Resting("red", WrongState("before"))}, {})

    def entries() -> Iterator[tuple[str, Entry]]:
        yield "d", _target(1)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - the one of above
        table.put(entries())
    with pytest.raises(WrongState, match="before"):
        table.reach("d", "red")


def test_what_is_withheld_is_refused_and_nothing_else() -> None:
    table = TargetTable()
    table.replace({"d": _target(1), "e": replace(_target(2), model_id="n")}, {"unmade": lambda: _target(3)})
    table.withhold("d")
    with pytest.raises(Unavailable):
        table.reach("d", "red")
    assert table.reach("unmade", "red") == _target(3)
    table.withhold(model_id="m")
    with pytest.raises(Unavailable):
        table.reach("unmade", "red")
    assert isinstance(table.reach("e", "red"), Target)
