"""control/users.py: who may do what to whom, on both databases."""

from __future__ import annotations

import asyncio

import pytest

from aiwm.control.users import NewUser
from aiwm.domain.ids import new_id
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Principal, Role, UserStatus
from aiwm.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorized
from aiwm.store.database import Database
from people import PASSWORD, Iam, Town


@pytest.fixture
async def town(database: Database) -> Town:
    return await Town.build(Iam(database))


# --- the first start -------------------------------------------------------------------------------------------


async def test_the_first_start_makes_the_operator_and_later_ones_nothing(database: Database) -> None:
    iam = Iam(database)
    asked: list[str] = []

    def password() -> str:
        asked.append("asked")
        return "a random one"

    assert await iam.users.ensure_admin(password) == "a random one"
    assert await iam.users.ensure_admin(password) is None

    assert asked == ["asked"]
    admin = await iam.caller("admin", "a random one")
    assert admin.roles == (Role.UNIVERSE_OWNER,)
    organization = await iam.organizations.get(admin, admin.org_id)
    assert organization.name == "default"
    assert organization.created_by == admin.user_id


async def test_of_programs_that_start_at_once_one_makes_the_operator(database: Database) -> None:
    programs = [Iam(database) for _ in range(4)]

    answers = await asyncio.gather(*(iam.users.ensure_admin(lambda: PASSWORD) for iam in programs))

    assert sorted(answers, key=str) == [None, None, None, PASSWORD]
    admin = await programs[0].caller("admin")
    assert (await programs[0].organizations.list(admin, PageQuery())).total == 1


# --- who may grant what ----------------------------------------------------------------------------------------

GRANTS = [
    (Role.UNIVERSE_OWNER, Role.UNIVERSE_OWNER, True),
    (Role.UNIVERSE_OWNER, Role.OWNER, True),
    (Role.UNIVERSE_OWNER, Role.EDITOR, True),
    (Role.UNIVERSE_OWNER, Role.VIEWER, True),
    (Role.OWNER, Role.UNIVERSE_OWNER, False),
    (Role.OWNER, Role.OWNER, True),
    (Role.OWNER, Role.EDITOR, True),
    (Role.OWNER, Role.VIEWER, True),
    *((caller, granted, False) for caller in (Role.EDITOR, Role.VIEWER) for granted in Role),
]


@pytest.mark.parametrize(("caller", "granted", "allowed"), GRANTS)
async def test_nobody_grants_more_than_they_have(town: Town, caller: Role, granted: Role, allowed: bool) -> None:
    await town.add("caller", caller, by=town.admin, org=town.red)
    target = await town.add("target")
    principal = await town.iam.caller("caller")
    new = NewUser(username="new", password=PASSWORD, roles=[Role.VIEWER, granted])

    if allowed:
        assert (await town.iam.users.create(principal, new)).org_id == town.red.id
        changed = await town.iam.users.change(principal, target.id, {"roles": [granted]})
        assert changed.roles == (granted,)
    else:
        with pytest.raises(Forbidden):
            await town.iam.users.create(principal, new)
        with pytest.raises(Forbidden):
            await town.iam.users.change(principal, target.id, {"roles": [granted]})


async def test_an_owner_cannot_touch_an_operator_of_its_organization(town: Town) -> None:
    operator = await town.add("operator", Role.UNIVERSE_OWNER, by=town.admin, org=town.red)
    users = town.iam.users

    assert (await users.get(town.red_owner, operator.id)).username == "operator"
    for verb in (
        users.change(town.red_owner, operator.id, {"password": "mine now, all of it"}),
        users.change(town.red_owner, operator.id, {"roles": [Role.VIEWER]}),
        users.delete(town.red_owner, operator.id),
    ):
        with pytest.raises(Forbidden, match="has a role above yours"):
            await verb


@pytest.mark.parametrize("role", [Role.EDITOR, Role.VIEWER])
async def test_users_are_the_owners_business(town: Town, role: Role) -> None:
    user = await town.add("somebody", role)
    caller = await town.iam.caller("somebody")

    for verb in (
        town.iam.users.list(caller, PageQuery()),
        town.iam.users.get(caller, user.id),
        town.iam.users.change(caller, user.id, {"fullname": "Me"}),
        town.iam.users.delete(caller, user.id),
    ):
        with pytest.raises(Forbidden, match=r"needs the role organization\.owner"):
            await verb


# --- other organizations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["blue_owner", "admin"])
async def test_a_user_of_another_organization_is_not_found(town: Town, who: str) -> None:
    user = await town.add("mai")
    caller: Principal = getattr(town, who)
    users = town.iam.users

    for verb in (
        users.get(caller, user.id),
        users.change(caller, user.id, {"fullname": "Mine"}),
        users.delete(caller, user.id),
    ):
        with pytest.raises(NotFound, match=f"User with ID {user.id} not found"):
            await verb
    assert user not in (await users.list(caller, PageQuery())).items


async def test_the_operator_acts_in_another_organization_when_it_says_so(town: Town) -> None:
    user = await town.add("mai")
    there = town.admin.acting_in(town.red.id)

    changed = await town.iam.users.change(there, user.id, {"fullname": "Mai"})

    assert changed.updated_by == town.admin.user_id
    made = await town.iam.users.create(there, NewUser(username="new", password=PASSWORD, roles=[Role.VIEWER]))
    assert made.org_id == town.red.id


