"""The embedded IAM over HTTP, on both databases: what callers send and what they get."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from aiwm.domain.users import Principal, Role
from aiwm.iam.routes import auth_routes, iam_routes
from aiwm.store.database import Database
from aiwm.web.application import application
from aiwm.web.asgi import Asgi
from aiwm.web.bodies import JsonBodies
from aiwm.web.front import Front
from aiwm.wire.hosts import ANY, Hosts
from inside import calling
from people import PASSWORD, Iam, Town

ID = re.compile(r"[0-9a-f]{24}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
HISTORY = ["owner", "createdBy", "updatedBy", "createdAt", "updatedAt"]


@pytest.fixture
async def town(database: Database) -> Town:
    return await Town.build(Iam(database))


@pytest.fixture
async def client(town: Town) -> AsyncIterator[httpx2.AsyncClient]:
    iam = town.iam
    routes = iam_routes(
        sessions=iam.sessions,
        users=iam.users,
        organizations=iam.organizations,
        tokens=iam.verifier,
        published_keys=iam.signer.published_keys,
    )
    app = JsonBodies(application(title="IAM", description="", routers=routes), max_bytes=100_000)
    async with calling(Front(Asgi(app), hosts=Hosts({ANY}), log=lambda _: None)) as client:
        yield client


async def _bearer(town: Town, username: str) -> dict[str, str]:
    return {"authorization": f"Bearer {(await town.iam.login(username)).access_token}"}


async def _claims_of(client: httpx2.AsyncClient, token: str) -> dict[str, Any]:
    keys = KeySet.import_key_set((await client.get("/.well-known/jwks.json")).json())
    return jwt.decode(token, keys, algorithms=["RS256"]).claims


# --- login -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded"])
async def test_a_login_as_the_guide_prints_it(client: httpx2.AsyncClient, content_type: str) -> None:
    answer = await client.post(
        "/auth/login",
        headers={"content-type": content_type},
        content=f'{{\n    "username": "red-owner",\n    "password": "{PASSWORD}"\n  }}',
    )

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert list(body) == ["accessToken", "expiresIn", "refreshToken", "refreshExpiresIn", "tokenType", "user"]
    assert list(body["user"]) == ["_id", "username", "status", "roles", "orgId"]
    assert (body["expiresIn"], body["refreshExpiresIn"], body["tokenType"]) == (3600, 86_400, "Bearer")
    assert body["user"]["username"] == "red-owner"
    assert body["user"]["roles"] == ["organization.owner"]


async def test_another_program_can_verify_our_tokens_with_the_published_keys(
    town: Town, client: httpx2.AsyncClient
) -> None:
    token = (await town.iam.login("red-owner")).access_token

    claims = await _claims_of(client, token)

    assert claims["sub"] == town.red_owner.user_id
    assert claims["orgId"] == town.red.id
    assert claims["exp"] - claims["iat"] == 3600
    assert (await client.get("/.well-known/jwks.json")).headers["cache-control"] == "public, max-age=300"


@pytest.mark.parametrize("username", ["red-owner", "nobody", "half\\ud800pair"])
async def test_a_failed_login_says_nothing_but_that(client: httpx2.AsyncClient, username: str) -> None:
    answer = await client.post("/auth/login", content=f'{{"username": "{username}", "password": "wrong horse"}}')

    if "ud800" in username:
        assert answer.status_code == 400
        return
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    body = answer.json()
    assert (body["statusCode"], body["message"], body["error"]) == (401, "Invalid credentials", "Unauthorized")
    assert body["path"] == "/auth/login"


async def test_too_many_failures_are_told_when_to_come_back(client: httpx2.AsyncClient) -> None:
    for _ in range(10):
        await client.post("/auth/login", json={"username": "red-owner", "password": "wrong horse"})

    answer = await client.post("/auth/login", json={"username": "red-owner", "password": PASSWORD})

    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "300"


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ({}, ["username: is required", "password: is required"]),
        ({"username": "x", "password": "y", "remember": True}, ["remember: is not a field of this request"]),
        ({"username": 7, "password": "y"}, ["username: Input should be a valid string"]),
    ],
)
async def test_a_body_that_is_no_login_is_told_what_is_wrong(
    client: httpx2.AsyncClient, body: dict[str, Any], messages: list[str]
) -> None:
    answer = await client.post("/auth/login", json=body)

    assert answer.status_code == 400
    assert answer.json()["message"] == messages


# --- what follows ----------------------------------------------------------------------------------------------


async def test_refreshing_over_http(client: httpx2.AsyncClient) -> None:
    first = (await client.post("/auth/login", json={"username": "red-owner", "password": PASSWORD})).json()

    second = await client.post("/auth/refresh-token", json={"refreshToken": first["refreshToken"]})
    again = await client.post("/auth/refresh-token", json={"refreshToken": first["refreshToken"]})
    dead = await client.post("/auth/refresh-token", json={"refreshToken": second.json()["refreshToken"]})

    assert second.status_code == 200
    assert list(second.json()) == list(first)
    assert (again.status_code, dead.status_code) == (401, 401)


async def test_a_token_works_until_its_logout(town: Town, client: httpx2.AsyncClient) -> None:
    headers = await _bearer(town, "red-owner")

    verified = (await client.get("/auth/verify-token", headers=headers)).json()
    profile = (await client.get("/auth/profile", headers=headers)).json()
    out = await client.post("/auth/logout", headers=headers)
    after = await client.get("/auth/verify-token", headers=headers)

    assert verified["valid"] is True
    assert verified["user"]["_id"] == town.red_owner.user_id
    assert TIME.fullmatch(verified["expiresAt"])
    assert profile["username"] == "red-owner"
    assert (out.status_code, out.json()) == (200, {"message": "Logged out"})
    assert (after.status_code, after.json()["message"]) == (401, "Unauthorized")


async def test_changing_the_own_password(town: Town, client: httpx2.AsyncClient) -> None:
    headers = await _bearer(town, "red-owner")

    wrong = await client.post(
        "/auth/change-password", headers=headers, json={"currentPassword": "x", "newPassword": "battery staple"}
    )
    right = await client.post(
        "/auth/change-password", headers=headers, json={"currentPassword": PASSWORD, "newPassword": "battery staple"}
    )

    assert (wrong.status_code, wrong.json()["message"]) == (400, ["currentPassword: is wrong"])
    assert right.status_code == 200
    login = await client.post("/auth/login", json={"username": "red-owner", "password": "battery staple"})
    assert login.status_code == 200


async def test_nothing_is_open_without_a_good_token(client: httpx2.AsyncClient) -> None:
    closed = [
        ("GET", "/auth/verify-token"),
        ("GET", "/auth/profile"),
        ("POST", "/auth/logout"),
        *((method, path) for path in ("/users", "/organizations") for method in ("GET", "POST")),
        *(
            (method, f"{path}/{'0' * 24}")
            for path in ("/users", "/organizations")
            for method in ("GET", "PUT", "DELETE")
        ),
    ]
    for method, path in closed:
        for authorization in (None, "Bearer", "Bearer x.y.z", "Basic YTpi", "Bearer ключ"):
            headers = {} if authorization is None else {b"authorization": authorization.encode()}

            answer = await client.request(method, path, headers=headers, json={} if method in {"POST", "PUT"} else None)

            assert (answer.status_code, answer.json()["message"]) == (401, "Unauthorized"), (method, path)


# --- users -----------------------------------------------------------------------------------------------------


async def test_the_life_of_a_user(town: Town, client: httpx2.AsyncClient) -> None:
    headers = await _bearer(town, "red-owner")

    made = await client.post(
        "/users",
        headers=headers,
        json={"username": "mai", "password": PASSWORD, "roles": ["organization.editor"], "fullname": "Mai"},
    )
    user = made.json()
    path = f"/users/{user['_id']}"
    got = await client.get(path, headers=headers)
    changed = await client.put(path, headers=headers, json={"fullname": "Mai N.", "status": "inactive"})
    listed = await client.get("/users?status=inactive&search=MAI", headers=headers)
    gone = await client.delete(path, headers=headers)
    after = await client.get(path, headers=headers)

    assert made.status_code == 201
    assert list(user) == ["_id", "username", "fullname", "status", "roles", "orgId", *HISTORY]
    assert ID.fullmatch(user["_id"])
    assert user["owner"] == {"orgId": town.red.id, "userId": town.red_owner.user_id}
    assert TIME.fullmatch(user["createdAt"])
    assert got.json() == user
    assert changed.status_code == 200
    assert (changed.json()["fullname"], changed.json()["status"]) == ("Mai N.", "inactive")
    assert listed.json() == {
        "data": [changed.json()],
        "pagination": {"page": 1, "limit": 10, "total": 1, "totalPages": 1},
        "statistics": {"total": 1, "byStatus": {"inactive": 1}},
    }
    assert (gone.status_code, list(gone.json())) == (200, ["_id", "deletedAt"])
    assert (after.status_code, after.json()["message"]) == (404, f"User with ID {user['_id']} not found")


async def test_no_answer_holds_the_hash_of_a_password(town: Town, client: httpx2.AsyncClient) -> None:
    headers = await _bearer(town, "red-owner")
    answers = [
        await client.get("/users", headers=headers),
        await client.get("/auth/profile", headers=headers),
        await client.get(f"/users/{town.red_owner.user_id}", headers=headers),
        await client.post("/auth/login", json={"username": "red-owner", "password": PASSWORD}),
    ]

    for answer in answers:
        assert answer.status_code == 200
        assert "argon2" not in answer.text
        assert "hash" not in answer.text.lower()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"username": "blue-owner"}, 409, 'Username "blue-owner" is already taken'),
        ({"roles": ["universe.owner"]}, 403, "Nobody grants more than they have"),
        ({"roles": ["king"]}, 400, "roles.0: Input should be"),
        ({"roles": []}, 400, "roles: must name at least one role"),
        ({"username": "m"}, 400, "username: must be 3 to 100 characters long"),
        ({"username": "m a i"}, 400, "username: must not contain spaces"),
        ({"password": "short"}, 400, "password: must be 8 to 128 characters long"),
        ({"status": "asleep"}, 400, "status: Input should be 'active' or 'inactive'"),
        ({"fullname": "a\nb"}, 400, "fullname: must not contain control characters"),
        ({"admin": True}, 400, "admin: is not a field of this request"),
        ({"orgId": "0" * 24}, 403, "another organization"),
        ({"orgId": ""}, 400, "orgId: must be 24 hexadecimal digits"),
        ({"orgId": "red"}, 400, "orgId: must be 24 hexadecimal digits"),
    ],
)
async def test_a_user_that_cannot_be_made(
    town: Town, client: httpx2.AsyncClient, body: dict[str, Any], status: int, message: str
) -> None:
    wanted = {"username": "mai", "password": PASSWORD, "roles": ["organization.viewer"]} | body

    answer = await client.post("/users", headers=await _bearer(town, "red-owner"), json=wanted)

    said = answer.json()["message"]
    assert answer.status_code == status
    assert message in (said if isinstance(said, str) else "; ".join(said))
    assert "short" not in answer.text


async def test_the_operator_makes_users_elsewhere_with_org_id_or_the_header(
    town: Town, client: httpx2.AsyncClient
) -> None:
    headers = await _bearer(town, "admin")
    body = {"password": PASSWORD, "roles": ["organization.viewer"]}

    named = await client.post("/users", headers=headers, json=body | {"username": "one", "orgId": town.red.id})
    there = headers | {"x-organization-id": town.red.id}
    acting = await client.post("/users", headers=there, json=body | {"username": "two"})
    seen = await client.get("/users?sort=username", headers=there)
    unseen = await client.get(f"/users/{named.json()['_id']}", headers=headers)

    assert (named.status_code, acting.status_code) == (201, 201)
    assert named.json()["orgId"] == acting.json()["orgId"] == town.red.id
    assert [user["username"] for user in seen.json()["data"]] == ["one", "red-owner", "two"]
    assert unseen.status_code == 404


async def test_nobody_else_acts_elsewhere(town: Town, client: httpx2.AsyncClient) -> None:
    headers = await _bearer(town, "red-owner")

    foreign = await client.get("/users", headers=headers | {"x-organization-id": town.blue.id})
    other = await client.get(f"/users/{town.blue_owner.user_id}", headers=headers)
    malformed = await client.get("/users/42", headers=headers)

    assert foreign.status_code == 403
    assert (other.status_code, other.json()["message"]) == (404, f"User with ID {town.blue_owner.user_id} not found")
    assert malformed.status_code == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Nothing to change: give at least one of username, password, roles, fullname, status"),
        ({"fullname": None}, ["fullname: must not be null"]),
        ({"orgId": "0" * 24}, ["orgId: is not a field of this request"]),
    ],
)
async def test_a_change_that_is_none(town: Town, client: httpx2.AsyncClient, body: Any, message: Any) -> None:
    user = await town.add("mai")

    answer = await client.put(f"/users/{user.id}", headers=await _bearer(town, "red-owner"), json=body)

    assert (answer.status_code, answer.json()["message"]) == (400, message)


async def test_a_role_taken_away_is_gone_from_a_token_that_was_just_used(
    town: Town, client: httpx2.AsyncClient
) -> None:
    second = await town.add("second", Role.OWNER)
    headers = await _bearer(town, "second")
    assert (await client.get("/users", headers=headers)).status_code == 200

    await client.put(
        f"/users/{second.id}", headers=await _bearer(town, "red-owner"), json={"roles": ["organization.viewer"]}
    )

    assert (await client.get("/users", headers=headers)).status_code == 401
    assert (await client.get("/users", headers=await _bearer(town, "second"))).status_code == 403


# --- organizations ---------------------------------------------------------------------------------------------


async def test_the_life_of_an_organization(town: Town, client: httpx2.AsyncClient) -> None:
    headers = await _bearer(town, "admin")

    made = await client.post("/organizations", headers=headers, json={"name": "Green"})
    organization = made.json()
    path = f"/organizations/{organization['_id']}"
    changed = await client.put(path, headers=headers, json={"description": "As grass"})
    listed = await client.get("/organizations?search=gree", headers=headers)
    gone = await client.delete(path, headers=headers)
    after = await client.get(path, headers=headers)

    assert made.status_code == 201
    assert list(organization) == ["_id", "name", "description", *HISTORY]
    assert organization["owner"] == {"orgId": organization["_id"], "userId": town.admin.user_id}
    assert (changed.json()["name"], changed.json()["description"]) == ("Green", "As grass")
    assert listed.json()["data"] == [changed.json()]
    assert listed.json()["statistics"] == {"total": 1}
    assert gone.status_code == 200
    assert after.json()["message"] == f"Organization with ID {organization['_id']} not found"


async def test_organizations_are_the_operators_business(town: Town, client: httpx2.AsyncClient) -> None:
    headers = await _bearer(town, "red-owner")

    made = await client.post("/organizations", headers=headers, json={"name": "Green"})
    own = await client.get(f"/organizations/{town.red.id}", headers=headers)
    other = await client.get(f"/organizations/{town.blue.id}", headers=headers)
    full = await client.delete(f"/organizations/{town.admin.org_id}", headers=await _bearer(town, "admin"))

    assert (made.status_code, own.status_code, other.status_code, full.status_code) == (403, 200, 404, 409)


# --- both ports ------------------------------------------------------------------------------------------------


async def test_the_other_port_has_logins_but_no_users(town: Town) -> None:
    iam = town.iam
    routes = auth_routes(sessions=iam.sessions, tokens=iam.verifier, published_keys=iam.signer.published_keys)
    app = JsonBodies(application(title="AIWM", description="", routers=[routes]), max_bytes=100_000)

    async with calling(Front(Asgi(app), hosts=Hosts({ANY}), log=lambda _: None)) as client:
        login = await client.post("/auth/login", json={"username": "red-owner", "password": PASSWORD})
        users = await client.get("/users", headers={"authorization": f"Bearer {login.json()['accessToken']}"})

    assert (login.status_code, users.status_code) == (200, 404)
    caller: Principal = await iam.verifier.verify(login.json()["accessToken"].encode())
    assert caller.username == "red-owner"
