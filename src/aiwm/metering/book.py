"""The books of one process: what the data plane writes a request into.

An opening goes to the journal alone. A closing goes to the journal, which keeps it safe, to the recorder, which moves
it to the ledger, and to the metrics. Nothing here waits.
"""

from __future__ import annotations

from aiwm.domain.usage import UsageRow
from aiwm.metering.journal import Journal
from aiwm.metering.metrics import Metrics
from aiwm.metering.recorder import Recorder


class Book:
    def __init__(self, journal: Journal, recorder: Recorder, metrics: Metrics) -> None:
        self._journal = journal
        self._recorder = recorder
        self._metrics = metrics

    def opened(self, row: UsageRow) -> None:
        """Before a request goes out. Raises Unavailable when it can't be booked: then it must not go out."""
        self._journal.opened(row)

    def closed(self, row: UsageRow) -> None:
        """Before the caller gets the last byte."""
        self._journal.closed(row)
        self._recorder.record(row)
        self._metrics.observe(row)
