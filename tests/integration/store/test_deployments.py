"""store/deployments.py: an organization's own, with what they were used; added and started only on an active model."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

import store_rows as rows
from aiwm.domain.deployments import Deployment, DeploymentStatus, OnDisconnect, StreamUsage, Totals
from aiwm.domain.models import DeploymentType, Model, ModelStatus, ModelType, Scope
from aiwm.domain.pages import PageQuery
from aiwm.domain.usage import Usage
from aiwm.domain.users import Role
from aiwm.store.database import Database
from aiwm.store.deployments import DeploymentStore
from aiwm.store.ledger import LedgerStore
from aiwm.store.models import ModelStore

MAI = rows.principal("mai", "red")


@pytest.fixture
def store(database: Database) -> DeploymentStore:
    return DeploymentStore(database)


@pytest.fixture
async def model(database: Database) -> Model:
    model = rows.model(scope=Scope.PUBLIC)
    await ModelStore(database).add(model)
    return model


async def _add(store: DeploymentStore, *deployments: Deployment) -> None:
    for deployment in deployments:
        assert await store.add(deployment) is ModelStatus.ACTIVE


async def test_a_deployment_comes_back_as_it_was_written(store: DeploymentStore, model: Model) -> None:
    plain = rows.deployment(model)
    full = rows.deployment(
        model,
        description="ünï\ncode",
        node_id="b" * 24,
        resource_id="c" * 24,
        allowed_models=("gpt-4", "o'neil %_"),
        stream_usage=StreamUsage.OFF,
        on_disconnect=OnDisconnect.DRAIN,
        status=DeploymentStatus.ERROR,
        error_message="it broke",
    )
    await _add(store, plain, full)

    assert await store.get(MAI, plain.id) == plain
    assert await store.get(MAI, full.id) == full
    assert await store.by_id(full.id) == full
    assert {each.id for each in await store.all()} == {plain.id, full.id}
    assert {each.id for each in await store.of_model(model.id)} == {plain.id, full.id}
    assert await store.of_model("f" * 24) == []


async def test_no_role_sees_a_deployment_of_another_organization(store: DeploymentStore, model: Model) -> None:
    deployment = rows.deployment(model)
    await _add(store, deployment)

    for role in Role:
        eve = rows.principal("eve", "blue", role)
        assert await store.get(eve, deployment.id) is None
        assert (await store.list(eve, PageQuery())).total == 0
        assert (await store.list(eve, PageQuery())).counts == {"status": {}, "type": {}}
        assert await store.get(rows.principal("any", "red", role), deployment.id) == deployment


async def test_a_deleted_deployment_is_gone_for_every_question(store: DeploymentStore, model: Model) -> None:
    deployment = rows.deployment(model)
    await _add(store, deployment)
    assert await store.change(deployment, deployment, deleted_at=5)

    assert await store.get(MAI, deployment.id) is None
    assert await store.by_id(deployment.id) is None
    assert (await store.list(MAI, PageQuery())).total == 0
    assert await store.all() == []
    assert await store.of_model(model.id) == []
    assert not await store.change(deployment, deployment)
    assert await store.start(deployment, deployment) is False


async def test_a_model_that_is_not_active_gets_no_deployment(store: DeploymentStore, database: Database) -> None:
    for status in set(ModelStatus) - {ModelStatus.ACTIVE}:
        model = rows.model(status=status)
        await ModelStore(database).add(model)
        assert await store.add(rows.deployment(model)) is status
    assert (await store.list(MAI, PageQuery())).total == 0


async def test_a_model_that_is_gone_gets_no_deployment(store: DeploymentStore, database: Database) -> None:
    model = rows.model()
    assert await store.add(rows.deployment(model)) is None
    await ModelStore(database).add(model)
    await ModelStore(database).retire(model, model, deleted_at=5)
    assert await store.add(rows.deployment(model)) is None


async def test_a_deployment_does_not_start_without_an_active_model(
    store: DeploymentStore, database: Database, model: Model
) -> None:
    models = ModelStore(database)
    stopped = rows.deployment(model, status=DeploymentStatus.STOPPED)
    await _add(store, stopped)
    started = replace(stopped, status=DeploymentStatus.RUNNING, updated_at=stopped.updated_at + 1)
    inactive = replace(model, status=ModelStatus.INACTIVE, updated_at=model.updated_at + 1)
    await models.retire(model, inactive)

    assert await store.start(stopped, started) is ModelStatus.INACTIVE
    assert await store.get(MAI, stopped.id) == stopped
    await models.retire(inactive, inactive, deleted_at=5)
    assert await store.start(stopped, started) is None
    assert await store.get(MAI, stopped.id) == stopped


async def test_of_many_who_start_or_stop_at_once_one_wins(store: DeploymentStore, model: Model) -> None:
    deployment = rows.deployment(model, status=DeploymentStatus.STOPPED)
    await _add(store, deployment)
    after = replace(deployment, updated_at=deployment.updated_at + 1)

    won = await asyncio.gather(
        *(store.start(deployment, replace(after, status=DeploymentStatus.RUNNING, name=f"{n}")) for n in range(5)),
        *(store.change(deployment, replace(after, name=f"{n}")) for n in range(5, 10)),
    )

    assert won.count(True) == 1
    assert set(won) == {True, False}
    changed = await store.get(MAI, deployment.id)
    assert changed is not None
    assert changed.name == str(won.index(True))


# --- lists ---------------------------------------------------------------------------------------------------


async def test_a_list_is_filtered_by_its_own_fields_and_by_those_of_its_model(
    store: DeploymentStore, database: Database, model: Model
) -> None:
    voice = rows.model(type=ModelType.VOICE, provider="google")
    ours = rows.model(deployment_type=DeploymentType.SELF_HOSTED, provider=None)
    for each in (voice, ours):
        await ModelStore(database).add(each)
    await _add(
        store,
        rows.deployment(model, name="a"),
        rows.deployment(voice, name="b", status=DeploymentStatus.STOPPED),
        rows.deployment(ours, name="c", status=DeploymentStatus.QUEUED),
    )

    async def names(**equals: str) -> str:
        page = await store.list(MAI, PageQuery(equals=equals, sort="name"))
        return "".join(each.name for each in page.items)

    assert await names() == "abc"
    assert await names(status="stopped") == "b"
    assert await names(type="llm") == "ac"
    assert await names(provider="openai") == "a"
    assert await names(deploymentType="self-hosted") == "c"
    assert await names(modelId=voice.id) == "b"
    page = await store.list(MAI, PageQuery(limit=1))
    assert page.total == 3
    assert page.counts == {
        "status": {"running": 1, "stopped": 1, "queued": 1},
        "type": {"llm": 2, "voice": 1},
    }


async def test_a_deployment_is_read_with_what_it_was_used_and_sorted_by_it(
    store: DeploymentStore, database: Database, model: Model
) -> None:
    idle, busy, large = (rows.deployment(model, name=name) for name in ("idle", "busy", "large"))
    await _add(store, idle, busy, large)
    ledger = LedgerStore(database)
    await ledger.add([rows.usage_row(busy.id) for _ in range(3)])
    await ledger.add([rows.usage_row(large.id, usage=Usage(input_tokens=1000))])

    async def names(sort: str) -> list[str]:
        return [each.name for each in (await store.list(MAI, PageQuery(sort=sort))).items]

    assert await names("-requestCount") == ["busy", "large", "idle"]
    assert await names("totalTokens") == ["idle", "busy", "large"]
    found = await store.get(MAI, busy.id)
    assert found is not None
    assert (found.totals.requests, found.totals.tokens) == (3, 30)
    untouched = await store.get(MAI, idle.id)
    assert untouched is not None
    assert untouched.totals == Totals()
