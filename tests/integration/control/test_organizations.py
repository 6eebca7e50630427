"""control/organizations.py: who sees, makes, changes and deletes them, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from aiwm.domain.ids import new_id
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Role
from aiwm.errors import Conflict, Forbidden, NotFound, Unauthorized
from aiwm.store.database import Database
from aiwm.store.tables import models
from people import Iam, Town


@pytest.fixture
async def town(database: Database) -> Town:
    return await Town.build(Iam(database))


async def test_only_the_operator_makes_organizations(town: Town) -> None:
    with pytest.raises(Forbidden, match=r"needs the role universe\.owner"):
        await town.iam.organizations.create(town.red_owner, name="Green", description="")


async def test_everybody_sees_the_own_one_and_the_operator_all(town: Town) -> None:
    await town.add("viewer", Role.VIEWER)
    viewer = await town.iam.caller("viewer")
    organizations = town.iam.organizations

    assert (await organizations.get(viewer, town.red.id)).name == "Red"
    assert (await organizations.list(viewer, PageQuery())).items == [town.red]
    with pytest.raises(NotFound, match=f"Organization with ID {town.blue.id} not found"):
        await organizations.get(viewer, town.blue.id)
    assert (await organizations.list(town.admin, PageQuery())).total == 3
    assert (await organizations.get(town.admin, town.blue.id)).name == "Blue"


async def test_an_owner_changes_its_own_one(town: Town) -> None:
    await town.add("editor", Role.EDITOR)
    organizations = town.iam.organizations

    changed = await organizations.change(town.red_owner, town.red.id, {"name": "Crimson"})

    assert (changed.name, changed.description) == ("Crimson", "The red one")
    assert await organizations.get(town.red_owner, town.red.id) == changed
    with pytest.raises(NotFound):
        await organizations.change(town.red_owner, town.blue.id, {"name": "Mine"})
    with pytest.raises(Forbidden):
        await organizations.change(await town.iam.caller("editor"), town.red.id, {"name": "Mine"})


async def test_an_organization_is_deleted_when_only_its_last_user_is_left(town: Town) -> None:
    user = await town.add("mai")
    organizations = town.iam.organizations

    with pytest.raises(Conflict, match=r'Cannot delete organization "Red"\. It still has 2 users\. Delete them first'):
        await organizations.delete(town.admin, town.red.id)
    await town.iam.users.delete(town.red_owner, user.id)
    await organizations.delete(town.admin, town.red.id)

    with pytest.raises(NotFound):
        await organizations.get(town.admin, town.red.id)
    assert town.red_owner.session in town.iam.revocations
    with pytest.raises(Unauthorized):
        await town.iam.login("red-owner")


async def test_an_organization_with_a_model_stays(town: Town, database: Database) -> None:
    row = {
        "id": new_id(), "org_id": town.red.id, "user_id": "x", "name": "m", "type": "llm", "description": "",
        "deployment_type": "api-based", "scope": "org", "status": "active",
        "created_by": "x", "updated_by": "x", "created_at": 1, "updated_at": 1,
    }  # fmt: skip
    async with database.writing() as connection:
        await connection.execute(insert(models).values(row))

    with pytest.raises(Conflict, match="It still has 1 model"):
        await town.iam.organizations.delete(town.admin, town.red.id)


async def test_nobody_else_deletes_an_organization_and_nobody_the_own_one(town: Town) -> None:
    with pytest.raises(Forbidden):
        await town.iam.organizations.delete(town.red_owner, town.red.id)
    with pytest.raises(Conflict, match="You belong to it yourself"):
        await town.iam.organizations.delete(town.admin, town.admin.org_id)
    with pytest.raises(NotFound):
        await town.iam.organizations.delete(town.admin, new_id())
