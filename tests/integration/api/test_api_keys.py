"""API keys over HTTP: made, shown once, used, limited, expired, revoked."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from aiwm.domain.ids import new_id
from aiwm.domain.users import Role
from aiwm.identity.revocations import POLL_SECONDS
from inside import Caller, Inside, api_based, inside
from patience import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

INFERENCE = "/deployments/{}/inference/v1/chat/completions"


@pytest.fixture
def owner(aiwm: Inside, org: str) -> Caller:
    return aiwm.caller(Role.OWNER, org=org)


async def _made(owner: Caller, **fields: Any) -> dict[str, Any]:
    answer = await owner("POST", "/api-keys", json={"name": "Nightly batch"} | fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def _bearer(key: dict[str, Any]) -> dict[str, str]:
    return {"authorization": f"Bearer {key['apiKey']}"}


async def _nowhere(owner: Caller) -> dict[str, Any]:
    """A deployment whose provider is not there: 502 says that the caller was let through."""
    return await owner.deployment(await owner.model(apiEndpoint="http://127.0.0.1:1"))


async def test_a_key_is_shown_once_and_masked_ever_after(aiwm: Inside, owner: Caller, org: str) -> None:
    answer = await owner("POST", "/api-keys", json={"name": "Nightly batch"})

    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    assert list(made) == ["_id", "name", "apiKey", "owner", "createdBy", "updatedBy", "createdAt", "updatedAt"]
    assert re.fullmatch(r"aiwm_sk_[A-Za-z0-9_-]{43}", made["apiKey"])
    assert made["owner"]["orgId"] == org
    shown = made | {"apiKey": f"aiwm…{made['apiKey'][-4:]}"}
    assert (await owner("GET", f"/api-keys/{made['_id']}")).json() == shown
    listed = (await owner("GET", "/api-keys")).json()
    assert listed["data"] == [shown]
    assert listed["pagination"] == {"page": 1, "limit": 10, "total": 1, "totalPages": 1}
    assert listed["statistics"] == {"total": 1}
    mine, nobodys = (f"/api-keys?userId={user}" for user in (made["owner"]["userId"], "0" * 24))
    assert (await owner("GET", mine)).json()["pagination"]["total"] == 1
    assert (await owner("GET", nobodys)).json()["pagination"]["total"] == 0


async def test_only_the_hash_of_a_key_is_kept(aiwm: Inside, owner: Caller) -> None:
    made = await _made(owner)

    for path in aiwm.folder.rglob("*"):
        assert not path.is_file() or made["apiKey"].encode() not in path.read_bytes(), path
    with closing(sqlite3.connect(aiwm.folder / "aiwm.db")) as connection:
        [[digest]] = connection.execute("SELECT digest FROM api_keys WHERE id = ?", [made["_id"]])
    assert digest == hashlib.sha256(made["apiKey"].encode()).digest()


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "x-goog-api-key", "api-key"])
async def test_a_key_is_taken_wherever_an_sdk_puts_it(aiwm: Inside, owner: Caller, header: str) -> None:
    deployment, key = await _nowhere(owner), await _made(owner)
    value = f"Bearer {key['apiKey']}" if header == "authorization" else key["apiKey"]

    answer = await aiwm.http.post(INFERENCE.format(deployment["_id"]), json={}, headers={header: value})

    assert answer.status_code == 502, answer.text


async def test_a_key_reads_as_a_viewer_does_and_changes_nothing(aiwm: Inside, owner: Caller) -> None:
    deployment, key = await _nowhere(owner), await _made(owner)
    program = Caller(aiwm, _bearer(key))

    assert (await program("GET", "/models")).json()["pagination"]["total"] == 1
    assert (await program("GET", f"/deployments/{deployment['_id']}")).status_code == 200
    before = aiwm.contents()
    for method, path, body in (
        ("POST", "/models", api_based()),
        ("POST", f"/deployments/{deployment['_id']}/stop", None),
        ("POST", "/api-keys", {"name": "Another"}),
        ("GET", "/api-keys", None),
        ("DELETE", f"/api-keys/{key['_id']}", None),
    ):
        answer = await program(method, path, **({"json": body} if body else {}))
        assert answer.status_code == 403, path
    for path in ("/auth/logout", "/auth/profile", "/auth/change-password"):
        passwords = {"currentPassword": "x", "newPassword": "battery staple"}
        answer = await program("GET" if "profile" in path else "POST", path, iam=True, json=passwords)
        assert answer.status_code == 403, (path, answer.text)
        assert "This is an API key, not a login" in answer.json()["message"]
    assert aiwm.contents() == before


async def test_a_key_stays_in_its_organization(aiwm: Inside, owner: Caller, stranger: Caller, org: str) -> None:
    foreign, key = await _nowhere(stranger), await _made(owner)
    program = Caller(aiwm, _bearer(key))

    answer = await program("POST", INFERENCE.format(foreign["_id"]), json={})
    assert (answer.status_code, answer.json()["message"]) == (404, f"Deployment with ID {foreign['_id']} not found")
    acting = await program("GET", "/models", headers={"x-organization-id": new_id()})
    assert acting.status_code == 403
    for method in ("GET", "DELETE"):
        answer = await stranger(method, f"/api-keys/{key['_id']}")
        assert (answer.status_code, answer.json()["message"]) == (404, f"API key with ID {key['_id']} not found")
    # Even a key of the operator's cannot act elsewhere.
    operator = aiwm.caller(Role.UNIVERSE_OWNER, org=org)
    program = Caller(aiwm, _bearer(await _made(operator)))
    assert (await program("GET", "/models", headers={"x-organization-id": new_id()})).status_code == 403


async def test_a_limited_key_calls_its_deployments_only_and_learns_of_no_other(
    aiwm: Inside, owner: Caller, stranger: Caller
) -> None:
    own, other, foreign = await _nowhere(owner), await _nowhere(owner), await _nowhere(stranger)
    key = await _made(owner, deployments=[own["_id"], own["_id"]])
    assert key["deployments"] == [own["_id"]]
    program = Caller(aiwm, _bearer(key))

    assert (await program("POST", INFERENCE.format(own["_id"]), json={})).status_code == 502
    for id_ in (other["_id"], foreign["_id"], new_id()):
        answer = await program("POST", INFERENCE.format(id_), json={})
        assert (answer.status_code, answer.json()["message"]) == (403, f"This API key is not for deployment {id_}")
        assert (await program("GET", f"/deployments/{id_}")).status_code == 404
    assert [each["_id"] for each in (await program("GET", "/deployments")).json()["data"]] == [own["_id"]]
    assert [each["_id"] for each in (await program("GET", "/models")).json()["data"]] == [own["modelId"]]


async def test_a_key_is_not_limited_to_what_is_not_there(aiwm: Inside, owner: Caller, stranger: Caller) -> None:
    foreign = await _nowhere(stranger)
    before = aiwm.contents()

    answer = await owner("POST", "/api-keys", json={"name": "x", "deployments": [foreign["_id"]]})

    assert answer.status_code == 400
    assert answer.json()["message"] == [f"deployments: Deployment with ID {foreign['_id']} not found"]
    assert aiwm.contents() == before


async def test_a_key_ends_when_it_was_to_end(tmp_path: Path) -> None:
    ahead = 0

    def clock() -> int:
        return time.time_ns() // 1_000_000 + ahead

    async with inside(tmp_path / "data", clock=clock) as aiwm:
        owner = aiwm.caller(Role.OWNER, org=new_id())
        soon = (datetime.now(UTC) + timedelta(seconds=200)).isoformat(timespec="milliseconds")
        key = await _made(owner, expiresAt=soon)
        assert key["expiresAt"] == soon.replace("+00:00", "Z")
        program = Caller(aiwm, _bearer(key))
        assert (await program("GET", "/models")).status_code == 200
        ahead = 201_000

        assert (await program("GET", "/models")).status_code == 401

        assert (await owner("GET", f"/api-keys/{key['_id']}")).json()["expiresAt"] == key["expiresAt"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "name: is required"),
        ({"name": ""}, "name: String should have at least 1 character"),
        ({"name": "x", "deployments": []}, "deployments: List should have at least 1 item"),
        ({"name": "x", "deployments": ["x"]}, "deployments.0: must be 24 hexadecimal digits"),
        ({"name": "x", "expiresAt": "2001-01-01T00:00:00Z"}, "expiresAt: must be in the future"),
        ({"name": "x", "expiresAt": "2040-01-01T00:00:00"}, "expiresAt: Input should have timezone info"),
        ({"name": "x", "expiresAt": 4102444800}, "expiresAt: must be a date and time with a zone"),
        ({"name": "x", "expiresAt": "4102444800"}, "expiresAt: must be a date and time with a zone"),
        ({"name": "x", "expiresAt": "2040-13-01T00:00:00Z"}, "expiresAt: Input should be a valid datetime"),
        ({"name": "x", "orgId": "a" * 24}, "orgId: is not a field of this request"),
        ({"name": "x", "apiKey": "aiwm_sk_mine"}, "apiKey: is not a field of this request"),
        ({"name": "x", "roles": ["universe.owner"]}, "roles: is not a field of this request"),
    ],
)  # fmt: skip
async def test_a_key_that_cannot_be_made_is_told_why(aiwm: Inside, owner: Caller, body: Any, text: str) -> None:
    before = aiwm.contents()

    answer = await owner("POST", "/api-keys", json=body)

    assert answer.status_code == 400
    assert [each for each in answer.json()["message"] if each.startswith(text)], answer.text
    assert aiwm.contents() == before


async def test_a_revoked_key_is_dead_at_once(aiwm: Inside, owner: Caller) -> None:
    key = await _made(owner)
    program = Caller(aiwm, _bearer(key))
    assert (await program("GET", "/models")).status_code == 200

    answer = await owner("DELETE", f"/api-keys/{key['_id']}")

    assert answer.status_code == 200
    assert list(answer.json()) == ["_id", "deletedAt"]
    assert (await program("GET", "/models")).status_code == 401
    for method in ("GET", "DELETE"):
        assert (await owner(method, f"/api-keys/{key['_id']}")).status_code == 404
    assert (await owner("GET", "/api-keys")).json()["data"] == []


async def test_another_worker_refuses_a_revoked_key_within_a_second(aiwm: Inside, owner: Caller) -> None:
    key = await _made(owner)
    async with inside(aiwm.folder) as other:
        elsewhere = Caller(other, _bearer(key))
        assert (await elsewhere("GET", "/models")).status_code == 200
        await owner("DELETE", f"/api-keys/{key['_id']}")
        # How soon is a matter of how often it looks; a clock would tell more of how busy this machine is.
        assert POLL_SECONDS < 1

        async def refused() -> bool:
            answer = await elsewhere("GET", "/models")
            assert answer.status_code in {200, 401}, answer.text
            return answer.status_code == 401

        await eventually(refused)


async def test_the_last_use_is_shown_once_it_is_written_down(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with inside(folder) as aiwm:
        owner = aiwm.caller(Role.OWNER, org=(org := new_id()))
        used, unused = await _made(owner), await _made(owner)
        began = datetime.now(UTC)
        assert (await Caller(aiwm, _bearer(used))("GET", "/models")).status_code == 200
        assert "lastUsedAt" not in (await owner("GET", f"/api-keys/{used['_id']}")).json()
    # What was not written down yet is when the program ends.
    async with inside(folder) as again:
        owner = again.caller(Role.OWNER, org=org)
        at = (await owner("GET", f"/api-keys/{used['_id']}")).json()["lastUsedAt"]
        assert abs(datetime.fromisoformat(at) - began) < timedelta(seconds=10)
        assert "lastUsedAt" not in (await owner("GET", f"/api-keys/{unused['_id']}")).json()


@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.EDITOR])
async def test_keys_are_the_owners_business(aiwm: Inside, org: str, owner: Caller, role: Role | None) -> None:
    key = await _made(owner)
    caller = aiwm.caller(role, org=org)
    before = aiwm.contents()
    for method, path, body in (
        ("POST", "/api-keys", {"name": "x"}), ("GET", "/api-keys", None),
        ("GET", f"/api-keys/{key['_id']}", None), ("DELETE", f"/api-keys/{key['_id']}", None),
    ):  # fmt: skip
        answer = await caller(method, path, **({"json": body} if body else {}))
        assert answer.status_code == 403
    assert aiwm.contents() == before


async def test_guesses_are_refused_like_any_bad_token(aiwm: Inside, owner: Caller) -> None:
    secret = (await _made(owner))["apiKey"]
    for guess in (secret[:-1], secret[:-1] + "\u00e9", f"{secret[:-4]}AAAA", secret.upper(), f"{secret}x", "aiwm_sk_",
                  "aiwm_sk_' OR 1=1 --", "aiwm…" + secret[-4:]):  # fmt: skip
        answer = await aiwm.http.get("/models", headers={"authorization": f"Bearer {guess}".encode()})
        assert (answer.status_code, answer.json()["message"]) == (401, "Unauthorized")


async def test_a_key_is_not_read_from_the_url(aiwm: Inside, owner: Caller) -> None:
    deployment, key = await _nowhere(owner), await _made(owner)
    for name in ("key", "api_key", "access_token"):
        path = f"{INFERENCE.format(deployment['_id'])}?{name}={key['apiKey']}"
        answer: httpx2.Response = await aiwm.http.post(path, json={})
        assert answer.status_code == 401
