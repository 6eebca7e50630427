"""Moves rows to the ledger in batches: a slow database makes batches larger, not requests slower."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from aiwm.domain.usage import UsageRow
from aiwm.errors import Unavailable
from aiwm.logs import Log

Save = Callable[[Sequence[UsageRow]], Awaitable[None]]
"""Writes rows and their sums in one transaction; a row that is there already changes nothing. Raises Unavailable."""

GATHER_SECONDS = 0.5
"""How long rows are gathered before a batch is written, unless somebody waits for it."""
LARGEST_BATCH = 5000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_FLUSH_SECONDS = 10
_SLOW_SECONDS = 5.0
"""A batch that takes longer waits for something: another program may have the table locked."""

_log = Log(__name__)


class Recorder:
    """Owned by one task, `run`. `record` never waits; `flush` waits until what was recorded before it is saved."""

    def __init__(self, save: Save, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._save = save
        self._monotonic = monotonic
        self._pending: list[UsageRow] = []
        self._taken = 0
        self._saved = 0
        self._wanted = 0
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self._moved = asyncio.Condition()
        self._refused = False
        self._since: float | None = None

    @property
    def failing(self) -> bool:
        """Whether the database is away, or lets rows wait. Nothing is lost by it."""
        return self._refused or (self._since is not None and self._monotonic() - self._since > _SLOW_SECONDS)

    @property
    def waiting(self) -> int:
        """Rows that are not in the ledger yet."""
        return self._taken + len(self._pending) - self._saved

    def record(self, rows: Sequence[UsageRow]) -> None:
        if not self._pending:
            self._work.set()
        self._pending += rows

    async def flush(self) -> None:
        """Raises Unavailable when the database does not take the rows in time."""
        wanted = self._taken + len(self._pending)
        if self._saved >= wanted:
            return
        self._wanted = max(self._wanted, wanted)
        self._hurry.set()
        try:
            async with asyncio.timeout(_FLUSH_SECONDS), self._moved:
                await self._moved.wait_for(lambda: self._saved >= wanted)
        except TimeoutError:
            raise Unavailable("The ledger can't be written at the moment; try again") from None

    async def run(self) -> None:
        """Until cancelled. What is pending then is for a last `flush` before it."""
        while True:
            await self._work.wait()
            await self._gathered()
            batch, self._pending = self._pending[:LARGEST_BATCH], self._pending[LARGEST_BATCH:]
            self._taken += len(batch)
            await self._saved_at_last(batch)
            if not self._pending:
                self._work.clear()
            async with self._moved:
                self._saved += len(batch)
                self._moved.notify_all()

    async def _gathered(self) -> None:
        if self._wanted > self._saved or len(self._pending) >= LARGEST_BATCH:
            return
        self._hurry.clear()
        try:
            async with asyncio.timeout(GATHER_SECONDS):
                await self._hurry.wait()
        except TimeoutError:
            return

    async def _saved_at_last(self, batch: Sequence[UsageRow]) -> None:
        """Tries until the database takes the batch: rows are never dropped because it is away."""
        pause = _FIRST_PAUSE
        self._since = self._monotonic()
        while True:
            try:
                await self._save(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the rows are not saved, and others come
                if not self._refused:
                    self._tell(error)
                self._refused = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                if self.failing:
                    _log.warning("the ledger is written again", rows=len(batch))
                self._refused, self._since = False, None
                return

    def _tell(self, error: Exception) -> None:
        text = "the ledger can't be written; rows wait"
        if isinstance(error, Unavailable):
            _log.warning(text, rows=self.waiting, reason=repr(error.__cause__))
        else:
            _log.exception(text, rows=self.waiting)
