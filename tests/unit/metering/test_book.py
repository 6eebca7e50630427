"""metering/book: what ends is booked once, with all that ends beside it, and before its last byte goes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from aiwm.domain.usage import End, UsageRow
from aiwm.metering.book import Book
from aiwm.metering.journal import Journal, recover
from aiwm.metering.meter import Meter
from aiwm.metering.metrics import Metrics
from aiwm.metering.recorder import Recorder
from aiwm.providers import registry
from patience import PATIENCE
from rows import begun


class Books:
    """With a journal of their own, and a ledger that may be away."""

    def __init__(self, folder: Path) -> None:
        self.ledger: list[UsageRow] = []
        self.journal = Journal(folder, fsync_seconds=0)
        self.recorder = Recorder(self._save)
        self.metrics = Metrics(waiting=lambda: 0, failing=lambda: False, refused=dict)
        self.book = Book(self.journal, self.recorder, self.metrics)

    async def _save(self, rows: Sequence[UsageRow]) -> None:
        self.ledger += rows

    def meter(self, number: int) -> Meter:
        """Of a request that has gone out, to its answer's last byte."""
        subject, began = begun(number)
        meter = Meter(
            registry.provider("openai"),
            subject,
            request_id=began.request_id,
            correlation_id=began.correlation_id,
            body=b"",
            book=self.book,
            clock=lambda: began.started_at,
        )
        meter.sent()
        meter.begin(200, {b"content-type": b"application/json"})
        meter.feed(b'{"usage":{"prompt_tokens":%d,"completion_tokens":2}}' % number)
        return meter

    @property
    def requests(self) -> int:
        provider = self.metrics.tally()["counters"]["providers"].get("openai", {"requests": {}})
        return sum(provider["requests"].values())


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    books = Books(tmp_path)
    async with _at_work(books.recorder):
        yield books


@asynccontextmanager
async def _at_work(recorder: Recorder) -> AsyncIterator[None]:
    task = asyncio.create_task(recorder.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _journal(folder: Path) -> bytes:
    [path] = folder.iterdir()
    return path.read_bytes()


async def test_what_ends_in_one_turn_is_booked_at_its_end(books: Books) -> None:
    for number in range(1, 4):
        books.meter(number).close(End.COMPLETE)
    assert books.recorder.waiting == 0
    await asyncio.sleep(0)
    assert (books.recorder.waiting, books.requests) == (3, 3)
    async with asyncio.timeout(PATIENCE):
        await books.book.flush()
    assert [row.usage.input_tokens for row in books.ledger] == [1, 2, 3]
    await asyncio.sleep(0)
    assert books.requests == 3


async def test_what_is_written_is_safe_at_once_and_is_not_written_again(books: Books, tmp_path: Path) -> None:
    books.meter(1).close(End.COMPLETE)
    books.book.write()
    written = _journal(tmp_path)
    assert written.rstrip(b"\0").count(b"\n") == 2
    books.book.write()
    await asyncio.sleep(0)
    assert _journal(tmp_path) == written
    assert books.requests == 1


async def test_a_process_that_dies_before_the_end_of_the_turn_has_the_opening(books: Books, tmp_path: Path) -> None:
    books.meter(1).close(End.COMPLETE)
    books.journal._current.close()
    found: list[UsageRow] = []

    async def save(rows: Sequence[UsageRow]) -> None:
        found.extend(rows)

    assert await recover(tmp_path, save) == 1
    assert [row.end for row in found] == [End.GATEWAY_DIED]


async def test_a_flush_knows_of_what_has_just_ended(books: Books) -> None:
    books.meter(7).close(End.CLIENT_GONE)
    async with asyncio.timeout(PATIENCE):
        await books.book.flush()
    [row] = books.ledger
    assert (row.end, row.usage.input_tokens) == (End.CLIENT_GONE, 7)
