"""Reports over the ledger: what can be asked, and sums that add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Self

from aiwm.domain.costs import Picodollars, dollars
from aiwm.domain.latencies import Histogram
from aiwm.domain.usage import Usage, UsageRow
from aiwm.errors import Invalid

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MOST_GROUPS = 10_000


class Dimension(StrEnum):
    """What requests are summed by, besides time. The values are callers' names."""

    DEPLOYMENT = "deployment"
    MODEL = "model"
    USER = "user"
    API_KEY = "apiKey"
    PROVIDER = "provider"


class Period(StrEnum):
    """In UTC."""

    DAY = "day"
    HOUR = "hour"

    @property
    def ms(self) -> int:
        return DAY_MS if self is Period.DAY else HOUR_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Times from `since` on, before `until`."""

    since: int
    until: int

    def in_whole(self, period: Period) -> Self:
        """Widened to whole periods."""
        return replace(self, since=_floor(self.since, period.ms), until=-_floor(-self.until, period.ms))

    def parts(self) -> Sequence[tuple[Period, Span]]:
        """Days where whole days are, hours before and after them. `self` is in whole hours."""
        days = Span(since=-_floor(-self.since, DAY_MS), until=_floor(self.until, DAY_MS))
        if days.since >= days.until:
            return [(Period.HOUR, self)]
        cut = [
            (Period.HOUR, Span(since=self.since, until=days.since)),
            (Period.DAY, days),
            (Period.HOUR, Span(since=days.until, until=self.until)),
        ]
        return [(period, span) for period, span in cut if span.since < span.until]


def _floor(time: int, period_ms: int) -> int:
    return time - time % period_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportQuery:
    """`equals` holds exact matches."""

    span: Span
    by: Sequence[Dimension] = ()
    period: Period | None = None
    equals: Mapping[Dimension, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Over ledger rows."""

    requests: int = 0
    errors: int = 0
    """Not answered below 400, or not to the end."""
    usage: Usage = field(default_factory=Usage)
    cost: Picodollars = 0
    """Of the requests whose cost is known."""
    unpriced: int = 0
    """Requests whose cost is not known."""
    total_ms: int = 0
    first_byte_ms: int = 0
    first_byte_count: int = 0
    """Requests that got a first byte."""
    total: Histogram = 0
    first_byte: Histogram = 0

    @property
    def known_cost(self) -> float | None:
        """In USD; None when nothing is known of what was spent."""
        return None if self.unpriced and not self.cost else dollars(self.cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One line of a report: the values it is the sum of, and the time its period begins."""

    of: Mapping[Dimension, str | None]
    start: int | None = None
    sums: Sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`span` is what was summed: the one asked for, in whole hours, or days where hours are no longer kept."""

    query: ReportQuery
    span: Span
    groups: Sequence[Group]
    totals: Sums

    @property
    def ordered(self) -> Sequence[Group]:
        """Oldest period first; within it, the most requests first."""

        def place(group: Group) -> tuple[int, int, Sequence[str]]:
            return group.start or 0, -group.sums.requests, [value or "" for value in group.of.values()]

        return sorted(self.groups, key=place)


def require_bearable(groups: int) -> None:
    if groups > MOST_GROUPS:
        raise Invalid(
            f"groupBy: makes more than {MOST_GROUPS} groups; ask for less in it, for a shorter time, or for one of them"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RowQuery:
    """Rows of the ledger, newest first, from behind a `place` on. `equals` holds exact matches by callers' names."""

    since: int | None = None
    until: int | None = None
    equals: Mapping[str, str | int] = field(default_factory=dict)
    limit: int = 10
    after: Place | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands among the others: rows that come later do not move it."""

    started_at: int
    request_id: str

    @classmethod
    def of(cls, row: UsageRow) -> Self:
        return cls(row.started_at, row.request_id)
