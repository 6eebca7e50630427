import pytest

from aiwm.control.attempts import Attempts
from aiwm.errors import TooManyRequests
from people import Clock


def _attempts(clock: Clock) -> Attempts:
    return Attempts(most=3, seconds=60, clock=clock)


def test_whoever_fails_too_often_waits_as_long_as_told() -> None:
    clock = Clock()
    attempts = _attempts(clock)
    for _ in range(3):
        attempts.check("mai")
        attempts.failed("mai")
        clock.pass_seconds(1)

    with pytest.raises(TooManyRequests, match="try again in 57 s") as caught:
        attempts.check("mai")
    assert caught.value.headers["retry-after"] == "57"
    attempts.check("somebody else")

    clock.pass_seconds(57)
    attempts.check("mai")


def test_the_window_slides() -> None:
    clock = Clock()
    attempts = _attempts(clock)
    for _ in range(10):
        attempts.failed("mai")
        clock.pass_seconds(25)

        attempts.check("mai")


def test_success_forgets_the_failures() -> None:
    attempts = _attempts(Clock())
    for _ in range(3):
        attempts.failed("mai")

    attempts.forget("mai")
    attempts.forget("nobody")

    attempts.check("mai")


def test_memory_is_bounded_and_the_latest_failures_are_kept() -> None:
    attempts = _attempts(Clock())
    for _ in range(3):
        attempts.failed("mai")
    for number in range(9_999):
        attempts.failed(str(number))
    with pytest.raises(TooManyRequests):
        attempts.check("mai")

    attempts.failed("one more")

    attempts.check("mai")
