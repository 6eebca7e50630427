"""Sums that are kept beside the ledger: of all that ever was by deployment, and by series and period.

Those by series and period are brought up to date only now and then. With many callers hardly two rows that are added
at once have one in common, and adding each to its hour and its day would cost several times what the row itself does.
So what rows add is kept first as it comes, a few lines for each batch, and put where it belongs when enough has come
together, part by part, or when somebody wants to read the sums.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any

import msgspec
from msgspec.structs import astuple
from sqlalchemy import Connection, bindparam, delete, func, select

from aiwm.domain.ids import new_request_id
from aiwm.domain.latencies import histogram, packed, unpacked
from aiwm.domain.reports import DAY_MS, HOUR_MS
from aiwm.domain.usage import UsageRow
from aiwm.store.database import Database
from aiwm.store.statements import Insertion, Lookup, grows, refuses
from aiwm.store.tables import deployment_totals, usage_recent, usage_series, usage_sums
from aiwm.store.turns import take_turns
from aiwm.store.words import WordBook, Words

_KEYS = ("series_id", "hours", "start")
_HISTOGRAMS = ("total", "first_byte")
NUMBERS = tuple(column.name for column in usage_sums.c if column.name not in {*_KEYS, *_HISTOGRAMS})
"""What is summed besides the histograms, in the order of the table's columns."""

_TOTALS = tuple(column.name for column in deployment_totals.c if column.name != "deployment_id")
_of_deployment = itemgetter(*map(NUMBERS.index, ("requests", "input_tokens", "output_tokens", "cost", "unpriced")))

_SERIES_IN_A_PART = 256
_MOST_WAITING = 2048
"""Sums of a part that wait. A part is put in order at once, in some 30 milliseconds."""
_PARTS_AT_ONCE = 4
"""Parts that are put in order by one who adds rows."""

_LARGEST = (1 << 63) - 1
"""Of SQLite's whole numbers."""

_Key = tuple[int, int, int]
"""In the order of `_KEYS`."""
_Sums = tuple[Any, ...]
"""`NUMBERS`, then the histograms, packed."""

_encode = msgspec.json.Encoder().encode
_decode: Callable[[bytes], list[Any]] = msgspec.json.Decoder(
    list[tuple[(int, int, *(int for _ in NUMBERS), bytes, bytes)]]  # type: ignore[misc]
).decode
"""Each with the series, the time its hour begins, and the sums."""

_parts_from = select(func.min(usage_recent.c.part)).where(usage_recent.c.part >= bindparam("first"))
_of_part = usage_recent.c.part == bindparam("of")
_waiting, _removal = select(usage_recent.c.sums).where(_of_part), delete(usage_recent).where(_of_part)


