"""What Prometheus reads at /metrics: sums over all tenants, by provider. Never a key, a user or a prompt.

Requests are counted in plain numbers; the library's own counters, which lock for each step, cost a request more than
its token does. They are put into the library's words when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import accumulate
from operator import attrgetter

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from aiwm.domain.usage import UsageRow
from aiwm.metering.tallies import Tally, added

_BOUNDS = (50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000)
"""Milliseconds; the last bucket is what took longer."""
_LABELS = [*(str(bound / 1000) for bound in _BOUNDS), "+Inf"]
_TOGETHER = 256
"""Rows that are counted at once: one after the other costs less than each between other things."""
_MOST_PROVIDERS = 200
"""A caller names its provider freely: beyond this many, new names are counted as one."""


_outcome = attrgetter("status", "end")
_input_tokens, _output_tokens = attrgetter("usage.input_tokens"), attrgetter("usage.output_tokens")
_total_ms, _first_byte_ms = attrgetter("total_ms"), attrgetter("first_byte_ms")


class _Provider:
    """The numbers of one provider."""

    __slots__ = ("first_byte", "first_byte_ms", "input_tokens", "output_tokens", "requests", "total", "total_ms")

    def __init__(self) -> None:
        self.requests: Counter[tuple[int | None, str]] = Counter()
        self.input_tokens = self.output_tokens = 0
        self.first_byte = [0] * len(_LABELS)
        self.first_byte_ms = 0
        self.total = [0] * len(_LABELS)
        self.total_ms = 0

    def count(self, rows: Sequence[UsageRow]) -> None:
        self.requests.update(map(_outcome, rows))
        self.input_tokens += sum(map(_input_tokens, rows))
        self.output_tokens += sum(map(_output_tokens, rows))
        for ms, number in Counter(map(_total_ms, rows)).items():
            self.total[bisect_left(_BOUNDS, ms)] += number
            self.total_ms += ms * number
        for ms_or_none, number in Counter(map(_first_byte_ms, rows)).items():
            if ms_or_none is not None:
                self.first_byte[bisect_left(_BOUNDS, ms_or_none)] += number
                self.first_byte_ms += ms_or_none * number

    def tally(self) -> Tally:
        return {
            "requests": {f"{status or 'none'} {end}": count for (status, end), count in self.requests.items()},
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "first_byte": self.first_byte,
            "first_byte_ms": self.first_byte_ms,
            "total": self.total,
            "total_ms": self.total_ms,
        }


class Metrics:
    def __init__(
        self,
        *,
        waiting: Callable[[], int],
        failing: Callable[[], bool],
        refused: Callable[[], Mapping[tuple[str, str], int]],
    ) -> None:
        """`waiting` tells how many rows are not in the ledger yet, `failing` whether the journal can't be written.

        `refused` tells how many requests limits have refused, by what a limit is for and what of it was used up.
        """
        self._waiting = waiting
        self._failing = failing
        self._refused = refused
        self._providers: dict[str, _Provider] = {}
        self._new: list[UsageRow] = []

    def observe(self, rows: Sequence[UsageRow]) -> None:
        self._new += rows
        if len(self._new) >= _TOGETHER:
            self._count_new()

    def _count_new(self) -> None:
        rows, self._new = self._new, []
        by_provider: defaultdict[str, list[UsageRow]] = defaultdict(list)
        for row in rows:
            by_provider[row.provider].append(row)
        for name, of_provider in by_provider.items():
            self._provider(name).count(of_provider)

    def tally(self) -> Tally:
        """What is counted here, for another process to show it with its own."""
        self._count_new()
        return {
            "counters": {
                "providers": {name: numbers.tally() for name, numbers in self._providers.items()},
                "refused": {" ".join(labels): count for labels, count in self._refused().items()},
            },
            "waiting": self._waiting(),
            "failing": int(self._failing()),
        }

    def exposition(self, others: Sequence[Tally] = ()) -> bytes:
        """The text format of Prometheus, version 0.0.4: sums of this process and `others`."""
        registry = CollectorRegistry()
        registry.register(_Sums(reduce(added, others, self.tally())))
        return generate_latest(registry)

    def _provider(self, name: str) -> _Provider:
        if name not in self._providers and len(self._providers) >= _MOST_PROVIDERS:
            name = "other"
        return self._providers.setdefault(name, _Provider())


class _Sums(Collector):
    """A tally, in the library's words."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterable[Metric]:
        counters = self._tally["counters"]
        requests = CounterMetricFamily(
            "aiwm_requests", "Requests that reached a provider", labels=["provider", "status", "end"]
        )
        tokens = CounterMetricFamily("aiwm_tokens", "Tokens as booked", labels=["provider", "direction"])
        first_byte = HistogramMetricFamily(
            "aiwm_first_byte_seconds", "Until the head of the provider's answer", labels=["provider"]
        )
        total = HistogramMetricFamily("aiwm_request_seconds", "Until the end of the answer", labels=["provider"])
        for name, numbers in counters["providers"].items():
            for labels, count in numbers["requests"].items():
                requests.add_metric([name, *labels.split(" ", 1)], count)
            tokens.add_metric([name, "input"], numbers["input_tokens"])
            tokens.add_metric([name, "output"], numbers["output_tokens"])
            first_byte.add_metric([name], _buckets(numbers["first_byte"]), numbers["first_byte_ms"] / 1000)
            total.add_metric([name], _buckets(numbers["total"]), numbers["total_ms"] / 1000)
        refused = CounterMetricFamily(
            "aiwm_refused_requests", "Requests that a limit refused", labels=["subject", "limit"]
        )
        for labels, count in counters["refused"].items():
            refused.add_metric(labels.split(" "), count)
        yield from (requests, tokens, first_byte, total, refused)
        yield GaugeMetricFamily(
            "aiwm_ledger_waiting_rows", "Rows that are not in the ledger yet", value=self._tally["waiting"]
        )
        yield GaugeMetricFamily(
            "aiwm_journal_failing",
            "1 while the journal can't be written: requests are refused",
            value=min(1, self._tally["failing"]),
        )


def _buckets(counts: list[int]) -> list[tuple[str, float]]:
    return list(zip(_LABELS, accumulate(counts), strict=True))
