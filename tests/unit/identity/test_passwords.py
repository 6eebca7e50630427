import asyncio
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher

from aiwm.errors import TooManyRequests
from aiwm.identity.passwords import Passwords

WEAK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    passwords = Passwords(WEAK)
    yield passwords
    passwords.close()


async def test_the_right_password_is_told_from_a_wrong_one(passwords: Passwords) -> None:
    hashed = await passwords.hash("correct horse")

    assert hashed.startswith("$argon2id$")
    assert await passwords.verify(hashed, "correct horse")
    assert not await passwords.verify(hashed, "Correct horse")


@pytest.mark.parametrize("password", ["", "anything", "\ud800", "\x00", "x" * 100_000])
async def test_nobody_has_no_password(passwords: Passwords, password: str) -> None:
    assert not await passwords.verify(None, password)


async def test_looking_for_nobody_takes_the_same_work(passwords: Passwords) -> None:
    nobody = passwords._nobody
    somebody = await passwords.hash("correct horse")

    assert nobody.rsplit("$", 2)[0] == somebody.rsplit("$", 2)[0]
    assert len(nobody) == len(somebody)


async def test_a_damaged_hash_is_a_wrong_password(passwords: Passwords) -> None:
    assert not await passwords.verify("$argon2id$v=19$m=8", "correct horse")


async def test_a_hash_of_weaker_parameters_should_be_made_again(passwords: Passwords) -> None:
    hashed = await passwords.hash("correct horse")

    assert not passwords.needs_rehash(hashed)
    stronger = Passwords(PasswordHasher(time_cost=2, memory_cost=16, parallelism=1))
    assert stronger.needs_rehash(hashed)
    stronger.close()


async def test_a_flood_of_logins_is_turned_away_before_it_costs_anything(passwords: Passwords) -> None:
    answers = await asyncio.gather(*(passwords.verify(None, "guess") for _ in range(200)), return_exceptions=True)

    refused = [answer for answer in answers if isinstance(answer, TooManyRequests)]
    assert len(refused) == 200 - 64
    assert refused[0].headers["retry-after"] == "1"
    assert not await passwords.verify(None, "afterwards")
