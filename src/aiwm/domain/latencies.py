"""Latencies as counts in buckets: histograms add up, which percentiles do not, and percentiles are read from them.

Each bucket ends 2^(1/4), which is 19 %, above the one before, and a percentile is told as the middle of its bucket: it
is never wrong by more than 10 %. In memory a histogram is one whole number with 40 bits for each
bucket, so that adding two is one addition; kept, it is the bytes of that number from its first bucket on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import ceil, sqrt

Histogram = int

_A_DOUBLING = 4
_BUCKETS = 161
"""The last begins at 2^40 ms."""
_BYTES = 5
"""Of a count: enough for a trillion requests."""
_ONE = tuple(1 << (8 * _BYTES * bucket) for bucket in range(_BUCKETS))
"""One observation in each bucket."""
_KEPT = {one: bytes((bucket, 1)) for bucket, one in enumerate(_ONE)} | {0: b"\0"}
"""How those are kept, and none."""
_STARTS = tuple(ceil(2 ** ((bucket - 1) / _A_DOUBLING)) for bucket in range(1, _BUCKETS))
"""The first whole millisecond of each bucket but the first, which holds what took none."""


def histogram(milliseconds: Iterable[int]) -> Histogram:
    return sum([_ONE[bisect_right(_STARTS, ms)] for ms in milliseconds])


def percentile(counts: Histogram, share: float) -> float | None:
    """The time that `share` of all took at most, in ms; None of nothing."""
    numbers = _numbers(counts)
    rank = max(1, ceil(share * sum(numbers)))
    seen = 0
    for bucket, number in enumerate(numbers):
        seen += number
        if seen >= rank:
            return _middle(bucket)
    return None


def packed(counts: Histogram) -> bytes:
    """The first bucket that is not empty, then the counts from there on."""
    if counts in _KEPT:
        return _KEPT[counts]
    first = ((counts & -counts).bit_length() - 1) // (8 * _BYTES)
    counts >>= 8 * _BYTES * first
    return bytes((first,)) + counts.to_bytes(-(-counts.bit_length() // 8), "little")


def unpacked(kept: bytes) -> Histogram:
    return int.from_bytes(kept[1:], "little") << (8 * _BYTES * kept[0])


def _middle(bucket: int) -> float:
    """Of the whole milliseconds that fall into it."""
    if bucket == 0:
        return 0.0
    first = _STARTS[bucket - 1]
    last = max(first, ceil(2 ** (bucket / _A_DOUBLING)) - 1)
    return round(sqrt(first * last), 1)


def _numbers(counts: Histogram) -> Sequence[int]:
    """Of each bucket, up to the last that has any."""
    kept = counts.to_bytes(-(-counts.bit_length() // 8), "little")
    return [int.from_bytes(kept[place : place + _BYTES], "little") for place in range(0, len(kept), _BYTES)]