class UsageSums:
    """Every method is within the caller's transaction, in which nobody else adds rows."""

    def __init__(self) -> None:
        self._series = WordBook(usage_series)
        self._words = attrgetter(*self._series.names)
        self._totals = Insertion(deployment_totals, grows(["deployment_id"], _TOTALS))
        self._recent = Insertion(usage_recent, refuses)
        self._waiting: Counter[int] = Counter()
        """What this one has added, by part. Others may have added more, so it is only a sign that it is time."""
        self._folding = Folding()

    def add(self, connection: Connection, groups: Collection[Sequence[UsageRow]]) -> dict[Words, int]:
        """The rows of a group have the same labels, and so the same series. Answers their numbers, for `remember`."""
        series = self._series.numbers(connection, {self._words(rows[0]) for rows in groups})
        totals: defaultdict[str, list[_Sums]] = defaultdict(list)
        parts: defaultdict[int, list[_Sums]] = defaultdict(list)
        for rows in groups:
            number = series[self._words(rows[0])]
            for hour, of_hour in _by_hour(rows):
                sums = _sums(of_hour)
                totals[rows[0].deployment_id].append(sums)
                parts[number // _SERIES_IN_A_PART].append((number, hour, *sums))
        grown = [(id_, *_total(connection, each)) for id_, each in sorted(totals.items())]
        self._totals.run(connection, grown)
        # Ids that sort by age: what comes next stands at the end.
        id_ = bytes.fromhex(new_request_id())
        self._recent.run(connection, [(part, id_, _encode(parts[part])) for part in sorted(parts)])
        self._waiting.update({part: len(sums) for part, sums in parts.items()})
        for part, waiting in self._waiting.most_common(_PARTS_AT_ONCE):
            if waiting >= _MOST_WAITING:
                self._folding.fold(connection, part)
                del self._waiting[part]
        return series

    def remember(self, series: dict[Words, int]) -> None:
        """Once the transaction is committed."""
        self._series.remember(series)


class Folding:
    """Puts what waits where it belongs, in a transaction of the caller's in which nobody else adds rows."""

    def __init__(self) -> None:
        self._insertion = Insertion(usage_sums, grows(_KEYS, NUMBERS, _HISTOGRAMS))
        self._kept = Lookup(usage_sums, "series_id", *_HISTOGRAMS, fixed=("hours", "start"))

    def fold(self, connection: Connection, part: int) -> None:
        waiting = connection.scalars(_waiting, {"of": part}).all()
        if not waiting:
            return
        connection.execute(_removal, {"of": part})
        hours: defaultdict[tuple[int, int], list[Any]] = defaultdict(list)
        for sums in waiting:
            for number, hour, *added in _decode(sums):
                hours[number, hour].append(added)
        periods: dict[_Key, _Sums] = {}
        days: defaultdict[_Key, list[_Sums]] = defaultdict(list)
        for (number, hour), each in hours.items():
            periods[number, 1, hour] = of_hour = _added(each)
            days[number, 24, hour - hour % DAY_MS].append(of_hour)
        periods |= {key: _added(each) for key, each in days.items()}
        kept = self._histograms(connection, periods)
        # In the order of the keys, so that a page of the database is gone to once.
        self._insertion.run(
            connection, [(*key, *_beside(connection, sums, kept.get(key))) for key, sums in sorted(periods.items())]
        )

    def fold_series(self, connection: Connection, series: Iterable[int]) -> None:
        """All that waits for these and some others."""
        for part in sorted({number // _SERIES_IN_A_PART for number in series}):
            self.fold(connection, part)

    def fold_next(self, first: int, connection: Connection) -> int | None:
        """Of the parts from `first` on; answers where to go on, None behind the last."""
        take_turns(connection)
        part = connection.scalar(_parts_from, {"first": first})
        if part is None:
            return None
        self.fold(connection, part)
        return int(part) + 1

    def _histograms(self, connection: Connection, keys: Iterable[_Key]) -> dict[_Key, tuple[bytes, bytes]]:
        """Those that are kept already: no SQL adds them up."""
        by_period: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for number, hours, start in keys:
            by_period[hours, start].append(number)
        return {
            (number, *period): (total, first_byte)
            for period, numbers in by_period.items()
            for number, total, first_byte in self._kept.run(connection, sorted(numbers), *period)
        }


_folding = Folding()


async def fold_all(database: Database) -> None:
    """For whoever reads sums: they have all rows that were added before. Raises Unavailable.

    A transaction for each part: nobody waits long for it.
    """
    if await database.read(lambda connection: connection.scalar(_parts_from, {"first": 0})) is None:
        return
    part: int | None = 0
    while part is not None:
        part = await database.written(partial(_folding.fold_next, part))


def _by_hour(rows: Sequence[UsageRow]) -> Iterable[tuple[int, Sequence[UsageRow]]]:
    """With the time each hour begins."""
    if len(rows) == 1:
        return [(rows[0].started_at // HOUR_MS * HOUR_MS, rows)]
    by_hour: defaultdict[int, list[UsageRow]] = defaultdict(list)
    for row in rows:
        by_hour[row.started_at // HOUR_MS].append(row)
    return [(hour * HOUR_MS, of_hour) for hour, of_hour in by_hour.items()]


def _sums(rows: Sequence[UsageRow]) -> _Sums:
    """The rows have the same labels."""
    failed = int(rows[0].failed)
    numbers = [_numbers(row, failed) for row in rows]
    totals = histogram([row.total_ms for row in rows])
    first_bytes = histogram([row.first_byte_ms for row in rows if row.first_byte_ms is not None])
    return (*_together(numbers), packed(totals), packed(first_bytes))


def _numbers(row: UsageRow, failed: int) -> tuple[int, ...]:
    """In the order of `NUMBERS`."""
    cost, first_byte = row.cost, row.first_byte_ms
    return (
        1,
        failed,
        *astuple(row.usage),
        cost or 0,
        int(cost is None),
        row.total_ms,
        first_byte or 0,
        int(first_byte is not None),
    )


def _together(numbers: Sequence[Sequence[int]]) -> Sequence[int]:
    return numbers[0] if len(numbers) == 1 else [*map(sum, zip(*numbers, strict=True))]


def _added(sums: Sequence[_Sums]) -> _Sums:
    if len(sums) == 1:
        return sums[0]
    *numbers, totals, first_bytes = zip(*sums, strict=True)
    return (*map(sum, numbers), _added_up(totals), _added_up(first_bytes))


def _added_up(histograms: Iterable[bytes]) -> bytes:
    return packed(sum(map(unpacked, histograms)))


def _beside(connection: Connection, sums: _Sums, kept: tuple[bytes, bytes] | None) -> _Sums:
    """Numbers to add to those that are kept, histograms to put in their place."""
    *numbers, total, first_byte = sums
    if kept is not None:
        total, first_byte = _added_up((kept[0], total)), _added_up((kept[1], first_byte))
    return (*_fitting(connection, numbers), total, first_byte)


def _total(connection: Connection, sums: Sequence[_Sums]) -> Sequence[float]:
    """In the order of `_TOTALS`."""
    requests, read, written, cost, unpriced = _together([_of_deployment(each) for each in sums])
    return _fitting(connection, (requests, read + written, cost, unpriced))


def _fitting(connection: Connection, numbers: Sequence[int]) -> Sequence[float]:
    """SQLite makes a fraction of a whole number that grows too large for it; of one that comes so, we do."""
    if max(numbers) <= _LARGEST or connection.dialect.name != "sqlite":
        return numbers
    return [float(number) if number > _LARGEST else number for number in numbers]
