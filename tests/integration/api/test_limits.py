"""api/limits.py: what owners set, and what callers are told by it."""

from __future__ import annotations

from typing import Any

import pytest

from aiwm.domain.ids import new_id
from aiwm.domain.users import Role
from inside import Caller, Inside, api_based

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOWHERE = "http://127.0.0.1:1"
PRICES = [{"input": 0, "output": 1_000}]
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 500}


@pytest.fixture
def owner(aiwm: Inside, org: str) -> Caller:
    return aiwm.caller(Role.OWNER, org=org, user="the-owner")


async def made(owner: Caller, type_: str, id_: str, **numbers: Any) -> dict[str, Any]:
    answer = await owner("POST", "/limits", json={"subject": {"type": type_, "id": id_}, **numbers})
    assert answer.status_code == 201, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def deployed(owner: Caller, **model: Any) -> str:
    of = await owner.model(**api_based(apiEndpoint=NOWHERE, prices=PRICES) | model)
    deployment = await owner.deployment(of)
    return str(deployment["_id"])


async def called(caller: Caller, deployment: str, **changes: Any) -> Any:
    """Nobody listens at the provider's address: who is let through is answered 502."""
    return await caller("POST", f"/deployments/{deployment}/inference/v1/chat/completions", json=CHAT | changes)


async def test_a_limit_is_shown_as_it_was_set(owner: Caller, org: str) -> None:
    limit = await made(
        owner, "user", "mai", requestsPerMinute=5, tokensPerMinute=6, concurrentRequests=7,
        budget={"usd": 0.25, "per": "month"},
    )  # fmt: skip
    assert limit["subject"] == {"type": "user", "id": "mai"}
    assert [limit[name] for name in ("requestsPerMinute", "tokensPerMinute", "concurrentRequests")] == [5, 6, 7]
    assert limit["budget"] == {"usd": 0.25, "per": "month"}
    assert limit["now"] == {"requests": 0, "tokens": 0, "concurrentRequests": 0, "spentUsd": 0, "reservedUsd": 0}
    assert limit["orgId"] == org
    assert (await owner("GET", f"/limits/{limit['_id']}")).json() == limit
    assert (await owner("GET", "/limits")).json()["data"] == [limit]
    assert (await owner("GET", "/limits?subjectType=user&subjectId=mai")).json()["pagination"]["total"] == 1
    assert (await owner("GET", "/limits?subjectId=lan")).json()["data"] == []


async def test_a_change_names_what_it_changes_and_null_takes_away(owner: Caller) -> None:
    limit = await made(owner, "user", "mai", requestsPerMinute=5, budget={"usd": 1, "per": "day"})
    path = f"/limits/{limit['_id']}"
    changed = (await owner("PUT", path, json={"requestsPerMinute": None, "budget": {"usd": 2, "per": "day"}})).json()
    assert ("requestsPerMinute" in changed, changed["budget"]["usd"]) == (False, 2)
    refused = await owner("PUT", path, json={"budget": None})
    assert (refused.status_code, "at least one of" in refused.json()["message"]) == (400, True)
    refused = await owner("POST", "/limits", json={"subject": {"type": "user", "id": "x"}})
    assert (refused.status_code, "at least one of" in refused.json()["message"]) == (400, True)


async def test_what_is_done_with_limits_is_in_the_audit_log(owner: Caller) -> None:
    limit = await made(owner, "user", "mai", requestsPerMinute=5)
    await owner("PUT", f"/limits/{limit['_id']}", json={"budget": {"usd": 1, "per": "day"}})
    await owner("DELETE", f"/limits/{limit['_id']}")
    told = (await owner("GET", "/audit?objectType=limit&sort=createdAt")).json()["data"]
    assert [entry["action"] for entry in told] == ["limit.create", "limit.change", "limit.delete"]
    assert told[0]["after"]["subject"] == {"type": "user", "id": "mai"}
    assert told[1]["after"] == {"budget": {"most": 10**12, "per": "day"}}


async def test_a_user_over_its_limit_is_told_which_and_for_how_long(aiwm: Inside, owner: Caller, org: str) -> None:
    deployment = await deployed(owner)
    mai, lan = aiwm.caller(Role.VIEWER, org=org, user="mai"), aiwm.caller(Role.VIEWER, org=org, user="lan")
    limit = await made(owner, "user", "mai", requestsPerMinute=1)
    assert (await called(mai, deployment)).status_code == 502
    refused = await called(mai, deployment)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert refused.headers["x-aiwm-error"] == "gateway"
    assert refused.json()["message"].startswith("The limit of user mai is 1 request per minute; try again in ")
    assert (await called(lan, deployment)).status_code == 502

    await owner("PUT", f"/limits/{limit['_id']}", json={"requestsPerMinute": 2})
    assert (await called(mai, deployment)).status_code == 502
    assert (await called(mai, deployment)).status_code == 429
    await owner("DELETE", f"/limits/{limit['_id']}")
    assert (await called(mai, deployment)).status_code == 502


async def test_a_budget_refuses_what_may_cost_too_much_and_keeps_nothing_of_what_failed(owner: Caller) -> None:
    deployment = await deployed(owner)
    limit = await made(owner, "deployment", deployment, budget={"usd": 0.5, "per": "day"})
    for _ in range(3):
        assert (await called(owner, deployment)).status_code == 502
    refused = await called(owner, deployment, max_tokens=501)
    assert refused.status_code == 429
    assert "this one may cost 0.501 USD" in refused.json()["message"]
    now = (await owner("GET", f"/limits/{limit['_id']}")).json()["now"]
    assert now["concurrentRequests"] == now["spentUsd"] == now["reservedUsd"] == 0


async def test_without_a_price_a_budget_refuses_and_says_what_to_do(owner: Caller, org: str) -> None:
    deployment = await deployed(owner, prices=None, modelIdentifier="of-our-own")
    await made(owner, "organization", org, budget={"usd": 1, "per": "day"})
    refused = await called(owner, deployment)
    assert (refused.status_code, "Set `prices` of the model" in refused.json()["message"]) == (400, True)


async def test_a_limit_of_another_organization_does_not_reach_here(
    aiwm: Inside, owner: Caller, stranger: Caller, org: str
) -> None:
    deployment = await deployed(owner)
    await made(stranger, "user", "the-owner", requestsPerMinute=1)
    for type_, id_ in (("deployment", deployment), ("organization", org), ("apiKey", new_id())):
        body = {"subject": {"type": type_, "id": id_}, "requestsPerMinute": 1}
        assert (await stranger("POST", "/limits", json=body)).status_code == 400
    for _ in range(3):
        assert (await called(owner, deployment)).status_code == 502