async def test_an_owner_names_no_organization_but_its_own(town: Town) -> None:
    assert (await town.add("mai", by=town.red_owner, org=town.red)).org_id == town.red.id

    with pytest.raises(Forbidden, match="another organization"):
        await town.add("spy", by=town.red_owner, org=town.blue)


async def test_an_organization_that_is_not_there_gets_no_users(town: Town) -> None:
    missing = new_id()

    with pytest.raises(Invalid, match=f"Organization with ID {missing} not found"):
        await town.iam.users.create(
            town.admin, NewUser(username="new", password=PASSWORD, roles=[Role.VIEWER], org_id=missing)
        )


# --- create, change, delete ------------------------------------------------------------------------------------


async def test_a_new_user_is_what_was_asked_for(town: Town) -> None:
    user = await town.add("Mai", Role.VIEWER, Role.OWNER, Role.VIEWER, fullname="Mai N.", status=UserStatus.INACTIVE)

    assert await town.iam.users.get(town.red_owner, user.id) == user
    assert user.roles == (Role.OWNER, Role.VIEWER)
    assert (user.created_by, user.created_at) == (town.red_owner.user_id, town.iam.clock())
    assert PASSWORD not in user.password_hash


async def test_everything_wrong_with_a_new_user_is_said_at_once(town: Town) -> None:
    with pytest.raises(Invalid) as caught:
        await town.iam.users.create(town.red_owner, NewUser(username="a b", password="short", roles=[]))

    assert caught.value.message == [
        "username: must not contain spaces or control characters",
        "password: must be 8 to 128 characters long",
        "roles: must name at least one role",
    ]


async def test_a_username_is_unique_in_the_whole_installation(town: Town) -> None:
    with pytest.raises(Conflict, match='Username "BLUE-owner" is already taken'):
        await town.add("BLUE-owner")


@pytest.mark.parametrize(
    ("given", "ends"),
    [
        ({"fullname": "Mai"}, False),
        ({"roles": [Role.VIEWER]}, False),
        ({"status": UserStatus.ACTIVE}, False),
        ({"roles": [Role.EDITOR]}, True),
        ({"status": UserStatus.INACTIVE}, True),
        ({"username": "other"}, True),
        ({"password": "battery staple"}, True),
    ],
)
async def test_what_a_token_says_wrongly_after_a_change_ends_it_at_once(
    town: Town, given: dict[str, object], ends: bool
) -> None:
    user = await town.add("mai", Role.VIEWER)
    login = await town.iam.login("mai")
    token = login.access_token.encode()
    await town.iam.verifier.verify(token)

    await town.iam.users.change(town.red_owner, user.id, given)

    assert (town.iam.verifier.known(token) is None) == ends
    if ends:
        with pytest.raises(Unauthorized):
            await town.iam.verifier.verify(token)
        with pytest.raises(Unauthorized):
            await town.iam.sessions.refresh(login.refresh_token)
    else:
        await town.iam.sessions.refresh(login.refresh_token)


async def test_another_password_lets_the_user_in_and_the_old_one_does_not(town: Town) -> None:
    user = await town.add("mai")

    await town.iam.users.change(town.red_owner, user.id, {"password": "battery staple"})

    await town.iam.login("mai", "battery staple")
    with pytest.raises(Unauthorized):
        await town.iam.login("mai", PASSWORD)


async def test_the_own_password_is_not_changed_without_the_old_one(town: Town) -> None:
    with pytest.raises(Invalid, match="POST /auth/change-password"):
        await town.iam.users.change(town.red_owner, town.red_owner.user_id, {"password": "battery staple"})


async def test_a_deleted_user_is_gone_and_its_name_is_free(town: Town) -> None:
    user = await town.add("mai")
    caller = await town.iam.caller("mai")
    town.iam.clock.pass_seconds(1)

    assert await town.iam.users.delete(town.red_owner, user.id) == town.iam.clock()

    assert caller.session in town.iam.revocations
    with pytest.raises(NotFound):
        await town.iam.users.get(town.red_owner, user.id)
    with pytest.raises(NotFound):
        await town.iam.users.delete(town.red_owner, user.id)
    assert (await town.add("mai")).id != user.id


@pytest.mark.parametrize("given", [{"roles": [Role.EDITOR]}, {"status": UserStatus.INACTIVE}, None])
async def test_the_last_owner_of_an_organization_stays_whoever_asks(
    town: Town, given: dict[str, object] | None
) -> None:
    users = town.iam.users
    owner = town.red_owner.user_id

    for caller in (town.red_owner, town.admin.acting_in(town.red.id)):
        with pytest.raises(Conflict, match="last active owner"):
            await (users.delete(caller, owner) if given is None else users.change(caller, owner, given))

    await town.iam.login("red-owner")


async def test_an_owner_can_leave_when_there_is_another(town: Town) -> None:
    await town.add("second", Role.OWNER)

    await town.iam.users.change(town.red_owner, town.red_owner.user_id, {"roles": [Role.VIEWER]})

    assert town.red_owner.session in town.iam.revocations


async def test_the_last_operator_stays(town: Town) -> None:
    await town.add("another-owner", Role.OWNER, by=town.admin)
    with pytest.raises(Conflict, match="last active owner of the installation"):
        await town.iam.users.change(town.admin, town.admin.user_id, {"roles": [Role.OWNER]})
