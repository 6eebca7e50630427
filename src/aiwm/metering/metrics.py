"""What Prometheus reads at /metrics: sums over all tenants, by provider. Never a key, a user or a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from aiwm.domain.usage import UsageRow

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_MOST_PROVIDERS = 200
"""A caller names its provider freely: beyond this many, new names are counted as one."""


@dataclass(frozen=True, slots=True)
class _Bound:
    """The counters of one combination of labels, bound once."""

    requests: Counter
    input_tokens: Counter
    output_tokens: Counter
    first_byte: Histogram
    total: Histogram


class Metrics:
    def __init__(self, *, waiting: Callable[[], int]) -> None:
        """`waiting` tells how many rows are not in the ledger yet."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "aiwm_requests", "Requests that reached a provider", ["provider", "status", "end"], registry=self._registry
        )
        self._tokens = Counter("aiwm_tokens", "Tokens as booked", ["provider", "direction"], registry=self._registry)
        self._first_byte = Histogram(
            "aiwm_first_byte_seconds",
            "Until the head of the provider's answer",
            ["provider"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._total = Histogram(
            "aiwm_request_seconds",
            "Until the end of the answer",
            ["provider"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        gauge = Gauge("aiwm_ledger_waiting_rows", "Rows that are not in the ledger yet", registry=self._registry)
        gauge.set_function(waiting)
        self._bound: dict[tuple[str, int | None, str], _Bound] = {}

    def observe(self, row: UsageRow) -> None:
        key = (row.provider, row.status, row.end)
        bound = self._bound.get(key) or self._bind(key)
        bound.requests.inc()
        bound.input_tokens.inc(row.usage.input_tokens)
        bound.output_tokens.inc(row.usage.output_tokens)
        bound.total.observe(row.total_ms / 1000)
        if row.first_byte_ms is not None:
            bound.first_byte.observe(row.first_byte_ms / 1000)

    def exposition(self) -> bytes:
        """The text format of Prometheus, version 0.0.4."""
        return generate_latest(self._registry)

    def _bind(self, key: tuple[str, int | None, str]) -> _Bound:
        provider, status, end = key
        known = {name for name, _, _ in self._bound}
        if provider not in known and len(known) >= _MOST_PROVIDERS:
            provider = "other"
        bound = self._bound[key] = _Bound(
            self._requests.labels(provider, str(status or "none"), end),
            self._tokens.labels(provider, "input"),
            self._tokens.labels(provider, "output"),
            self._first_byte.labels(provider),
            self._total.labels(provider),
        )
        return bound
