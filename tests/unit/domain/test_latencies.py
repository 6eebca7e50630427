"""domain/latencies.py: histograms that add up, and percentiles that are never far wrong."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.domain.latencies import histogram, packed, percentile, unpacked

TIMES = st.lists(st.integers(0, 1 << 41), max_size=60)


def test_the_percentile_of_nothing_is_not_known() -> None:
    assert percentile(histogram([]), 0.5) is None


@given(TIMES, TIMES)
def test_histograms_add_up(some: list[int], others: list[int]) -> None:
    assert histogram(some) + histogram(others) == histogram([*some, *others])


@given(TIMES)
def test_a_histogram_comes_back_as_it_was_kept(times: list[int]) -> None:
    counts = histogram(times)
    assert unpacked(packed(counts)) == counts


def test_large_counts_come_back_as_they_were_kept() -> None:
    counts = histogram([5]) * ((1 << 40) - 1) + histogram([0, 70_000]) * 300
    assert unpacked(packed(counts)) == counts


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_percentile_is_wrong_by_a_tenth_at_most(share: float) -> None:
    chance = random.Random(3)
    times = sorted(round(chance.lognormvariate(7, 1.5)) for _ in range(10_001))
    told = percentile(histogram(times), share)
    assert told == pytest.approx(times[round(share * 10_000)], rel=0.1)


@pytest.mark.parametrize("ms", [0, 1, 2, 3])
def test_small_times_are_told_as_they_were(ms: int) -> None:
    assert percentile(histogram([ms]), 0.95) == ms


def test_a_histogram_takes_as_many_bytes_as_it_has_buckets_between_its_ends() -> None:
    assert len(packed(histogram([]))) == 1
    assert len(packed(histogram([60_000]))) == 2
    assert len(packed(histogram([900, 60_000]))) < 140
