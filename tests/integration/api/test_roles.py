"""Who may do what: each role, each route of models and deployments, in its own organization and in another's.

The table is the contract: a route that is missing from it fails the last test of this file.
"""

from __future__ import annotations

from typing import Any

import pytest

from aiwm.domain.ids import new_id
from aiwm.domain.users import Role
from inside import Caller, Inside, api_based, token

pytestmark = pytest.mark.asyncio(loop_scope="module")

READ, WRITE = Role.VIEWER, Role.EDITOR
ROUTES: list[tuple[str, str, Role, Any]] = [
    # method, path, the least role, body
    ("POST", "/models", WRITE, api_based()),
    ("GET", "/models", READ, None),
    ("GET", "/models/{model}", READ, None),
    ("PUT", "/models/{model}", WRITE, {"name": "New"}),
    ("POST", "/models/{model}/deactivate", WRITE, None),
    ("POST", "/models/{inactive}/activate", WRITE, None),
    ("DELETE", "/models/{model}", WRITE, None),
    ("POST", "/deployments", WRITE, {"name": "New", "modelId": "{model}"}),
    ("GET", "/deployments", READ, None),
    ("GET", "/deployments/{running}", READ, None),
    ("PUT", "/deployments/{running}", WRITE, {"name": "New"}),
    ("POST", "/deployments/{running}/stop", WRITE, None),
    ("POST", "/deployments/{stopped}/start", WRITE, None),
    ("DELETE", "/deployments/{stopped}", WRITE, None),
]
ROLES = [None, Role.VIEWER, Role.EDITOR, Role.OWNER, Role.UNIVERSE_OWNER]
IDS = [f"{method} {path}" for method, path, _, _ in ROUTES]


async def _things(editor: Caller) -> dict[str, str]:
    """One of each that the routes are about."""
    model, inactive = await editor.model(), await editor.model()
    await editor("POST", f"/models/{inactive['_id']}/deactivate")
    running, stopped = await editor.deployment(), await editor.deployment()
    await editor("POST", f"/deployments/{stopped['_id']}/stop")
    made = {"model": model, "inactive": inactive, "running": running, "stopped": stopped}
    return {name: thing["_id"] for name, thing in made.items()}


def _about(things: dict[str, str], path: str, body: Any) -> tuple[str, Any]:
    if body is not None and body.get("modelId"):
        body = body | {"modelId": things["model"]}
    return path.format(**things), body


@pytest.mark.parametrize(("method", "path", "least", "body"), ROUTES, ids=IDS)
async def test_a_role_may_do_what_the_table_says(
    aiwm: Inside, org: str, editor: Caller, method: str, path: str, least: Role, body: Any
) -> None:
    things = await _things(editor)
    for role in ROLES:
        url, sent = _about(things, path, body)
        caller = aiwm.caller(role, org=org)
        before = aiwm.contents()
        answer = await caller(method, url, json=sent) if sent else await caller(method, url)
        if role is not None and role.rank >= least.rank:
            assert answer.status_code in {200, 201}, (role, answer.text)
            things = await _things(editor)
        else:
            assert answer.status_code == 403, (role, answer.text)
            assert answer.json()["message"] == f"This needs the role {least}; you have: {role or 'none'}"
            assert aiwm.contents() == before


@pytest.mark.parametrize(("method", "path", "least", "body"), ROUTES, ids=IDS)
async def test_no_role_reaches_another_organization_with_any_route(
    aiwm: Inside, editor: Caller, method: str, path: str, least: Role, body: Any
) -> None:
    things = await _things(editor)
    url, sent = _about(things, path, body)
    if path == "/models":
        return  # Names nothing of another organization.
    before = aiwm.contents()
    for role in (least, Role.OWNER, Role.UNIVERSE_OWNER):
        caller = aiwm.caller(role, org=new_id())
        answer = await caller(method, url, json=sent) if sent else await caller(method, url)
        if path == "/deployments" and method == "GET":
            assert answer.json()["data"] == []
            continue
        noun = "Model" if "/models" in path or (method == "POST" and path == "/deployments") else "Deployment"
        id_ = sent["modelId"] if sent and "modelId" in sent else url.split("/")[2]
        assert answer.status_code == (400 if path == "/deployments" else 404), answer.text
        assert answer.json()["message"] == f"{noun} with ID {id_} not found"
        # Whether the thing exists can't be told from the answer.
        nowhere = new_id()
        again = url.replace(id_, nowhere)
        other = {**sent, "modelId": nowhere} if sent and "modelId" in sent else sent
        same = await caller(method, again, json=other) if other else await caller(method, again)
        assert same.status_code == answer.status_code
        assert same.json()["message"] == answer.json()["message"].replace(id_, nowhere)
    assert aiwm.contents() == before


