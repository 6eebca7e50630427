"""Sums that are kept beside the ledger: of all that ever was by deployment, and by series and period."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from operator import add, attrgetter
from typing import NamedTuple, TypeVar

from msgspec.structs import astuple
from sqlalchemy import Connection

from aiwm.domain.latencies import Histogram, histogram, packed, unpacked
from aiwm.domain.reports import DAY_MS, HOUR_MS
from aiwm.domain.usage import UsageRow
from aiwm.store.statements import Insertion, Lookup, grows
from aiwm.store.tables import deployment_totals, usage_series, usage_sums
from aiwm.store.words import WordBook, Words

_KEYS = ("series_id", "hours", "start")
_HISTOGRAMS = ("total", "first_byte")
NUMBERS = tuple(column.name for column in usage_sums.c if column.name not in {*_KEYS, *_HISTOGRAMS})
"""What is summed besides the histograms, in the order of the table's columns."""

_TOTALS = tuple(column.name for column in deployment_totals.c if column.name != "deployment_id")

_Key = tuple[int, int, int]
"""In the order of `_KEYS`."""
K = TypeVar("K")


class _Sums(NamedTuple):
    numbers: tuple[int, ...]
    """In the order of `NUMBERS`."""
    total: Histogram
    first_byte: Histogram

    @classmethod
    def of(cls, rows: Sequence[UsageRow]) -> _Sums:
        """The rows have the same labels."""
        first_bytes = [row.first_byte_ms for row in rows if row.first_byte_ms is not None]
        totals = [row.total_ms for row in rows]
        numbers = (
            len(rows),
            len(rows) if rows[0].failed else 0,
            *map(sum, zip(*[astuple(row.usage) for row in rows], strict=True)),
            sum([row.cost or 0 for row in rows]),
            sum([row.cost is None for row in rows]),
            sum(totals),
            sum(first_bytes),
            len(first_bytes),
        )
        return cls(numbers, histogram(totals), histogram(first_bytes))

    def plus(self, other: _Sums) -> _Sums:
        numbers = tuple(map(add, self.numbers, other.numbers))
        return _Sums(numbers, self.total + other.total, self.first_byte + other.first_byte)

    def of_deployment(self) -> tuple[int, ...]:
        """In the order of `_TOTALS`."""
        named = dict(zip(NUMBERS, self.numbers, strict=True))
        return named["requests"], named["input_tokens"] + named["output_tokens"], named["cost"], named["unpriced"]


class UsageSums:
    """Every method is within the caller's transaction, in which nobody else adds rows."""

    def __init__(self) -> None:
        self._series = WordBook(usage_series)
        self._words = attrgetter(*self._series.names)
        self._insertion = Insertion(usage_sums, grows(_KEYS, NUMBERS, _HISTOGRAMS))
        self._kept = Lookup(usage_sums, "series_id", *_HISTOGRAMS, fixed=("hours", "start"))
        self._totals = Insertion(deployment_totals, grows(["deployment_id"], _TOTALS))

    def add(self, connection: Connection, groups: Collection[Sequence[UsageRow]]) -> dict[Words, int]:
        """The rows of a group have the same labels, and so the same series. Answers their numbers, for `remember`."""
        series = self._series.numbers(connection, {self._words(rows[0]) for rows in groups})
        summed = [(rows[0], hour, _Sums.of(of_hour)) for rows in groups for hour, of_hour in _by_hour(rows)]
        of_deployments = _merged((row.deployment_id, sums) for row, _, sums in summed)
        self._totals.run(connection, [(id_, *sums.of_deployment()) for id_, sums in of_deployments.items()])
        periods = _merged((key, sums) for row, hour, sums in summed for key in _keys(series[self._words(row)], hour))
        kept = self._histograms(connection, periods)
        self._insertion.run(connection, [_values(key, sums, kept.get(key)) for key, sums in periods.items()])
        return series

    def remember(self, series: dict[Words, int]) -> None:
        """Once the transaction is committed."""
        self._series.remember(series)

    def _histograms(self, connection: Connection, keys: Iterable[_Key]) -> dict[_Key, tuple[bytes, bytes]]:
        """Those that are kept already: no SQL adds them up."""
        by_period: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for number, hours, start in keys:
            by_period[hours, start].append(number)
        return {
            (number, *period): (total, first_byte)
            for period, numbers in by_period.items()
            for number, total, first_byte in self._kept.run(connection, numbers, *period)
        }


def _by_hour(rows: Sequence[UsageRow]) -> Iterable[tuple[int, Sequence[UsageRow]]]:
    """With the time each hour begins."""
    by_hour: defaultdict[int, list[UsageRow]] = defaultdict(list)
    for row in rows:
        by_hour[row.started_at // HOUR_MS].append(row)
    return [(hour * HOUR_MS, of_hour) for hour, of_hour in by_hour.items()]


def _keys(number: int, hour: int) -> Sequence[_Key]:
    return [(number, 1, hour), (number, 24, hour - hour % DAY_MS)]


def _merged(sums: Iterable[tuple[K, _Sums]]) -> dict[K, _Sums]:
    merged: dict[K, _Sums] = {}
    for key, each in sums:
        merged[key] = merged[key].plus(each) if key in merged else each
    return merged


def _values(key: _Key, sums: _Sums, kept: tuple[bytes, bytes] | None) -> tuple[object, ...]:
    """In the order of the table's columns."""
    total, first_byte = sums.total, sums.first_byte
    if kept is not None:
        total += unpacked(kept[0])
        first_byte += unpacked(kept[1])
    return (*key, *sums.numbers, packed(total), packed(first_byte))
