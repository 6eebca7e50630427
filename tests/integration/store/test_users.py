"""store/users.py, store/organizations.py and store/sessions.py, where they decide something by themselves."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from aiwm.domain.ids import new_id
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Organization, Role, Session, User, UserStatus
from aiwm.errors import Conflict
from aiwm.store.database import Database
from aiwm.store.organizations import OrganizationStore
from aiwm.store.sessions import SessionStore
from aiwm.store.users import UserStore

HISTORY = {"created_by": "x", "updated_by": "x", "created_at": 1000, "updated_at": 1000}


def _organization(**changes: object) -> Organization:
    return Organization(**{"id": new_id(), "name": "Red", "description": ""} | HISTORY | changes)  # type: ignore[arg-type]


def _user(org: Organization, username: str, *roles: Role, **changes: object) -> User:
    fields = {
        "id": new_id(),
        "org_id": org.id,
        "username": username,
        "fullname": "",
        "password_hash": "hash",
        "status": UserStatus.ACTIVE,
        "roles": roles or (Role.VIEWER,),
    }
    return User(**fields | HISTORY | changes)  # type: ignore[arg-type]


def _session(user: User, **changes: object) -> Session:
    fields = {"id": new_id(), "user_id": user.id, "refresh_hash": "first", "created_at": 1000, "expires_at": 9000}
    return Session(**fields | changes)  # type: ignore[arg-type]


@pytest.fixture
async def org(database: Database) -> Organization:
    organization = _organization()
    await OrganizationStore(database).add(organization)
    return organization


async def test_a_user_comes_back_as_it_was_written(database: Database, org: Organization) -> None:
    store = UserStore(database)
    user = _user(org, "Mai", Role.OWNER, Role.VIEWER, fullname="Mai Nguyễn", status=UserStatus.INACTIVE)

    assert await store.add(user)

    assert await store.get(org.id, user.id) == user
    assert await store.get(None, user.id) == user
    assert await store.by_username("mAI") == user


async def test_a_user_of_another_organization_is_not_there(database: Database, org: Organization) -> None:
    store = UserStore(database)
    user = _user(org, "mai")
    await store.add(user)

    assert await store.get(new_id(), user.id) is None
    assert (await store.list(new_id(), PageQuery())).total == 0


async def test_nobody_is_added_to_an_organization_that_is_not_there(database: Database, org: Organization) -> None:
    organizations = OrganizationStore(database)
    assert not await UserStore(database).add(_user(_organization(), "mai"))

    await organizations.delete(org, by="x", at=2000)

    assert not await UserStore(database).add(_user(org, "mai"))
    assert await organizations.get(org.id) is None


async def test_a_username_is_taken_whatever_its_case_until_its_user_is_deleted(
    database: Database, org: Organization
) -> None:
    store = UserStore(database)
    first, second = _user(org, "Mai"), _user(org, "an-other")
    await store.add(first)
    await store.add(second)

    with pytest.raises(Conflict, match='Username "MAI" is already taken'):
        await store.add(_user(org, "MAI"))
    with pytest.raises(Conflict, match="already taken"):
        await store.change(second, replace(second, username="maI", updated_at=2000), end_sessions=False)
    await store.delete(first, by="x", at=2000)

    assert await store.add(_user(org, "MAI"))
    assert await store.get(org.id, first.id) is None


async def test_of_two_changes_of_one_state_the_second_is_told(database: Database, org: Organization) -> None:
    store = UserStore(database)
    user = _user(org, "mai")
    await store.add(user)
    await store.change(user, replace(user, fullname="first", updated_at=2000), end_sessions=False)

    with pytest.raises(Conflict, match="changed by someone else"):
        await store.change(user, replace(user, fullname="second", updated_at=2001), end_sessions=False)
    with pytest.raises(Conflict, match="changed by someone else"):
        await store.delete(user, by="x", at=2001)


async def test_a_hash_made_anew_is_not_undone_by_another_change(database: Database, org: Organization) -> None:
    store = UserStore(database)
    user = _user(org, "mai")
    await store.add(user)
    await store.change_hash(user, "better")
    await store.change_hash(user, "too late")

    await store.change(user, replace(user, fullname="Mai", updated_at=2000), end_sessions=False)

    after = await store.get(org.id, user.id)
    assert after is not None
    assert (after.password_hash, after.fullname) == ("better", "Mai")


async def test_a_list_is_filtered_searched_sorted_and_counted(database: Database, org: Organization) -> None:
    store = UserStore(database)
    for at, (username, status) in enumerate([("anna_a", "active"), ("bert%b", "inactive"), ("Carl", "active")]):
        await store.add(_user(org, username, status=UserStatus(status), fullname=f"{username} X", created_at=at))

    async def names(**query: object) -> list[str]:
        return [user.username for user in (await store.list(org.id, PageQuery(**query))).items]  # type: ignore[arg-type]

    assert await names() == ["Carl", "bert%b", "anna_a"]
    assert await names(sort="username") == ["anna_a", "bert%b", "Carl"]
    assert await names(equals={"status": "active"}) == ["Carl", "anna_a"]
    assert await names(search="CAR") == ["Carl"]
    assert await names(search="%") == ["bert%b"]
    assert await names(search="_") == ["anna_a"]
    page = await store.list(org.id, PageQuery(limit=1))
    assert (len(page.items), page.total, page.counts) == (1, 3, {"status": {"active": 2, "inactive": 1}})


@pytest.mark.parametrize("how", ["demote", "deactivate", "delete"])
async def test_the_last_active_owner_stays(database: Database, org: Organization, how: str) -> None:
    store = UserStore(database)
    owner, other = _user(org, "owner", Role.OWNER), _user(org, "other", Role.OWNER, status=UserStatus.INACTIVE)
    for user in (owner, other, _user(org, "editor", Role.EDITOR)):
        await store.add(user)

    async def remove() -> None:
        if how == "delete":
            await store.delete(owner, by="x", at=2000)
        elif how == "demote":
            await store.change(owner, replace(owner, roles=(Role.EDITOR,), updated_at=2000), end_sessions=False)
        else:
            after = replace(owner, status=UserStatus.INACTIVE, updated_at=2000)
            await store.change(owner, after, end_sessions=False)

    with pytest.raises(Conflict, match=f'Cannot {how} user "owner". It is the last active owner of its organization'):
        await remove()
    await store.change(other, replace(other, status=UserStatus.ACTIVE, updated_at=1500), end_sessions=False)
    await remove()


async def test_the_last_operator_stays_though_its_organization_has_another_owner(
    database: Database, org: Organization
) -> None:
    store = UserStore(database)
    operator = _user(org, "operator", Role.UNIVERSE_OWNER)
    await store.add(operator)
    await store.add(_user(org, "owner", Role.OWNER))

    with pytest.raises(Conflict, match="last active owner of the installation"):
        await store.change(operator, replace(operator, roles=(Role.OWNER,), updated_at=2000), end_sessions=False)


async def test_two_owners_who_demote_each_other_at_once_do_not_both_succeed(database: Database) -> None:
    store = UserStore(database)
    for round_ in range(5):
        org = _organization()
        await OrganizationStore(database).add(org)
        owners = [_user(org, f"owner-{round_}-{name}", Role.OWNER) for name in "ab"]
        for owner in owners:
            await store.add(owner)

        answers = await asyncio.gather(
            *(store.change(it, replace(it, roles=(), updated_at=2000), end_sessions=False) for it in owners),
            return_exceptions=True,
        )

        assert [type(answer) for answer in answers if isinstance(answer, Exception)] == [Conflict]


async def test_the_first_users_are_made_once_however_many_programs_start(database: Database) -> None:
    stores = [UserStore(database) for _ in range(5)]

    async def first(store: UserStore) -> bool:
        organization = _organization(name="default")
        return await store.add_first(organization, _user(organization, "admin", Role.UNIVERSE_OWNER))

    assert not await stores[0].any()
    assert sorted(await asyncio.gather(*map(first, stores))) == [False, False, False, False, True]
    assert await stores[0].any()
    assert (await OrganizationStore(database).list(None, PageQuery())).total == 1


async def test_an_organization_is_seen_changed_and_told_of_conflicts(database: Database, org: Organization) -> None:
    store = OrganizationStore(database)
    await store.add(_organization(name="Blue", description="100% blue"))
    renamed = replace(org, name="Crimson", updated_at=2000)

    await store.change(org, renamed)

    assert await store.get(org.id) == renamed
    with pytest.raises(Conflict, match="changed by someone else"):
        await store.change(org, renamed)
    assert (await store.list(org.id, PageQuery())).items == [renamed]
    assert (await store.list(None, PageQuery(search="100%"))).total == 1
    assert [o.name for o in (await store.list(None, PageQuery(sort="name"))).items] == ["Blue", "Crimson"]


async def test_an_organization_goes_with_its_last_user_but_not_with_two(database: Database, org: Organization) -> None:
    users, organizations, sessions = UserStore(database), OrganizationStore(database), SessionStore(database)
    owner, editor = _user(org, "owner", Role.OWNER), _user(org, "editor", Role.EDITOR)
    await users.add(owner)
    await users.add(editor)
    session = _session(owner)
    await sessions.add(session, password_hash="hash", forget_before=0)

    with pytest.raises(Conflict, match="It still has 2 users"):
        await organizations.delete(org, by="x", at=2000)
    await users.delete(editor, by="x", at=1500)

    assert await organizations.delete(org, by="x", at=2000) == [session.id]
    assert await users.get(None, owner.id) is None


# --- sessions --------------------------------------------------------------------------------------------------


@pytest.fixture
async def user(database: Database, org: Organization) -> User:
    user = _user(org, "mai")
    await UserStore(database).add(user)
    return user


async def test_a_login_does_not_begin_for_a_user_who_changed_meanwhile(database: Database, user: User) -> None:
    users, sessions = UserStore(database), SessionStore(database)

    assert not await sessions.add(_session(user), password_hash="yesterday's", forget_before=0)
    inactive = replace(user, status=UserStatus.INACTIVE, updated_at=2000)
    await users.change(user, inactive, end_sessions=True)
    assert not await sessions.add(_session(user), password_hash="hash", forget_before=0)
    await users.delete(inactive, by="x", at=3000)
    assert not await sessions.add(_session(user), password_hash="hash", forget_before=0)


async def test_a_change_that_ends_sessions_ends_those_that_begin_at_the_same_time(
    database: Database, user: User
) -> None:
    users, sessions = UserStore(database), SessionStore(database)
    begun = [_session(user) for _ in range(10)]
    after = replace(user, password_hash="new", updated_at=2000)

    adding = asyncio.gather(*(sessions.add(it, password_hash="hash", forget_before=0) for it in begun))
    ended = await users.change(user, after, end_sessions=True)
    added = await adding

    assert set(ended) == {session.id for session, ok in zip(begun, added, strict=True) if ok}


async def test_a_refresh_token_is_good_once(database: Database, user: User) -> None:
    sessions, session = SessionStore(database), _session(user)
    await sessions.add(session, password_hash="hash", forget_before=0)

    async def rotate(old: str, new: str, *, now: int = 2000) -> str | None:
        return await sessions.rotate(session.id, old_hash=old, new_hash=new, now=now, expires_at=now + 8000)

    assert await rotate("first", "second") == user.id
    assert await rotate("first", "third") is None
    assert await rotate("second", "third", now=9999) == user.id
    assert await rotate("third", "fourth", now=17_999) is None


async def test_of_many_who_show_one_refresh_token_at_once_one_gets_the_next(database: Database, user: User) -> None:
    sessions, session = SessionStore(database), _session(user)
    await sessions.add(session, password_hash="hash", forget_before=0)

    answers = await asyncio.gather(
        *(sessions.rotate(session.id, old_hash="first", new_hash=str(n), now=2000, expires_at=9000) for n in range(10))
    )

    assert (answers.count(user.id), answers.count(None)) == (1, 9)


async def test_revoked_sessions_are_told_in_order_and_revoked_once(database: Database, user: User) -> None:
    sessions = SessionStore(database)
    one, two = _session(user), _session(user)
    for session in (one, two):
        await sessions.add(session, password_hash="hash", forget_before=0)

    assert await sessions.revoke(two.id, at=2000)
    assert await sessions.revoke(one.id, at=3000)
    assert not await sessions.revoke(one.id, at=4000)
    assert not await sessions.revoke(new_id(), at=4000)

    assert await sessions.revoked_since(0) == [(two.id, 2000), (one.id, 3000)]
    assert await sessions.revoked_since(3000) == [(one.id, 3000)]
    assert await sessions.rotate(one.id, old_hash="first", new_hash="x", now=2000, expires_at=9000) is None


async def test_sessions_that_ended_long_ago_are_removed_at_the_next_login(database: Database, user: User) -> None:
    sessions = SessionStore(database)
    ended, expired = _session(user), _session(user, expires_at=1500)
    for session in (ended, expired):
        await sessions.add(session, password_hash="hash", forget_before=0)
    await sessions.revoke(ended.id, at=1500)

    await sessions.add(_session(user), password_hash="hash", forget_before=2000)

    assert await sessions.revoked_since(0) == []
    assert not await sessions.revoke(expired.id, at=3000)
