"""control/sessions.py: logging in and out on both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from argon2 import PasswordHasher

from aiwm.domain.users import Role, UserStatus
from aiwm.errors import Invalid, NotFound, TooManyRequests, Unauthorized, WrongState
from aiwm.identity.passwords import Passwords
from aiwm.identity.signatures import SharedSecret
from aiwm.store.database import Database
from people import PASSWORD, Iam, Town


@pytest.fixture
async def town(database: Database) -> Town:
    return await Town.build(Iam(database))


async def _is_good(iam: Iam, access_token: str) -> bool:
    try:
        await iam.verifier.verify(access_token.encode())
    except Unauthorized:
        return False
    return True


async def test_a_login_gives_tokens_that_say_who_it_is(town: Town) -> None:
    user = await town.add("Mai", Role.EDITOR)

    login = await town.iam.login("mAI")

    assert login.user == user
    assert (login.expires_in, login.refresh_expires_in) == (3600, 86_400)
    caller = await town.iam.verifier.verify(login.access_token.encode())
    assert (caller.user_id, caller.org_id, caller.roles) == (user.id, town.red.id, (Role.EDITOR,))


@pytest.mark.parametrize(
    ("username", "password"),
    [("nobody", PASSWORD), ("mai", "wrong horse"), ("asleep", PASSWORD), ("deleted", PASSWORD), ("", ""),
     ("ma i", PASSWORD), ("half\ud800pair", "half\ud800pair"), ("x" * 256, PASSWORD), ("mai\x00", PASSWORD)],
)  # fmt: skip
async def test_everything_wrong_with_a_login_is_the_same_error(town: Town, username: str, password: str) -> None:
    await town.add("mai")
    await town.add("asleep", status=UserStatus.INACTIVE)
    await town.iam.users.delete(town.red_owner, (await town.add("deleted")).id)

    with pytest.raises(Unauthorized) as caught:
        await town.iam.login(username, password)

    assert caught.value.message == "Invalid credentials"


async def test_ten_failures_close_an_account_for_five_minutes_whatever_its_spelling(town: Town) -> None:
    await town.add("mai")
    for number in range(10):
        with pytest.raises(Unauthorized):
            await town.iam.login("mai" if number % 2 else "MAI", "wrong horse", address=f"192.0.2.{number}")

    with pytest.raises(TooManyRequests) as caught:
        await town.iam.login("mai")
    assert caught.value.headers["retry-after"] == "300"
    await town.iam.login("blue-owner")

    town.iam.clock.pass_seconds(300)
    await town.iam.login("mai")


async def test_guesses_at_the_same_time_are_not_more_guesses(town: Town) -> None:
    await town.add("mai")
    guesses = [f"wrong {number}" for number in range(30)]

    answers = await asyncio.gather(
        *(town.iam.login("mai", guess, address=f"192.0.2.{n}") for n, guess in enumerate(guesses)),
        return_exceptions=True,
    )

    assert [type(answer) for answer in answers].count(Unauthorized) == 10
    assert [type(answer) for answer in answers].count(TooManyRequests) == 20
    with pytest.raises(TooManyRequests):
        await town.iam.login("mai")


async def test_an_address_that_tries_many_accounts_is_stopped(town: Town) -> None:
    for number in range(50):
        with pytest.raises(Unauthorized):
            await town.iam.login(f"user-{number}", address=f"2001:db8:0:1::{number:x}")

    with pytest.raises(TooManyRequests):
        await town.iam.login("red-owner", address="2001:db8:0:1:ffff::1")
    await town.iam.login("red-owner", address="2001:db8:0:2::1")


async def test_a_success_forgets_the_failures(town: Town) -> None:
    await town.add("mai")
    for _ in range(2):
        for _ in range(9):
            with pytest.raises(Unauthorized):
                await town.iam.login("mai", "wrong horse")
        await town.iam.login("mai")


async def test_a_hash_of_weaker_parameters_is_made_anew_at_login(town: Town, database: Database) -> None:
    user = await town.add("mai")
    later = Iam(database)
    later.sessions._passwords = Passwords(PasswordHasher(time_cost=2, memory_cost=16, parallelism=1))

    assert (await later.login("mai")).user.password_hash != user.password_hash

    stored = await later.user_store.get(None, user.id)
    assert stored is not None
    assert "t=2" in stored.password_hash
    await later.login("mai")


# --- refresh ---------------------------------------------------------------------------------------------------


async def test_a_refresh_token_gives_the_next_one_and_what_the_user_is_now(town: Town) -> None:
    first = await town.iam.login("red-owner")
    town.iam.clock.pass_seconds(3599)

    second = await town.iam.sessions.refresh(first.refresh_token)
    third = await town.iam.sessions.refresh(second.refresh_token)

    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    assert await _is_good(town.iam, first.access_token)
    town.iam.clock.pass_seconds(1)
    assert not await _is_good(town.iam, first.access_token)
    assert await _is_good(town.iam, third.access_token)


async def test_an_old_refresh_token_ends_the_whole_login(town: Town) -> None:
    first = await town.iam.login("red-owner")
    second = await town.iam.sessions.refresh(first.refresh_token)

    with pytest.raises(Unauthorized, match="Invalid refresh token"):
        await town.iam.sessions.refresh(first.refresh_token)

    with pytest.raises(Unauthorized):
        await town.iam.sessions.refresh(second.refresh_token)
    assert not await _is_good(town.iam, first.access_token)
    assert not await _is_good(town.iam, second.access_token)


async def test_a_refresh_token_expires_and_each_refresh_begins_its_time_anew(town: Town) -> None:
    login = await town.iam.login("red-owner")
    for _ in range(3):
        town.iam.clock.pass_seconds(86_399)
        login = await town.iam.sessions.refresh(login.refresh_token)

    town.iam.clock.pass_seconds(86_400)
    with pytest.raises(Unauthorized):
        await town.iam.sessions.refresh(login.refresh_token)


@pytest.mark.parametrize(
    "token",
    ["", ".", "x", "x.", ".x", f"{'0' * 24}.x", "\x00.x", "half\ud800.pair", "' OR 1=1 --.x", f"{'0' * 10_000}.x"],
)
async def test_what_is_no_refresh_token_is_refused_and_remembered_by_nobody(town: Town, token: str) -> None:
    with pytest.raises(Unauthorized, match="Invalid refresh token"):
        await town.iam.sessions.refresh(token)

    assert not town.iam.revocations._revoked_at


# --- the end of a login ----------------------------------------------------------------------------------------


async def test_a_logout_ends_this_login_only_and_at_once(town: Town) -> None:
    here, there = await town.iam.login("red-owner"), await town.iam.login("red-owner")
    caller = await town.iam.verifier.verify(here.access_token.encode())
    assert town.iam.verifier.known(here.access_token.encode())

    await town.iam.sessions.logout(caller)
    await town.iam.sessions.logout(caller)

    assert town.iam.verifier.known(here.access_token.encode()) is None
    assert not await _is_good(town.iam, here.access_token)
    assert await _is_good(town.iam, there.access_token)
    with pytest.raises(Unauthorized):
        await town.iam.sessions.refresh(here.refresh_token)


async def test_another_process_honours_a_logout_at_its_next_look(town: Town, database: Database) -> None:
    other = Iam(database, clock=town.iam.clock)
    await other.revocations.refresh(other.session_store.revoked_since)
    login = await town.iam.login("red-owner")
    caller = await other.verifier.verify(login.access_token.encode())
    town.iam.clock.pass_seconds(1)
    await town.iam.sessions.logout(caller)
    assert other.verifier.known(login.access_token.encode())

    await other.revocations.refresh(other.session_store.revoked_since)

    assert other.verifier.known(login.access_token.encode()) is None
    assert not await _is_good(other, login.access_token)


async def test_a_restart_does_not_bring_a_dead_token_back(town: Town, database: Database) -> None:
    login = await town.iam.login("red-owner")
    await town.iam.sessions.logout(await town.iam.verifier.verify(login.access_token.encode()))

    restarted = Iam(database, clock=town.iam.clock)
    await restarted.revocations.refresh(restarted.session_store.revoked_since)

    assert not await _is_good(restarted, login.access_token)


async def test_a_new_password_ends_all_other_logins_and_the_old_password(town: Town) -> None:
    here, there = await town.iam.login("red-owner"), await town.iam.login("red-owner")
    caller = await town.iam.verifier.verify(here.access_token.encode())

    await town.iam.sessions.change_password(caller, PASSWORD, "battery staple", address="192.0.2.1")

    assert await _is_good(town.iam, here.access_token)
    assert not await _is_good(town.iam, there.access_token)
    await town.iam.sessions.refresh(here.refresh_token)
    with pytest.raises(Unauthorized):
        await town.iam.login("red-owner", PASSWORD)
    # In the same second as the change: a login after it is not mistaken for one before it.
    assert await _is_good(town.iam, (await town.iam.login("red-owner", "battery staple")).access_token)


@pytest.mark.parametrize(
    ("current", "new", "error"),
    [("wrong horse", "battery staple", "currentPassword: is wrong"), (PASSWORD, "short", "newPassword: must be 8")],
)
async def test_a_password_is_not_changed_without_the_old_or_to_a_bad_one(
    town: Town, current: str, new: str, error: str
) -> None:
    with pytest.raises(Invalid, match=error):
        await town.iam.sessions.change_password(town.red_owner, current, new, address="192.0.2.1")

    await town.iam.login("red-owner", PASSWORD)


async def test_a_stolen_token_cannot_guess_the_password(town: Town) -> None:
    for _ in range(10):
        with pytest.raises(Invalid):
            await town.iam.sessions.change_password(town.red_owner, "guess", "battery staple", address="192.0.2.1")

    with pytest.raises(TooManyRequests):
        await town.iam.sessions.change_password(town.red_owner, PASSWORD, "battery staple", address="192.0.2.1")


async def test_a_profile_is_the_users_own_even_when_acting_elsewhere(town: Town) -> None:
    assert (await town.iam.sessions.profile(town.red_owner)).username == "red-owner"
    assert (await town.iam.sessions.profile(town.admin.acting_in(town.red.id))).username == "admin"


async def test_callers_of_another_iam_are_told_where_their_account_is(database: Database) -> None:
    iam = Iam(database, key=SharedSecret("a shared secret of 32 bytes or more"))
    town = await Town.build(iam)
    stranger = replace(town.red_owner, user_id="u-1", session="")

    for verb in (
        iam.sessions.logout(stranger),
        iam.sessions.change_password(stranger, PASSWORD, "battery staple", address=""),
    ):
        with pytest.raises(WrongState, match="another identity service"):
            await verb
    with pytest.raises(NotFound):
        await iam.sessions.profile(stranger)
