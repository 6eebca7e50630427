"""store/api_keys.py on both databases: whose keys are whose, and when they end."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from aiwm.domain.api_keys import ApiKey
from aiwm.domain.ids import new_id
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Role, User, UserStatus
from aiwm.errors import Conflict
from aiwm.store.api_keys import ApiKeyStore
from aiwm.store.database import Database
from aiwm.store.deployments import DeploymentStore
from aiwm.store.models import ModelStore
from aiwm.store.sessions import SessionStore
from people import Iam, Town
from store_rows import deployment, model


def _key(**changes: object) -> ApiKey:
    fields = {
        "id": new_id(), "org_id": "red", "user_id": "mai", "name": "Batch", "digest": os.urandom(32), "masked": "…",
        "deployments": None, "expires_at": None, "last_used_at": None,
        "created_by": "mai", "updated_by": "mai", "created_at": 5, "updated_at": 5,
    }  # fmt: skip
    return ApiKey(**fields | changes)  # type: ignore[arg-type]


@pytest.fixture
def store(database: Database) -> ApiKeyStore:
    return ApiKeyStore(database)


async def _deployments(database: Database) -> tuple[str, str]:
    """One of red, one of blue."""
    made = []
    for org in ("red", "blue"):
        of = model(org_id=org)
        await ModelStore(database).add(of)
        made.append(deployment(of))
        await DeploymentStore(database).add(made[-1])
    return made[0].id, made[1].id


async def test_a_key_comes_back_as_it_was_written(database: Database, store: ApiKeyStore) -> None:
    red, _ = await _deployments(database)
    key = _key(deployments=(red,), expires_at=77)

    assert await store.add(key) == ()

    assert await store.get("red", key.id) == key
    assert await store.by_digest(key.digest) == key
    assert (await store.list("red", PageQuery())).items == [key]


async def test_a_key_of_another_organization_is_not_there(store: ApiKeyStore) -> None:
    key = _key()
    await store.add(key)

    assert await store.get("blue", key.id) is None
    assert (await store.list("blue", PageQuery())).total == 0


async def test_a_key_is_made_for_deployments_of_its_own_organization_only(
    database: Database, store: ApiKeyStore
) -> None:
    red, blue = await _deployments(database)

    assert await store.add(_key(deployments=(red, blue, "f" * 24))) == [blue, "f" * 24]

    assert (await store.list("red", PageQuery())).total == 0


async def test_a_revoked_key_is_gone_and_told_of_once(store: ApiKeyStore) -> None:
    key, other = _key(), _key()
    await store.add(key)
    await store.add(other)

    assert await store.revoke(key, by="mai", at=100)
    assert not await store.revoke(key, by="mai", at=200)

    assert await store.get("red", key.id) is None
    assert await store.by_digest(key.digest) is None
    assert await store.revoked_since(100) == [(key.id, 100)]
    assert await store.revoked_since(101) == []


async def test_the_last_use_is_the_latest_that_anybody_knows_of(store: ApiKeyStore) -> None:
    first, second = _key(), _key()
    await store.add(first)
    await store.add(second)

    await store.used({first.id: 50, second.id: 60, "f" * 24: 70})
    await store.used({first.id: 40})

    found = await store.list("red", PageQuery(sort="-lastUsedAt"))
    assert [(key.id, key.last_used_at) for key in found.items] == [(second.id, 60), (first.id, 50)]


async def test_keys_are_sorted_alike_on_both_databases_though_some_never_end(store: ApiKeyStore) -> None:
    endless, late, soon = _key(), _key(expires_at=900), _key(expires_at=100, last_used_at=5)
    for key in (endless, late, soon):
        await store.add(key)

    assert (await store.list("red", PageQuery(sort="expiresAt"))).items == [soon, late, endless]
    assert (await store.list("red", PageQuery(sort="-lastUsedAt"))).items[0] == soon


# --- keys end with whoever made them ---------------------------------------------------------------------------


@pytest.fixture
async def town(database: Database) -> Town:
    return await Town.build(Iam(database))


async def _owner_with_key(town: Town, store: ApiKeyStore) -> tuple[User, ApiKey]:
    user = await town.add("second", Role.OWNER)
    key = _key(org_id=town.red.id, user_id=user.id)
    assert await store.add(key) == ()
    return user, key


@pytest.mark.parametrize("end", ["deactivated", "deleted"])
async def test_who_is_deactivated_or_deleted_takes_along_the_keys_that_it_made(
    town: Town, store: ApiKeyStore, end: str
) -> None:
    user, key = await _owner_with_key(town, store)
    other = _key(org_id=town.red.id, user_id=town.red_owner.user_id)
    await store.add(other)

    if end == "deleted":
        await town.iam.users.delete(town.red_owner, user.id)
    else:
        await town.iam.users.change(town.red_owner, user.id, {"status": UserStatus.INACTIVE})

    assert await store.by_digest(key.digest) is None
    assert await store.by_digest(other.digest) == other
    assert [id_ for id_, _ in await store.revoked_since(0)] == [key.id]
    # In this process at once, without a look into the store.
    assert key.id in town.iam.revocations
    assert await store.add(_key(org_id=town.red.id, user_id=user.id)) is None


async def test_another_password_or_role_leaves_the_keys(town: Town, store: ApiKeyStore) -> None:
    user, key = await _owner_with_key(town, store)

    await town.iam.users.change(town.red_owner, user.id, {"password": "battery staple", "roles": [Role.VIEWER]})

    assert await store.by_digest(key.digest) == key


async def test_a_change_that_is_refused_leaves_the_keys(town: Town, store: ApiKeyStore) -> None:
    key = _key(org_id=town.blue.id, user_id=town.blue_owner.user_id)
    await store.add(key)

    with pytest.raises(Conflict, match="last active owner"):
        await town.iam.users.change(town.blue_owner, town.blue_owner.user_id, {"status": UserStatus.INACTIVE})

    assert await store.by_digest(key.digest) == key


async def test_keys_end_with_their_organization(town: Town, store: ApiKeyStore, database: Database) -> None:
    key = _key(org_id=town.red.id, user_id=town.admin.user_id)
    await store.add(key)

    await town.iam.organizations.delete(town.admin, town.red.id)

    assert await store.by_digest(key.digest) is None
    assert key.id in town.iam.revocations
    assert await SessionStore(database).revoked_since(0)


async def test_a_limited_key_sees_its_deployments_and_their_models_only(database: Database) -> None:
    deployments, models = DeploymentStore(database), ModelStore(database)
    own, other = model(), model()
    for each in (own, other):
        await models.add(each)
    mine, hidden = deployment(own), deployment(other)
    for each in (mine, hidden):
        await deployments.add(each)
    everything = _key().principal()
    limited = replace(everything, deployments=frozenset({mine.id}))

    assert (await deployments.list(everything, PageQuery())).total == 2
    assert [each.id for each in (await deployments.list(limited, PageQuery())).items] == [mine.id]
    assert await deployments.get(limited, hidden.id) is None
    assert [each.id for each in (await models.list(limited, PageQuery())).items] == [own.id]
    assert await models.get(limited, other.id) is None
