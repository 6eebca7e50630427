"""Latencies as counts in buckets: histograms add up, which percentiles do not, and percentiles are read from them.

Each bucket ends 2^(1/4), which is 19 %, above the one before, and a percentile is told as the middle of its bucket: it
is never wrong by more than 10 %. In memory a histogram is one whole number with 64 bits for each bucket, so that adding
two is one addition. Kept, it is as many bytes as it has buckets between its first and its last, times those that its
largest count needs.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from math import ceil, sqrt

Histogram = int

_A_DOUBLING = 4
_BUCKETS = 161
"""The last begins at 2^40 ms."""
_BYTES = 8
_ONE = tuple(1 << (8 * _BYTES * bucket) for bucket in range(_BUCKETS))
"""One observation in each bucket."""
_STARTS = tuple(ceil(2 ** ((bucket - 1) / _A_DOUBLING)) for bucket in range(1, _BUCKETS))
"""The first whole millisecond of each bucket but the first, which holds what took none."""


def histogram(milliseconds: Iterable[int]) -> Histogram:
    counts = Counter([bisect_right(_STARTS, ms) for ms in milliseconds])
    return sum([_ONE[bucket] * number for bucket, number in counts.items()])


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
    """First bucket, bytes of a count, then all lowest bytes, all second ones, ..."""
    numbers = _numbers(counts)
    first = next((bucket for bucket, number in enumerate(numbers) if number), 0)
    width = -(-max(numbers, default=0).bit_length() // 8) or 1
    body = b"".join([number.to_bytes(width, "little") for number in numbers[first:]])
    return bytes((first, width)) + b"".join([body[place::width] for place in range(width)])


def unpacked(kept: bytes) -> Histogram:
    first, width = kept[0], kept[1]
    size = (len(kept) - 2) // width
    wide = bytearray(size * _BYTES)
    for place in range(width):
        wide[place::_BYTES] = kept[2 + place * size : 2 + (place + 1) * size]
    return int.from_bytes(wide, "little") << (8 * _BYTES * first)


def _middle(bucket: int) -> float:
    """Of the whole milliseconds that fall into it."""
    if bucket == 0:
        return 0.0
    first = _STARTS[bucket - 1]
    last = max(first, ceil(2 ** (bucket / _A_DOUBLING)) - 1)
    return round(sqrt(first * last), 1)


def _numbers(counts: Histogram) -> tuple[int, ...]:
    """Of each bucket, up to the last that has any."""
    size = -(-counts.bit_length() // (8 * _BYTES))
    return struct.unpack(f"<{size}Q", counts.to_bytes(size * _BYTES, "little"))
