"""metering/retention.py: what is old goes in small steps, and a database that is away is tried again."""

from __future__ import annotations

import asyncio

import pytest

from aiwm.errors import Unavailable
from aiwm.metering import retention
from patience import PATIENCE

DAY = 86_400_000


class Ledger:
    def __init__(self, *answers: bool | Unavailable) -> None:
        self._answers = list(answers)
        self.asked: list[int] = []
        self.done = asyncio.Event()

    async def expire(self, before: int) -> bool:
        self.asked.append(before)
        if not self._answers:
            self.done.set()
            return False
        answer = self._answers.pop(0)
        if isinstance(answer, Unavailable):
            raise answer
        return answer


async def _watched(ledger: Ledger, *, keep_days: int = 30) -> None:
    task = asyncio.create_task(
        retention.watch(ledger.expire, keep_days=keep_days, clock=lambda: 100 * DAY, every_seconds=0)
    )
    async with asyncio.timeout(PATIENCE):
        await ledger.done.wait()
    task.cancel()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_PAUSE_SECONDS", 0)


async def test_steps_are_made_until_nothing_old_is_left() -> None:
    ledger = Ledger(True, True, True)
    await _watched(ledger)
    assert ledger.asked[:4] == [70 * DAY] * 4


async def test_a_database_that_is_away_is_tried_again() -> None:
    ledger = Ledger(True, Unavailable(), True)
    await _watched(ledger)
    assert len(ledger.asked) >= 4


async def test_without_a_limit_nothing_is_removed() -> None:
    ledger = Ledger()
    await asyncio.wait_for(retention.watch(ledger.expire, keep_days=0, clock=lambda: 100 * DAY), PATIENCE)
    assert ledger.asked == []
