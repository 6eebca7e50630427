"""store/models.py: who sees which model, what a list finds, and who wins when two change one model."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

import store_rows as rows
from aiwm.domain.deployments import DeploymentStatus
from aiwm.domain.models import FETCHING, DeploymentType, Download, Model, ModelStatus, ModelType, Scope, Sealed
from aiwm.domain.pages import PageQuery
from aiwm.domain.prices import OwnPrices, PriceEntry
from aiwm.domain.sources import Place
from aiwm.domain.users import Role
from aiwm.store.database import Database
from aiwm.store.deployments import DeploymentStore
from aiwm.store.models import ModelStore

MAI = rows.principal("mai", "red")


@pytest.fixture
def store(database: Database) -> ModelStore:
    return ModelStore(database)


async def _add(store: ModelStore, *models: Model) -> None:
    for model in models:
        await store.add(model)


PRICES = (
    PriceEntry(0, (("input", Decimal("0.25")), ("output", Decimal("0.000000001")))),
    PriceEntry(1_767_225_600_000, (("perRequest", Decimal(0)),)),
)


async def test_a_model_comes_back_as_it_was_written(store: ModelStore) -> None:
    api_based = rows.model(
        prices=PRICES, description="100% ünïcode\n“quoted” 'text'", api_config={"apiKey": Sealed("t", "m…k"), "x": ""}
    )
    self_hosted = rows.model(
        deployment_type=DeploymentType.SELF_HOSTED,
        status=ModelStatus.QUEUED,
        provider=None,
        api_endpoint=None,
        model_identifier=None,
        api_config=None,
        repository="meta-llama/Llama",
        framework="vllm",
        file_name="model.safetensors",
        file_size=1 << 62,
        download_path="/models/llama",
        download=Download(bytes_done=1, bytes_total=1 << 62, file="ünïcode"),
        error_message="the disk is full\n",
    )
    await _add(store, api_based, self_hosted)

    assert await store.get(MAI, api_based.id) == api_based
    assert await store.get(MAI, self_hosted.id) == self_hosted
    assert await store.by_id(self_hosted.id) == self_hosted
    assert {model.id for model in await store.all()} == {api_based.id, self_hosted.id}


# --- who sees it ---------------------------------------------------------------------------------------------


SEEN = [
    ("mai", "red", Role.EDITOR, {"public", "org", "private"}),
    ("ben", "red", Role.EDITOR, {"public", "org"}),
    ("ben", "red", Role.OWNER, {"public", "org"}),
    ("ben", "red", Role.UNIVERSE_OWNER, {"public", "org", "private"}),
    ("eve", "blue", Role.EDITOR, {"public"}),
    ("eve", "blue", Role.OWNER, {"public"}),
    ("eve", "blue", Role.UNIVERSE_OWNER, {"public"}),
    # The same user id in another organization is another user.
    ("mai", "blue", Role.EDITOR, {"public"}),
]


async def test_who_sees_which_model(store: ModelStore) -> None:
    models = {scope.value: rows.model(scope=scope, name=scope.value) for scope in Scope}
    await _add(store, *models.values())

    for user, org, role, seen in SEEN:
        caller = rows.principal(user, org, role)
        found = await store.list(caller, PageQuery())
        assert {model.name for model in found.items} == seen, (user, org, role)
        assert found.total == len(seen)
        assert {name for name, model in models.items() if await store.get(caller, model.id)} == seen


async def test_a_deleted_model_is_seen_by_nobody(store: ModelStore) -> None:
    model = rows.model(scope=Scope.PUBLIC)
    await _add(store, model)
    await store.retire(model, replace(model, updated_at=model.updated_at + 1), deleted_at=model.updated_at + 1)

    assert await store.get(MAI, model.id) is None
    assert await store.by_id(model.id) is None
    assert (await store.list(MAI, PageQuery())).total == 0
    assert await store.all() == []


# --- lists ---------------------------------------------------------------------------------------------------


async def test_a_list_is_filtered_by_each_of_its_fields(store: ModelStore) -> None:
    await _add(
        store,
        rows.model(name="a", type=ModelType.LLM, provider="openai", scope=Scope.PUBLIC),
        rows.model(name="b", type=ModelType.VOICE, provider="google", status=ModelStatus.INACTIVE),
        rows.model(name="c", type=ModelType.LLM, provider=None, deployment_type=DeploymentType.SELF_HOSTED),
    )

    async def names(**equals: str) -> str:
        return "".join(model.name for model in (await store.list(MAI, PageQuery(equals=equals, sort="name"))).items)

    assert await names() == "abc"
    assert await names(type="llm") == "ac"
    assert await names(provider="google") == "b"
    assert await names(status="inactive") == "b"
    assert await names(deploymentType="self-hosted") == "c"
    assert await names(scope="public") == "a"
    assert await names(type="llm", provider="openai") == "a"
    assert await names(type="LLM") == ""
    assert await names(status="' OR 1=1 --") == ""


async def test_statistics_count_all_that_matches_not_the_page(store: ModelStore) -> None:
    await _add(
        store,
        *(rows.model(name=f"gpt {n}") for n in range(3)),
        rows.model(name="gpt voice", type=ModelType.VOICE, status=ModelStatus.INACTIVE),
        rows.model(name="other"),
        rows.model(name="gpt of others", org_id="blue"),
    )

    page = await store.list(MAI, PageQuery(search="gpt", limit=1))

    assert (len(page.items), page.total) == (1, 4)
    assert page.counts == {"status": {"active": 3, "inactive": 1}, "type": {"llm": 3, "voice": 1}}


# --- two who change one model --------------------------------------------------------------------------------


async def test_of_two_changes_made_from_the_same_reading_one_wins(store: ModelStore) -> None:
    model = rows.model()
    await _add(store, model)
    changes = [replace(model, name=f"by {n}", updated_at=model.updated_at + 1) for n in range(8)]

    won = await asyncio.gather(*(store.change(model, after) for after in changes))

    assert won.count(True) == 1
    assert await store.get(MAI, model.id) == changes[won.index(True)]


async def test_a_change_of_a_deleted_model_does_not_bring_it_back(store: ModelStore) -> None:
    model = rows.model()
    await _add(store, model)
    assert await store.retire(model, model, deleted_at=5) == ((), True)

    assert not await store.change(model, replace(model, name="back"))
    assert await store.by_id(model.id) is None


async def test_a_model_is_retired_once(store: ModelStore) -> None:
    model = rows.model()
    await _add(store, model)
    after = replace(model, status=ModelStatus.INACTIVE, updated_at=model.updated_at + 1)

    answers = await asyncio.gather(*(store.retire(model, after) for _ in range(6)))

    assert sorted(changed for _, changed in answers) == [False] * 5 + [True]


async def test_what_stands_in_the_way_is_told_with_its_organization(store: ModelStore, database: Database) -> None:
    deployments = DeploymentStore(database)
    for status in DeploymentStatus:
        model = rows.model(scope=Scope.PUBLIC)
        await _add(store, model)
        first = rows.deployment(model, name="first", status=status)
        second = rows.deployment(model, name="second", org_id="blue", status=status)
        for deployment in (first, second):
            await deployments.add(deployment)

        in_the_way, changed = await store.retire(model, replace(model, status=ModelStatus.INACTIVE))

        if status in {"queued", "deploying", "running", "stopping"}:
            assert [tuple(each) for each in in_the_way] == [(first.id, "first", "red"), (second.id, "second", "blue")]
            assert not changed
            assert await store.by_id(model.id) == model
        else:
            assert (list(in_the_way), changed) == ([], True)


async def test_a_deleted_deployment_does_not_stand_in_the_way(store: ModelStore, database: Database) -> None:
    deployments = DeploymentStore(database)
    model = rows.model()
    await _add(store, model)
    deployment = rows.deployment(model)
    await deployments.add(deployment)
    await deployments.change(deployment, deployment, deleted_at=5)

    assert (await store.retire(model, model, deleted_at=5))[1]


@pytest.mark.parametrize("how", ["deactivate", "delete"])
async def test_a_model_is_never_retired_while_a_deployment_begins_to_run(database: Database, how: str) -> None:
    """Many try to deploy and to start while others retire: whoever wins, what runs has an active model."""
    models, deployments = ModelStore(database), DeploymentStore(database)
    for _ in range(6):
        model = rows.model()
        await models.add(model)
        resting = rows.deployment(model)
        await deployments.add(resting)
        stopped = replace(resting, status=DeploymentStatus.STOPPED, updated_at=resting.updated_at + 1)
        await deployments.change(resting, stopped)
        retired = replace(model, status=ModelStatus.INACTIVE, updated_at=model.updated_at + 1)
        if how == "delete":
            retired = replace(model, updated_at=model.updated_at + 1)
        started = replace(stopped, status=DeploymentStatus.RUNNING, updated_at=stopped.updated_at + 1)

        await asyncio.gather(
            deployments.add(rows.deployment(model)),
            deployments.start(stopped, started),
            models.retire(model, retired, deleted_at=retired.updated_at if how == "delete" else None),
            deployments.add(rows.deployment(model)),
            models.retire(model, retired, deleted_at=retired.updated_at if how == "delete" else None),
            deployments.add(rows.deployment(model)),
        )

    async with database.reading() as connection:
        found = await connection.execute(
            text(
                "SELECT models.status, models.deleted_at FROM deployments JOIN models ON models.id = model_id "
                "WHERE deployments.status = 'running'"
            )
        )
        assert {tuple(row) for row in found} <= {("active", None)}


# --- downloads -----------------------------------------------------------------------------------------------


def _hosted(**changes: Any) -> Model:
    of_a_provider = ("provider", "api_endpoint", "model_identifier", "api_config")
    fields = {"status": ModelStatus.QUEUED, "repository": "org/name", "framework": "vllm"}
    return rows.model(deployment_type=DeploymentType.SELF_HOSTED, **dict.fromkeys(of_a_provider), **fields | changes)


HALF = Download(bytes_done=5, bytes_total=10, file="a")


async def test_progress_is_written_for_all_that_wait_for_the_same_files_and_for_no_other(store: ModelStore) -> None:
    waiting = [_hosted(), _hosted(org_id="blue", status=ModelStatus.DOWNLOADING), _hosted(framework="sglang")]
    others = [
        _hosted(file_name="a.gguf"),
        _hosted(repository="org/other"),
        _hosted(download_path="/models"),
        _hosted(status=ModelStatus.ACTIVE),
        _hosted(status=ModelStatus.DOWNLOAD_FAILED),
        _hosted(status=ModelStatus.INACTIVE),
    ]
    await _add(store, *waiting, *others)

    assert await store.progress(Place("org/name"), ModelStatus.DOWNLOADING, HALF)

    for model in waiting:
        expected = replace(model, status=ModelStatus.DOWNLOADING, download=HALF)
        assert await store.by_id(model.id) == expected
    for model in others:
        assert await store.by_id(model.id) == model


async def test_that_nobody_waits_any_more_is_said(store: ModelStore) -> None:
    model = _hosted()
    await _add(store, model)
    place = model.place
    assert await store.progress(place, ModelStatus.QUEUED, None)
    await store.retire(model, model, deleted_at=5)
    assert not await store.progress(place, ModelStatus.QUEUED, None)
    assert not await store.progress(Place("org/never"), ModelStatus.QUEUED, None)
    assert await store.arrived(place, "/x", 5, at=5) == []
    assert await store.failed(place, ModelStatus.ERROR, "reason", at=5) == []


async def test_files_that_arrived_make_models_active_and_those_that_failed_say_why(store: ModelStore) -> None:
    here, there = _hosted(file_name="a.gguf"), _hosted(repository="org/other", updated_at=10_000_000_000_000)
    await _add(store, here, there)

    assert await store.arrived(here.place, "/models/a.gguf", 7, at=here.updated_at + 9) == [here.id]
    assert await store.failed(there.place, ModelStatus.DOWNLOAD_FAILED, "no access", at=5) == [there.id]

    assert await store.by_id(here.id) == replace(
        here, status=ModelStatus.ACTIVE, download_path="/models/a.gguf", file_size=7, updated_at=here.updated_at + 9
    )
    # Later than before even when the clock is behind: it is what tells two changes apart.
    assert await store.by_id(there.id) == replace(
        there, status=ModelStatus.DOWNLOAD_FAILED, error_message="no access", updated_at=there.updated_at + 1
    )
    assert not await store.change(here, replace(here, name="of an older reading"))


async def test_which_files_are_waited_for_is_known_after_a_restart(store: ModelStore) -> None:
    await _add(store, rows.model(), *(_hosted(repository=f"org/{status}", status=status) for status in ModelStatus))
    await _add(store, _hosted(repository="org/queued"), _hosted(repository="org/queued", file_name="a.gguf"))
    gone = _hosted(repository="org/gone")
    await _add(store, gone)
    await store.retire(gone, gone, deleted_at=5)

    waited_for = list(await store.waited_for())

    assert set(waited_for) == {*(Place(f"org/{status}") for status in FETCHING), Place("org/queued", "a.gguf")}
    assert len(waited_for) == len(FETCHING) + 1


async def test_prices_are_given_by_model_even_of_deleted_ones(store: ModelStore) -> None:
    priced = rows.model(prices=PRICES)
    free, gone = rows.model(), rows.model(prices=PRICES[:1], model_identifier=None)
    await _add(store, priced, free, gone)
    await store.retire(gone, gone, deleted_at=5)
    found = await store.prices_of([priced.id, free.id, gone.id, "f" * 24])
    assert found == {priced.id: OwnPrices("gpt-4", PRICES), gone.id: OwnPrices(None, PRICES[:1])}
    assert await store.prices_of([]) == {}
