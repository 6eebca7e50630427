"""The audit log over HTTP: what owners read of it."""

from __future__ import annotations

from typing import Any

import pytest

from aiwm.domain.ids import new_id
from aiwm.domain.users import Role
from inside import KEY, MASKED_KEY, Caller, Inside

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _log(owner: Caller, query: str = "") -> list[dict[str, Any]]:
    answer = await owner("GET", f"/audit?limit=100{query}")
    assert answer.status_code == 200, answer.text
    assert KEY not in answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


async def test_the_life_of_a_model_and_a_deployment_is_told_step_by_step(
    aiwm: Inside, org: str, editor: Caller
) -> None:
    model = await editor.model()
    deployment = await editor.deployment(model)
    for method, path, body in (
        ("PUT", f"/models/{model['_id']}", {"apiConfig": {"apiKey": f"{KEY}-2"}}),
        ("PUT", f"/deployments/{deployment['_id']}", {"name": "Another"}),
        ("POST", f"/deployments/{deployment['_id']}/stop", None),
        ("POST", f"/deployments/{deployment['_id']}/start", None),
        ("POST", f"/deployments/{deployment['_id']}/stop", None),
        ("DELETE", f"/deployments/{deployment['_id']}", None),
        ("POST", f"/models/{model['_id']}/deactivate", None),
        ("POST", f"/models/{model['_id']}/activate", None),
        ("DELETE", f"/models/{model['_id']}", None),
    ):
        headers = {"x-correlation-id": f"{method}:{path[-10:]}"}
        answer = await editor(method, path, headers=headers, **({"json": body} if body else {}))
        assert answer.status_code == 200, answer.text

    told = await _log(aiwm.caller(Role.OWNER, org=org), "&sort=createdAt")

    assert [each["action"] for each in told] == [
        "model.create", "deployment.create", "model.change", "deployment.change", "deployment.stop",
        "deployment.start", "deployment.stop", "deployment.delete", "model.deactivate", "model.activate",
        "model.delete",
    ]  # fmt: skip
    assert list(told[0]) == [
        "_id", "action", "objectType", "objectId", "objectName", "before", "after", "user", "orgId", "correlationId",
        "createdAt",
    ]  # fmt: skip
    assert told[0]["after"]["apiConfig"] == {"apiKey": MASKED_KEY, "organization": "org-42"}
    assert told[2]["before"] == {"apiConfig": {"apiKey": MASKED_KEY, "organization": "org-42"}}
    assert told[2]["after"] == {"apiConfig": {"apiKey": "sk-p…op-2"}}
    assert (told[4]["before"], told[4]["after"]) == ({"status": "running"}, {"status": "stopped"})
    assert told[3]["correlationId"] == f"PUT:{deployment['_id'][-10:]}"
    assert {each["user"]["orgId"] for each in told} == {org}
    assert told[-1]["before"]["name"] == model["name"]
    assert told[-1]["after"] is None


async def test_the_log_is_filtered_searched_and_paged(aiwm: Inside, org: str, editor: Caller) -> None:
    first, second = await editor.model(name="Needle"), await editor.model()
    await editor("POST", f"/models/{first['_id']}/deactivate")
    owner = aiwm.caller(Role.OWNER, org=org)

    assert len(await _log(owner, f"&objectId={second['_id']}")) == 1
    assert len(await _log(owner, "&action=model.deactivate")) == 1
    assert len(await _log(owner, "&filter[objectType]=deployment")) == 0
    assert len(await _log(owner, "&search=needle")) == 2
    assert len(await _log(owner, f"&orgId={new_id()}")) == 0
    moments = [each["createdAt"] for each in await _log(owner, "&sort=createdAt")]
    assert [each["createdAt"] for each in await _log(owner, f"&from={moments[1]}")] == moments[:0:-1]
    assert [each["createdAt"] for each in await _log(owner, f"&to={moments[1]}")] == moments[:1]
    assert len(await _log(owner, "&from=2000-01-01&to=2001-01-01")) == 0
    for wrong in ("yesterday", "2030-13-01", "2030-01-01T00:00:00"):
        answer = await owner("GET", f"/audit?from={wrong}")
        assert (answer.status_code, answer.json()["message"][0][:11]) == (400, "from: must ")
    page = (await owner("GET", "/audit?limit=2&page=2")).json()
    assert (page["pagination"]["total"], page["pagination"]["totalPages"], len(page["data"])) == (3, 2, 1)
    assert page["statistics"] == {"total": 3, "byAction": {"model.create": 2, "model.deactivate": 1}}


async def test_what_an_operator_does_elsewhere_is_told_there_and_at_home(aiwm: Inside, org: str) -> None:
    home = new_id()
    operator = aiwm.caller(Role.UNIVERSE_OWNER, org=home, acting=org)
    model = await operator.model()

    [there] = await _log(aiwm.caller(Role.OWNER, org=org))
    assert there["objectId"] == model["_id"]
    assert (there["actingFor"], there["orgId"], there["user"]["orgId"]) == (org, org, home)
    assert await _log(aiwm.caller(Role.UNIVERSE_OWNER, org=home)) == [there]
    # Not to the others at home: it is another tenant's thing.
    assert await _log(aiwm.caller(Role.OWNER, org=home)) == []


@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.EDITOR])
async def test_the_log_is_the_owners(aiwm: Inside, org: str, role: Role | None) -> None:
    assert (await aiwm.caller(role, org=org)("GET", "/audit")).status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_nobody_writes_the_log(aiwm: Inside, method: str) -> None:
    assert (await aiwm.caller(Role.UNIVERSE_OWNER)(method, "/audit")).status_code == 405
