"""The books of one process: what the data plane writes a request into.

An opening goes to the journal alone. A closing goes to the journal, which keeps it safe, to the recorder, which moves
it to the ledger, and to the metrics. Answers that end in the same turn of the loop are booked together, one step after
the other for all of them: that costs less than to book each between other things. Nothing here waits.
"""

from __future__ import annotations

import asyncio

from aiwm.metering.journal import Journal
from aiwm.metering.meter import Meter
from aiwm.metering.metrics import Metrics
from aiwm.metering.recorder import Recorder
from aiwm.metering.subject import Begun, Subject


class Book:
    def __init__(self, journal: Journal, recorder: Recorder, metrics: Metrics) -> None:
        self._journal = journal
        self._recorder = recorder
        self._metrics = metrics
        self._ended: list[Meter] = []

    def opened(self, subject: Subject, begun: Begun) -> None:
        """Before a request goes out. Raises Unavailable when it can't be booked: then it must not go out."""
        self._journal.opened(subject, begun)

    def closed(self, meter: Meter) -> None:
        """The answer has come to its end. It is booked at the end of this turn of the loop, or at `write`."""
        if not self._ended:
            asyncio.get_running_loop().call_soon(self.write)
        self._ended.append(meter)

    def write(self) -> None:
        """Books what has ended: to be called before the last byte of any of it goes out."""
        if self._ended:
            ended, self._ended = self._ended, []
            rows = [row for meter in ended if (row := meter.row) is not None]
            self._journal.closed(rows)
            self._recorder.record(rows)
            self._metrics.observe(rows)

    async def flush(self) -> None:
        """Until all that has ended is in the ledger. Raises Unavailable when the database does not take it in time."""
        self.write()
        await self._recorder.flush()