@pytest.mark.parametrize(("method", "path", "least", "body"), ROUTES, ids=IDS)
async def test_without_a_good_token_nothing_is_told_and_nothing_is_done(
    aiwm: Inside, editor: Caller, method: str, path: str, least: Role, body: Any
) -> None:
    url, sent = _about(await _things(editor), path, body)
    good = token(Role.OWNER)
    before = aiwm.contents()
    for authorization in (
        None,
        "",
        "Bearer",
        "Bearer ",
        good,
        f"Basic {good}",
        f"Bearer {good}x",
        f"Bearer {good[:-8]}",
        f"Bearer {token(Role.OWNER, exp=1)}",
        f"Bearer {token(Role.OWNER, status='inactive')}",
        f"Bearer {token(Role.OWNER, orgId=None)}",
        f"Bearer {token(Role.OWNER, sub='')}",
        "Bearer " + "x" * 20_000,
    ):
        headers = {} if authorization is None else {"authorization": authorization}
        for extra in ({}, {"json": {"unknown": 1}}):
            answer = await aiwm.http.request(
                method, url, headers=headers, **(extra or ({"json": sent} if sent else {}))
            )
            assert answer.status_code == 401, (authorization, answer.text)
            assert answer.json()["message"] == "Unauthorized"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["x-aiwm-error"] == "gateway"
    assert aiwm.contents() == before


# --- X-Organization-Id ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "least", "body"), ROUTES, ids=IDS)
async def test_the_operator_acts_in_another_organization(
    aiwm: Inside, org: str, editor: Caller, method: str, path: str, least: Role, body: Any
) -> None:
    url, sent = _about(await _things(editor), path, body)
    operator = aiwm.caller(Role.UNIVERSE_OWNER, org=new_id(), user="0" * 23 + "f", acting=org)
    answer = await operator(method, url, json=sent) if sent else await operator(method, url)
    assert answer.status_code in {200, 201}, answer.text
    if sent and method == "POST":
        assert answer.json()["owner"] == {"orgId": org, "userId": "0" * 23 + "f"}


@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.EDITOR, Role.OWNER])
async def test_nobody_else_acts_in_another_organization(aiwm: Inside, org: str, editor: Caller, role: Role) -> None:
    things = await _things(editor)
    before = aiwm.contents()
    for method, path, _, body in ROUTES:
        url, sent = _about(things, path, body)
        caller = aiwm.caller(role, org=new_id(), acting=org)
        answer = await caller(method, url, json=sent) if sent else await caller(method, url)
        assert answer.status_code == 403
        assert answer.json()["message"] == "Only universe.owner may act in another organization (X-Organization-Id)"
    assert aiwm.contents() == before


async def test_to_name_ones_own_organization_is_no_other(aiwm: Inside, org: str) -> None:
    assert (await aiwm.caller(Role.VIEWER, org=org, acting=org)("GET", "/models")).status_code == 200


@pytest.mark.parametrize("organization", [b"", b"x" * 256, b"a\tb", "\x85".encode("latin-1")])
async def test_what_can_be_no_organization_is_refused(aiwm: Inside, organization: bytes) -> None:
    operator = aiwm.caller(Role.UNIVERSE_OWNER)
    before = aiwm.contents()
    answer = await operator("POST", "/models", json=api_based(), headers={"x-organization-id": organization})
    assert answer.status_code == 400
    assert answer.json()["message"] == "X-Organization-Id is not the id of an organization"
    assert aiwm.contents() == before


# --- the table is whole --------------------------------------------------------------------------------------


async def test_every_route_of_models_and_deployments_is_in_the_table(aiwm: Inside) -> None:
    documented = {
        (method.upper(), path)
        for path, operations in (await aiwm.http.get("/openapi.json")).json()["paths"].items()
        for method in operations
        if path.startswith(("/models", "/deployments"))
        and "/inference/" not in path
        # Only of self-hosted models; the role table tries them.
        and not path.endswith(("/logs", "/download"))
    }
    tested = set()
    for method, path, _, _ in ROUTES:
        for name in ("model", "inactive", "running", "stopped"):
            path = path.replace(f"{{{name}}}", "{id}")
        tested.add((method, path))
    assert tested == documented
