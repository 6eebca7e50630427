"""Deployments over HTTP: the guide's requests, answers and refusals, word for word."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from aiwm.api.deployments import DeploymentAnswer
from aiwm.domain.ids import new_id
from fakes import RawPeer, RawServer
from inside import Caller, Inside, self_hosted

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _refused(answer: Any, status: int) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["x-aiwm-error"] == "gateway"
    return answer.json()["message"]


async def test_the_guides_deployment_is_made_and_runs_at_once(aiwm: Inside, org: str) -> None:
    editor = aiwm.caller(org=org, user="f" * 24)
    model = await editor.model()
    body = {
        "name": "GPT-4 Production",
        "description": "Production deployment for GPT-4 Turbo",
        "modelId": model["_id"],
    }

    answer = await editor("POST", "/deployments", json=body)

    made = answer.json()
    assert answer.status_code == 201
    assert re.fullmatch("[0-9a-f]{24}", made["_id"])
    assert list(made.items()) == [
        ("_id", made["_id"]),
        ("name", "GPT-4 Production"),
        ("description", "Production deployment for GPT-4 Turbo"),
        ("modelId", model["_id"]),
        ("streamUsage", "inject"),
        ("onDisconnect", "cancel"),
        ("status", "running"),
        ("requestCount", 0),
        ("totalTokens", 0),
        ("totalCost", 0),
        ("owner", {"orgId": org, "userId": "f" * 24}),
        ("createdBy", "f" * 24),
        ("updatedBy", "f" * 24),
        ("createdAt", made["createdAt"]),
        ("updatedAt", made["createdAt"]),
    ]


async def test_a_deployment_says_how_it_is_called(editor: Caller) -> None:
    made = await editor.deployment()
    read = (await editor("GET", f"/deployments/{made['_id']}")).json()

    endpoint = read.pop("endpoint")
    assert read == made
    assert list(endpoint) == ["url", "headers", "body", "description"]
    base = f"http://localhost:3003/deployments/{made['_id']}/inference"
    assert endpoint["url"] == f"{base}/v1/chat/completions"
    assert endpoint["body"]["messages"]
    assert base in endpoint["description"]


async def test_an_answer_has_only_documented_fields(editor: Caller) -> None:
    made = await editor.deployment(allowedModels=["gpt-4"])
    read = (await editor("GET", f"/deployments/{made['_id']}")).json()
    assert set(read) <= {field.alias for field in DeploymentAnswer.model_fields.values()}
    DeploymentAnswer.model_validate(read)


# --- what keeps one from being made --------------------------------------------------------------------------


async def test_an_inactive_model_is_refused_in_the_words_of_the_guide(editor: Caller) -> None:
    model = await editor.model(name="GPT-4")
    await editor("POST", f"/models/{model['_id']}/deactivate")
    for extra in ({}, {"nodeId": new_id()}):
        answer = await editor("POST", "/deployments", json={"name": "x", "modelId": model["_id"], **extra})
        assert _refused(answer, 400) == (
            "Model \"GPT-4\" must be in 'active' status to create deployment. Current status: inactive"
        )


async def test_a_model_without_its_files_is_refused_in_the_same_words(editor: Caller) -> None:
    model = await editor.model(**self_hosted())
    answer = await editor("POST", "/deployments", json={"name": "x", "modelId": model["_id"]})
    assert _refused(answer, 400) == (
        "Model \"Llama\" must be in 'active' status to create deployment. Current status: queued"
    )


@pytest.mark.parametrize(
    "extra", [{"nodeId": "a" * 24}, {"resourceId": "a" * 24}, {"nodeId": "a" * 24, "resourceId": "b" * 24}]
)
async def test_a_providers_model_runs_on_no_node_of_ours(editor: Caller, extra: dict[str, str]) -> None:
    model = await editor.model()
    answer = await editor("POST", "/deployments", json={"name": "x", "modelId": model["_id"], **extra})
    assert _refused(answer, 400) == "Cannot create deployment for api-based model with nodeId or resourceId"


async def test_a_model_that_the_caller_can_not_see_is_not_found(editor: Caller, stranger: Caller) -> None:
    for id_ in (new_id(), (await editor.model())["_id"]):
        answer = await stranger("POST", "/deployments", json={"name": "x", "modelId": id_})
        assert _refused(answer, 400) == f"Model with ID {id_} not found"


# --- states --------------------------------------------------------------------------------------------------


async def test_a_deployment_is_stopped_started_and_deleted(editor: Caller) -> None:
    made = await editor.deployment(name="Chat")
    path = f"/deployments/{made['_id']}"

    assert _refused(await editor("POST", f"{path}/start"), 400) == 'Deployment "Chat" is already running'
    assert _refused(await editor("DELETE", path), 409) == (
        "Cannot delete deployment \"Chat\". It is currently in 'running' status. Please stop it first."
    )
    stopped = await editor("POST", f"{path}/stop")
    assert (stopped.status_code, stopped.json()["status"]) == (200, "stopped")
    assert _refused(await editor("POST", f"{path}/stop"), 400) == (
        'Cannot stop deployment "Chat". Current status: stopped'
    )
    inference = await editor("POST", f"{path}/inference/v1/chat/completions", json={})
    assert _refused(inference, 400) == "Deployment is not running. Current status: stopped"
    started = await editor("POST", f"{path}/start")
    assert (started.status_code, started.json()["status"]) == (200, "running")
    await editor("POST", f"{path}/stop")
    deleted = await editor("DELETE", path)
    assert (deleted.status_code, list(deleted.json())) == (200, ["_id", "deletedAt"])
    gone = f"Deployment with ID {made['_id']} not found"
    for method, suffix in (("GET", ""), ("DELETE", ""), ("POST", "/start"), ("POST", "/stop")):
        assert _refused(await editor(method, path + suffix), 404) == gone
    assert _refused(await editor("PUT", path, json={"name": "x"}), 404) == gone
    assert _refused(await editor("POST", f"{path}/inference/v1/models", json={}), 404) == gone


async def test_a_start_looks_at_the_model_again(editor: Caller) -> None:
    model = await editor.model(name="GPT-4")
    made = await editor.deployment(model)
    path = f"/deployments/{made['_id']}"
    await editor("POST", f"{path}/stop")
    await editor("POST", f"/models/{model['_id']}/deactivate")

    assert _refused(await editor("POST", f"{path}/start"), 400) == (
        "Model \"GPT-4\" must be in 'active' status to create deployment. Current status: inactive"
    )
    await editor("DELETE", f"/models/{model['_id']}")
    assert _refused(await editor("POST", f"{path}/start"), 400) == f"Model with ID {model['_id']} not found"
    assert (await editor("GET", path)).json()["status"] == "stopped"


@pytest.mark.parametrize(("verb", "before"), [("stop", "running"), ("start", "stopped")])
async def test_of_many_callers_at_once_one_wins_and_the_others_are_told(editor: Caller, verb: str, before: str) -> None:
    made = await editor.deployment()
    path = f"/deployments/{made['_id']}"
    if before == "stopped":
        await editor("POST", f"{path}/stop")

    answers = await asyncio.gather(*(editor("POST", f"{path}/{verb}") for _ in range(6)))

    assert sorted(answer.status_code for answer in answers)[0] == 200
    assert {answer.status_code for answer in answers[1:]} <= {200, 400, 409}
    assert [answer.status_code for answer in answers].count(200) == 1


async def test_deployments_and_deactivations_at_once_leave_nothing_running_on_an_inactive_model(editor: Caller) -> None:
    for _ in range(4):
        model = await editor.model()
        body = {"name": "x", "modelId": model["_id"]}
        answers = await asyncio.gather(
            *(editor("POST", "/deployments", json=body) for _ in range(3)),
            editor("POST", f"/models/{model['_id']}/deactivate"),
            *(editor("POST", "/deployments", json=body) for _ in range(3)),
        )
        made = [answer for answer in answers if answer.status_code == 201]
        status = (await editor("GET", f"/models/{model['_id']}")).json()["status"]
        assert (status == "inactive") is (not made)


# --- change --------------------------------------------------------------------------------------------------


async def test_a_change_changes_what_is_given_and_says_who_and_when(aiwm: Inside, org: str, editor: Caller) -> None:
    made = await editor.deployment()
    changes = {
        "name": "New",
        "description": "line one\nline two",
        "allowedModels": ["gpt-4", "gpt-5"],
        "streamUsage": "off",
        "onDisconnect": "drain",
    }

    changed = await aiwm.caller(org=org, user="e" * 24)("PUT", f"/deployments/{made['_id']}", json=changes)

    after = changed.json()
    assert after["updatedAt"] > made["updatedAt"]
    assert after == made | changes | {"updatedBy": "e" * 24, "updatedAt": after["updatedAt"]}
    any_again = await editor("PUT", f"/deployments/{made['_id']}", json={"allowedModels": None})
    assert "allowedModels" not in any_again.json()


@pytest.mark.parametrize("field", ["modelId", "nodeId", "resourceId", "status", "requestCount", "totalTokens", "owner"])
async def test_what_is_not_the_callers_to_change_is_no_field(editor: Caller, field: str) -> None:
    made = await editor.deployment()
    answer = await editor("PUT", f"/deployments/{made['_id']}", json={"name": "x", field: "a" * 24})
    assert _refused(answer, 400) == [f"{field}: is not a field of this request"]
    assert (await editor("GET", f"/deployments/{made['_id']}")).json()["name"] == made["name"]


async def test_another_organizations_deployment_is_not_there_in_the_same_words(
    editor: Caller, stranger: Caller
) -> None:
    made = await editor.deployment()
    for id_ in (made["_id"], new_id()):
        path = f"/deployments/{id_}"
        for answer in (
            await stranger("GET", path),
            await stranger("PUT", path, json={"name": "mine"}),
            await stranger("DELETE", path),
            await stranger("POST", f"{path}/start"),
            await stranger("POST", f"{path}/stop"),
            await stranger("POST", f"{path}/inference/v1/chat/completions", json={}),
        ):
            assert _refused(answer, 404) == f"Deployment with ID {id_} not found"
    assert (await stranger("GET", "/deployments")).json()["pagination"]["total"] == 0


# --- counts --------------------------------------------------------------------------------------------------


async def test_a_get_after_an_answer_has_counted_it(editor: Caller) -> None:
    async def provider(peer: RawPeer) -> None:
        usage = b'{"model":"m","usage":{"prompt_tokens":25,"completion_tokens":8,"total_tokens":33}}'
        while await peer.read_request():
            await peer.answer(usage, headers=b"content-type: application/json\r\n")

    async with RawServer(provider) as server:
        model = await editor.model(apiEndpoint=f"http://127.0.0.1:{server.port}")
        made = await editor.deployment(model)
        path = f"/deployments/{made['_id']}"
        for number in (1, 2, 3, 4):
            assert (await editor("POST", f"{path}/inference/v1/chat/completions", json={})).status_code == 200
            # Each kind of question is sometimes the first after the answer.
            counted = (
                (await editor("GET", path)).json()
                if number % 2
                else (await editor("GET", "/deployments")).json()["data"][0]
            )
            assert (counted["requestCount"], counted["totalTokens"]) == (number, 33 * number)
        changed = (await editor("POST", f"{path}/stop")).json()
        assert (changed["requestCount"], changed["totalTokens"]) == (4, 132)
