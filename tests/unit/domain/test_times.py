"""domain/times.py"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from aiwm.domain import times
from aiwm.domain.times import parsed


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (999, "1970-01-01T00:00:00.999Z"),
        (1_737_331_200_000, "2025-01-20T00:00:00.000Z"),
        (1_763_888_123_456, "2025-11-23T08:55:23.456Z"),
        (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_is_written_as_iso_8601_with_milliseconds_in_utc(milliseconds: int, text: str) -> None:
    assert times.iso(milliseconds) == text


def test_no_millisecond_is_rounded_into_another() -> None:
    for milliseconds in range(1_763_888_123_000, 1_763_888_124_000):
        written = datetime.fromisoformat(times.iso(milliseconds))
        assert written.tzinfo is UTC
        assert round(written.timestamp() * 1000) == milliseconds


def test_now_is_this_millisecond() -> None:
    before = int(time.time() * 1000)
    assert before <= times.now() <= int(time.time() * 1000) + 1


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2025-01-20", 1_737_331_200_000),
        ("2025-01-20T09:00:01Z", 1_737_363_601_000),
        ("2025-01-20T09:00:01.234Z", 1_737_363_601_234),
        ("2025-01-20T16:00:01+07:00", 1_737_363_601_000),
        ("1970-01-01", 0),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, milliseconds: int) -> None:
    assert parsed(text) == milliseconds


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "20250120", "2025-01-20T09:00:01", "2025-02-30", "2025-1-2", "1969-12-31", "9999-12-31",
     "2025-01-20Z", "2025-01-20T25:00:00Z", "1737363601000", "2025-W04-1", "٢٠٢٥-٠١-٢٠"],
)  # fmt: skip
def test_what_is_no_time_is_none(text: str) -> None:
    assert parsed(text) is None
