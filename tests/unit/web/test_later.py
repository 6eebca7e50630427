"""web/later.py: who comes before an application is made waits for it."""

from __future__ import annotations

import asyncio
from threading import Event

import pytest

from aiwm.web.call import Application, Call
from aiwm.web.head import Head
from aiwm.web.later import Later
from fakes import Wire
from patience import PATIENCE


def _call() -> Call:
    return Call(Wire(), Head(b"GET", b"/models", b"", []))


class _Made:
    """An application that is made when told, and those whom it has answered."""

    def __init__(self) -> None:
        self.may = Event()
        self.answered: list[Call] = []

    def __call__(self) -> Application:
        self.may.wait(PATIENCE)

        async def application(call: Call) -> None:
            self.answered.append(call)

        return application


async def test_who_comes_before_it_is_made_is_answered_when_it_is() -> None:
    make, early, late = _Made(), _call(), _call()
    later = Later(make)
    making, waiting = asyncio.create_task(later.run()), asyncio.create_task(later(early))
    await asyncio.sleep(0)
    assert make.answered == []
    make.may.set()
    await making
    await waiting
    await later(late)
    assert make.answered == [early, late]


async def test_one_who_leaves_takes_it_from_nobody() -> None:
    make, call = _Made(), _call()
    later = Later(make)
    making, leaving = asyncio.create_task(later.run()), asyncio.create_task(later(_call()))
    await asyncio.sleep(0)
    leaving.cancel()
    make.may.set()
    await making
    await later(call)
    assert make.answered == [call]


async def test_if_it_cannot_be_made_everybody_is_told_why() -> None:
    def make() -> Application:
        raise ValueError("two routes of one name")

    later = Later(make)
    await later.run()
    for _ in range(2):
        with pytest.raises(ValueError, match="two routes"):
            await later(_call())
