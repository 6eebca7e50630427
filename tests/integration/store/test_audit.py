"""store/audit.py on both databases: an entry is there exactly when its change is, and for whom it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aiwm.control.api_keys import ApiKeys, NewApiKey
from aiwm.domain.audit import AuditEntry, EncryptionKey, entry, operator
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Principal, Role, UserStatus
from aiwm.errors import Conflict
from aiwm.store.api_keys import ApiKeyStore
from aiwm.store.audit import AuditStore
from aiwm.store.database import Database
from aiwm.store.models import ModelStore
from people import PASSWORD, Iam, Town
from store_rows import model, principal

OWNER = principal("mai", "red", Role.OWNER)


async def _entries(database: Database, who: Principal = OWNER, **equals: str) -> list[AuditEntry]:
    """Newest first."""
    return list((await AuditStore(database).list(who, PageQuery(limit=100, equals=equals))).items)


async def test_an_entry_comes_back_as_it_was_written(database: Database) -> None:
    thing = model(name="ünïcode \u2028")
    told = replace(entry(OWNER, "create", after=thing, at=5), correlation_id="c-1")

    await ModelStore(database).add(thing, entry=told)

    assert await _entries(database) == [told]


async def test_a_change_that_is_lost_leaves_no_entry(database: Database) -> None:
    store, thing = ModelStore(database), model()
    await store.add(thing)
    first, second = (replace(thing, name=name, updated_at=thing.updated_at + 1) for name in ("one", "two"))
    for after in (first, second):
        await store.change(thing, after, entry=entry(OWNER, "change", before=thing, after=after, at=1))

    assert [each.after for each in await _entries(database)] == [{"name": "one"}]


async def test_what_the_operator_did_to_the_installation_is_for_every_operator_and_nobody_else(
    database: Database,
) -> None:
    key = EncryptionKey(id="e" * 24, secrets=5, lost=0)
    told = entry(operator(), "rotate", after=key, at=5)

    await AuditStore(database).add(told)

    for where in ("home", "red"):
        assert await _entries(database, principal("op", where, Role.UNIVERSE_OWNER)) == [told]
        assert await _entries(database, principal("op", "home", Role.UNIVERSE_OWNER).acting_in(where)) == [told]
    assert (told.action, told.username, told.after) == (
        "encryptionKey.rotate",
        "operator",
        {"name": "encryption key", "secrets": 5, "lost": 0},
    )
    assert await _entries(database, OWNER) == []


async def test_the_first_admin_was_made_by_the_operator(database: Database) -> None:
    iam = Iam(database)
    await iam.users.ensure_admin(lambda: PASSWORD)

    told = await _entries(database, await iam.caller("admin"))

    assert {(each.action, each.object_name, each.username) for each in told} == {
        ("organization.create", "default", "operator"),
        ("user.create", "admin", "operator"),
    }
    assert PASSWORD not in str(told)


async def test_entries_are_for_the_organization_that_was_changed(database: Database) -> None:
    operator = principal("op", "home", Role.UNIVERSE_OWNER)
    thing = model()
    await ModelStore(database).add(thing, entry=entry(operator.acting_in("red"), "create", after=thing, at=1))

    assert len(await _entries(database, OWNER)) == 1
    assert len(await _entries(database, operator)) == 1
    assert len(await _entries(database, operator.acting_in("red"))) == 1
    assert await _entries(database, principal("kim", "home", Role.OWNER)) == []
    assert await _entries(database, principal("kim", "blue", Role.OWNER)) == []
    assert await _entries(database, operator.acting_in("blue")) == []


@pytest.fixture
async def town(database: Database) -> Town:
    return await Town.build(Iam(database))


def _keys(town: Town, database: Database) -> ApiKeys:
    return ApiKeys(store=ApiKeyStore(database), revocations=town.iam.revocations, uses=dict, clock=town.iam.clock)


async def test_every_change_of_people_is_told(town: Town, database: Database) -> None:
    owner, iam = town.red_owner, town.iam
    user = await town.add("kim", Role.EDITOR)
    await iam.users.change(owner, user.id, {"fullname": "Kim", "password": "battery staple"})
    await iam.organizations.change(owner, town.red.id, {"name": "Crimson"})
    key, secret = await _keys(town, database).create(owner, NewApiKey(name="Batch"))
    await _keys(town, database).revoke(owner, key.id)
    caller = await iam.caller("kim", "battery staple")
    await iam.sessions.change_password(caller, "battery staple", PASSWORD, address="")
    await iam.users.delete(owner, user.id)

    told = await _entries(database, owner)

    assert {each.action for each in told} == {
        "organization.create", "user.create", "user.change", "organization.change", "apiKey.create", "apiKey.revoke",
        "user.change-password", "user.delete",
    }  # fmt: skip
    assert len(told) == 9
    [changed] = await _entries(database, owner, action="user.change")
    assert changed.before == {"fullname": "", "password": "…"}
    assert changed.after == {"fullname": "Kim", "password": "…"}
    [renamed] = await _entries(database, owner, objectId=town.red.id, action="organization.change")
    assert (renamed.before, renamed.after) == ({"name": "Red"}, {"name": "Crimson"})
    [own] = await _entries(database, owner, userId=user.id)
    assert (own.username, own.after) == ("kim", {"password": "…"})
    for each in told:
        assert not [word for word in (secret, "battery", PASSWORD, "argon2") if word in str(each)]


async def test_keys_that_end_with_their_maker_are_told_too(town: Town, database: Database) -> None:
    second = await town.add("second", Role.OWNER)
    caller = await town.iam.caller("second")
    key, _ = await _keys(town, database).create(caller, NewApiKey(name="Batch"))

    await town.iam.users.change(town.red_owner, second.id, {"status": UserStatus.INACTIVE})

    [revoked] = await _entries(database, town.red_owner, action="apiKey.revoke")
    assert (revoked.object_id, revoked.object_name, revoked.username) == (key.id, "Batch", "red-owner")


async def test_what_ends_with_an_organization_is_told_too(town: Town, database: Database) -> None:
    await _keys(town, database).create(town.red_owner, NewApiKey(name="Batch"))

    await town.iam.organizations.delete(town.admin, town.red.id)

    told = await _entries(database, town.admin.acting_in(town.red.id))
    assert {"organization.delete", "user.delete", "apiKey.revoke"} <= {each.action for each in told}


async def test_what_was_refused_is_not_told(town: Town, database: Database) -> None:
    before = len(await _entries(database, town.red_owner))

    with pytest.raises(Conflict):
        await town.iam.users.delete(town.red_owner, town.red_owner.user_id)
    with pytest.raises(Conflict):
        await town.add("red-owner")

    assert len(await _entries(database, town.red_owner)) == before
