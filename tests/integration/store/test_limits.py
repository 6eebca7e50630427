"""store/limits.py on both databases: limits as they were written, and what was spent under them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aiwm.domain.ids import new_id
from aiwm.domain.limits import Budget, Limit, Per, Subject, SubjectType
from aiwm.domain.pages import PageQuery
from aiwm.store.database import Database
from aiwm.store.deployments import DeploymentStore
from aiwm.store.ledger import LedgerStore
from aiwm.store.limits import LimitStore
from aiwm.store.models import ModelStore
from store_rows import deployment, model, usage_row

DAY = 86_400_000
TODAY = 20_000 * DAY


def limit(**changes: Any) -> Limit:
    fields = {
        "id": new_id(), "org_id": "red", "subject": Subject(SubjectType.USER, "mai"), "requests_per_minute": 5,
        "created_by": "mai", "updated_by": "mai", "created_at": 5, "updated_at": 5,
    }  # fmt: skip
    return Limit(**fields | changes)


@pytest.fixture
def store(database: Database) -> LimitStore:
    return LimitStore(database)


async def test_a_limit_comes_back_as_it_was_written(store: LimitStore) -> None:
    whole = limit(tokens_per_minute=10**9, concurrent_requests=3, budget=Budget(10**18, Per.MONTH))
    few = limit(requests_per_minute=None, budget=Budget(1, Per.DAY))
    for each in (whole, few):
        assert await store.add(each)
        assert await store.get("red", each.id) == each
    assert {each.id for each in await store.all()} == {whole.id, few.id}


async def test_another_organizations_limit_is_not_there(store: LimitStore) -> None:
    await store.add(own := limit())
    assert await store.get("blue", own.id) is None
    assert (await store.list("blue", PageQuery())).items == []
    assert (await store.list("red", PageQuery())).items == [own]


async def test_a_subject_must_be_there_and_of_the_organization(database: Database, store: LimitStore) -> None:
    await ModelStore(database).add(of := model(org_id="red"))
    await DeploymentStore(database).add(deployed := deployment(of))
    subject = Subject(SubjectType.DEPLOYMENT, deployed.id)
    assert await store.add(limit(subject=subject))
    assert not await store.add(limit(subject=subject, org_id="blue"))
    assert not await store.add(limit(subject=Subject(SubjectType.API_KEY, deployed.id)))
    assert len(await store.all()) == 1


async def test_of_two_changes_one_wins_and_a_deleted_limit_is_gone(store: LimitStore) -> None:
    await store.add(before := limit())
    after = replace(before, requests_per_minute=None, concurrent_requests=2, updated_at=6)
    assert await store.change(before, after)
    assert not await store.change(before, replace(before, updated_at=7))
    assert await store.get("red", before.id) == after
    assert await store.change(after, replace(after, updated_at=8), deleted_at=8)
    assert await store.get("red", before.id) is None
    assert await store.all() == []


async def test_spent_is_what_the_ledger_has_of_the_subject_since_then(database: Database, store: LimitStore) -> None:
    here, there = new_id(), new_id()
    key = new_id()
    rows = [
        usage_row(here, started_at=TODAY + 5, cost=1, api_key_id=key),
        usage_row(here, started_at=TODAY + DAY - 1, cost=20, user_id="lan"),
        usage_row(there, started_at=TODAY, cost=300),
        usage_row(here, started_at=TODAY, cost=None),
        usage_row(here, started_at=TODAY - 1, cost=4000),
        usage_row(here, started_at=TODAY, cost=50_000, org_id="blue"),
    ]
    await LedgerStore(database).add(rows)
    for subject, today, since_yesterday in (
        (Subject(SubjectType.DEPLOYMENT, here), 21, 4021),
        (Subject(SubjectType.USER, "mai"), 301, 4301),
        (Subject(SubjectType.API_KEY, key), 1, 1),
        (Subject(SubjectType.ORGANIZATION, "red"), 321, 4321),
        (Subject(SubjectType.USER, "nobody"), 0, 0),
    ):
        of = limit(subject=subject)
        assert await store.spent(of, TODAY) == today
        assert await store.spent(of, TODAY - DAY) == since_yesterday
