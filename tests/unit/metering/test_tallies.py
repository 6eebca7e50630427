"""metering/tallies.py: what several have counted, together."""

from __future__ import annotations

from aiwm.metering.tallies import added


def test_numbers_of_one_name_are_added_however_deep_and_others_are_kept() -> None:
    one = {"openai": {"requests": {"200 complete": 2}, "buckets": [1, 0, 1]}, "only here": 3}
    other = {"openai": {"requests": {"200 complete": 1, "none timed-out": 1}, "buckets": [0, 4, 1]}, "only there": {}}
    assert added(one, other) == {
        "openai": {"requests": {"200 complete": 3, "none timed-out": 1}, "buckets": [1, 4, 2]},
        "only here": 3,
        "only there": {},
    }
    assert added({}, one) == one == added(one, {})
