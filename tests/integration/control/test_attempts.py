"""control/attempts.py: failures that all programs on one database see."""

from __future__ import annotations

import asyncio

import pytest

from aiwm.control.attempts import Attempts
from aiwm.errors import TooManyRequests
from aiwm.store.attempts import AttemptStore
from aiwm.store.database import Database
from people import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attempts(database: Database, clock: Clock) -> Attempts:
    return Attempts(store=AttemptStore(database), clock=clock)


async def _fail(attempts: Attempts, times: int, account: str = "mai", network: str = "") -> None:
    for number in range(times):
        await attempts.failed(account, network or f"192.0.2.{number}")


async def test_whoever_fails_too_often_waits_as_long_as_told(attempts: Attempts, clock: Clock) -> None:
    for number in range(10):
        await attempts.check("mai", "192.0.2.1")
        await attempts.failed("mai", f"192.0.2.{number}")
        clock.pass_seconds(1)

    with pytest.raises(TooManyRequests, match="try again in 290 s") as caught:
        await attempts.check("mai", "192.0.2.1")
    assert caught.value.headers["retry-after"] == "290"
    with pytest.raises(TooManyRequests, match="try again in 290 s"):
        await attempts.failed("mai", "192.0.2.1")
    await attempts.check("somebody else", "192.0.2.1")

    clock.pass_seconds(290)
    await attempts.check("mai", "192.0.2.1")


async def test_the_window_slides(attempts: Attempts, clock: Clock) -> None:
    for _ in range(20):
        await _fail(attempts, 1)
        clock.pass_seconds(34)
        await attempts.check("mai", "192.0.2.1")


async def test_success_forgets_the_failures_of_the_account_and_not_those_of_the_network(attempts: Attempts) -> None:
    for number in range(5):
        await _fail(attempts, 10, f"user-{number}", "192.0.2.1")
        await attempts.forget(f"user-{number}")
    await attempts.forget("nobody")

    await attempts.check("user-0", "192.0.2.2")
    with pytest.raises(TooManyRequests):
        await attempts.check("user-0", "192.0.2.1")


async def test_two_programs_count_together_and_exactly(database: Database, database_url: str, clock: Clock) -> None:
    other = Database(database_url)
    try:
        programs = [Attempts(store=AttemptStore(each), clock=clock) for each in (database, other)]
        answers = await asyncio.gather(
            *(programs[number % 2].failed("mai", f"192.0.2.{number}") for number in range(24)), return_exceptions=True
        )
        assert [answer is None for answer in answers].count(True) == 10
        assert {type(answer) for answer in answers if answer is not None} == {TooManyRequests}
        for program in programs:
            with pytest.raises(TooManyRequests):
                await program.check("mai", "198.51.100.1")
    finally:
        await other.aclose()


async def test_old_failures_go_and_names_are_not_kept(attempts: Attempts, clock: Clock, database: Database) -> None:
    from sqlalchemy import select

    from aiwm.store.tables import failed_attempts

    await _fail(attempts, 5, "a password that was typed as a name")
    clock.pass_seconds(300)
    await _fail(attempts, 1, "x" * 100_000 + "\ud800")
    async with database.reading() as connection:
        rows = (await connection.execute(select(failed_attempts))).all()
    assert len(rows) == 2
    assert {len(row.digest) for row in rows} == {16}
