"""domain/reports.py: which sums a span of time is made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.domain.reports import DAY_MS, HOUR_MS, MOST_GROUPS, Period, Span, Sums, require_bearable
from aiwm.errors import Invalid

HOURS = st.integers(0, 24 * 40)


@given(HOURS, HOURS)
def test_the_parts_of_a_span_are_the_span_and_its_days_are_whole(one: int, other: int) -> None:
    span = Span(since=min(one, other) * HOUR_MS, until=max(one, other) * HOUR_MS)
    reached = span.since
    for period, part in span.parts():
        assert part.since == reached
        assert part.since % period.ms == part.until % period.ms == 0
        reached = part.until
    assert reached == span.until
    assert sum(1 for period, _ in span.parts() if period is Period.HOUR) <= 2


def test_a_span_is_widened_to_whole_periods() -> None:
    span = Span(since=DAY_MS + 1, until=2 * DAY_MS + 1)
    assert span.in_whole(Period.HOUR) == Span(since=DAY_MS, until=2 * DAY_MS + HOUR_MS)
    assert span.in_whole(Period.DAY) == Span(since=DAY_MS, until=3 * DAY_MS)
    whole = Span(since=DAY_MS, until=2 * DAY_MS)
    assert whole.in_whole(Period.DAY) == whole


def test_what_is_not_known_is_no_cost() -> None:
    assert Sums().known_cost == 0
    assert Sums(unpriced=1).known_cost is None
    assert Sums(unpriced=1, cost=5 * 10**11).known_cost == 0.5


def test_nobody_reads_that_many_groups() -> None:
    require_bearable(MOST_GROUPS)
    with pytest.raises(Invalid, match="groupBy"):
        require_bearable(MOST_GROUPS + 1)
