"""metering/recorder: every row reaches the ledger once, whatever the database does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from aiwm.domain.usage import UsageRow
from aiwm.errors import Unavailable
from aiwm.metering import recorder as module
from aiwm.metering.recorder import Recorder
from logged import logged
from rows import closing


class Ledger:
    def __init__(self) -> None:
        self.batches: list[Sequence[UsageRow]] = []
        self.refusals = 0
        self.refusal: Exception = Unavailable()
        self.tried = asyncio.Event()
        self.unlocked = asyncio.Event()
        self.unlocked.set()

    async def save(self, rows: Sequence[UsageRow]) -> None:
        self.tried.set()
        if self.refusals:
            self.refusals -= 1
            raise self.refusal
        await self.unlocked.wait()
        self.batches.append(rows)

    @property
    def rows(self) -> list[UsageRow]:
        return [row for batch in self.batches for row in batch]


@asynccontextmanager
async def at_work(ledger: Ledger, **options: Any) -> AsyncIterator[Recorder]:
    recorder = Recorder(ledger.save, **options)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_flush_waits_until_what_was_recorded_before_it_is_saved() -> None:
    ledger = Ledger()
    async with at_work(ledger) as recorder:
        for number in range(5):
            recorder.record([closing(number)])
        assert recorder.waiting == 5
        await recorder.flush()
        assert ledger.rows == [closing(number) for number in range(5)]
        assert recorder.waiting == 0


async def test_a_flush_with_nothing_to_save_returns_at_once() -> None:
    async with at_work(Ledger()) as recorder:
        await recorder.flush()


async def test_rows_wait_while_the_database_is_away_and_none_is_lost_or_doubled() -> None:
    ledger = Ledger()
    ledger.refusals = 2
    async with at_work(ledger) as recorder:
        recorder.record([closing(1)])
        await ledger.tried.wait()
        assert recorder.failing
        recorder.record([closing(2)])
        await recorder.flush()
        assert ledger.rows == [closing(1), closing(2)]
        assert not recorder.failing


async def test_an_error_that_nobody_thought_of_loses_no_row_and_does_not_end_the_work() -> None:
    ledger = Ledger()
    ledger.refusals, ledger.refusal = 1, OSError("the disk is gone")
    async with at_work(ledger) as recorder:
        recorder.record([closing(1)])
        with logged() as logs:
            await ledger.tried.wait()
            assert recorder.failing
            recorder.record([closing(2)])
            await recorder.flush()
        assert ledger.rows == [closing(1), closing(2)]
        assert [line["level"] for line in logs] == ["error", "warning"]


async def test_a_database_that_lets_rows_wait_is_said_to_fail_until_it_takes_them() -> None:
    now = 1000.0
    ledger = Ledger()
    ledger.unlocked.clear()
    async with at_work(ledger, monotonic=lambda: now) as recorder:
        recorder.record([closing(1)])
        await ledger.tried.wait()
        assert not recorder.failing
        now += 5.1
        assert recorder.failing
        ledger.unlocked.set()
        await recorder.flush()
        assert not recorder.failing


async def test_a_flush_gives_up_when_the_database_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FLUSH_SECONDS", 0.05)
    ledger = Ledger()
    ledger.refusals = 1000
    async with at_work(ledger) as recorder:
        recorder.record([closing(1)])
        with pytest.raises(Unavailable):
            await recorder.flush()
        assert recorder.waiting == 1


async def test_a_large_backlog_is_written_in_bounded_batches() -> None:
    ledger = Ledger()
    async with at_work(ledger) as recorder:
        for number in range(module.LARGEST_BATCH * 2 + 1):
            recorder.record([closing(number)])
        await recorder.flush()
        assert max(map(len, ledger.batches)) == module.LARGEST_BATCH
        assert len(ledger.rows) == module.LARGEST_BATCH * 2 + 1
