"""Who may do what, cell by cell: each route of both programs, each kind of caller, each relation, each scope.

`TABLE` is the contract, and the routes are those of the running programs: one that is not in the table fails. Every
cell is tried. What is refused must have changed nothing, what is allowed and changes something must stand in the audit
log, and what a list must not show must not be in it.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import pytest
import pytest_asyncio
from fastapi import FastAPI

from aiwm.domain.ids import new_id
from aiwm.domain.users import Role, User
from aiwm.store.ledger import LedgerStore
from inside import Caller, Inside, api_based, inside
from store_rows import usage_row

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

NOWHERE = "http://127.0.0.1:1"
"""Nobody listens there: 502 says that a caller was let through."""


class Who(StrEnum):
    NOBODY = "nobody"
    NO_ROLE = "no role"
    VIEWER = "viewer"
    EDITOR = "editor"
    OWNER = "owner"
    OPERATOR = "operator"
    KEY = "API key"
    LIMITED_KEY = "API key for another deployment"


RANKS = {Who.NO_ROLE: 0, Who.VIEWER: 1, Who.EDITOR: 2, Who.OWNER: 3, Who.OPERATOR: 4, Who.KEY: 1, Who.LIMITED_KEY: 1}
ROLES = {Who.VIEWER: Role.VIEWER, Who.EDITOR: Role.EDITOR, Who.OWNER: Role.OWNER, Who.OPERATOR: Role.UNIVERSE_OWNER}
KEYS = (Who.KEY, Who.LIMITED_KEY)


class Relation(StrEnum):
    """Whose the thing is."""

    OWN = "own"
    OTHER = "another organization's"
    ACTING = "another organization's, acting in it with X-Organization-Id"


class Scope(StrEnum):
    """Of the model that it is, or that is deployed."""

    MINE = "private, the caller's"
    PRIVATE = "private, a colleague's"
    ORG = "org"
    PUBLIC = "public"


class Rule(StrEnum):
    OPEN = "open"
    """Needs no credential."""
    ACCOUNT = "account"
    """A login's own affairs: any role, but no API key."""
    TOKEN = "token"
    """Any good credential."""
    MINE = "mine"
    """Names nothing of another: decided by the role alone."""
    THING = "thing"
    """One thing of the organization."""
    MODEL = "model"
    """One model: its scope decides, too."""
    DEPLOY = "deploy"
    """Makes a deployment of a model."""
    INFER = "infer"
    LIST = "list"
    ORGANIZATION = "organization"
    NEW_USER = "new user"


@dataclass(frozen=True)
class Entry:
    rule: Rule
    least: Role | None = None
    """The least role that may."""
    thing: str = ""
    """What is made for the cell, and named by `{id}`."""
    body: Mapping[str, Any] | None = None
    good: int = 200
    """What an allowed request is answered."""
    told: bool = False
    """Whether it is a change that the audit log tells."""


V, E, O, U = Role.VIEWER, Role.EDITOR, Role.OWNER, Role.UNIVERSE_OWNER  # noqa: E741
NEW_USER = {"password": "correct horse", "roles": ["organization.viewer"]}
LIMIT = {"subject": {"type": "user", "id": "somebody"}, "requestsPerMinute": 5}
WRONG_CHANGE = {"currentPassword": "x", "newPassword": "short"}
DOCS = ("/openapi.json", "/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css",
        "/docs/favicon-32x32.png")  # fmt: skip

_BOTH: Final[dict[tuple[str, str], Entry]] = {
    **{("GET", path): Entry(Rule.OPEN) for path in DOCS},
    ("POST", "/auth/login"): Entry(Rule.OPEN, body={}, good=400),
    ("POST", "/auth/refresh-token"): Entry(Rule.OPEN, body={}, good=400),
    ("GET", "/.well-known/jwks.json"): Entry(Rule.OPEN),
    ("GET", "/auth/verify-token"): Entry(Rule.TOKEN),
    ("POST", "/auth/logout"): Entry(Rule.ACCOUNT),
    ("GET", "/auth/profile"): Entry(Rule.ACCOUNT),
    # Let through to be told that the new password is too short.
    ("POST", "/auth/change-password"): Entry(Rule.ACCOUNT, body=WRONG_CHANGE, good=400),
}
TABLE: Final[dict[tuple[str, str, str], Entry]] = {
    **{("AIWM", *route): entry for route, entry in _BOTH.items()},
    **{("IAM", *route): entry for route, entry in _BOTH.items()},
    ("AIWM", "GET", "/healthz"): Entry(Rule.OPEN),
    ("AIWM", "GET", "/readyz"): Entry(Rule.OPEN),
    ("AIWM", "GET", "/metrics"): Entry(Rule.OPEN),
    ("AIWM", "POST", "/models"): Entry(Rule.MINE, E, body=api_based(), good=201, told=True),
    ("AIWM", "GET", "/models"): Entry(Rule.LIST, V, "model"),
    ("AIWM", "GET", "/models/{id}"): Entry(Rule.MODEL, V, "model"),
    ("AIWM", "PUT", "/models/{id}"): Entry(Rule.MODEL, E, "model", {"description": "New"}, told=True),
    ("AIWM", "DELETE", "/models/{id}"): Entry(Rule.MODEL, E, "model", told=True),
    ("AIWM", "POST", "/models/{id}/activate"): Entry(Rule.MODEL, E, "inactive model", told=True),
    ("AIWM", "POST", "/models/{id}/deactivate"): Entry(Rule.MODEL, E, "model", told=True),
    # Let through to be told that a provider's model has no files.
    ("AIWM", "POST", "/models/{id}/download"): Entry(Rule.MODEL, E, "model", good=400),
    ("AIWM", "POST", "/deployments"): Entry(Rule.DEPLOY, E, "model", {"name": "New"}, 201, told=True),
    ("AIWM", "GET", "/deployments"): Entry(Rule.LIST, V, "deployment"),
    ("AIWM", "GET", "/deployments/{id}"): Entry(Rule.THING, V, "deployment"),
    ("AIWM", "PUT", "/deployments/{id}"): Entry(Rule.THING, E, "deployment", {"description": "New"}, told=True),
    ("AIWM", "DELETE", "/deployments/{id}"): Entry(Rule.THING, E, "stopped deployment", told=True),
    ("AIWM", "POST", "/deployments/{id}/start"): Entry(Rule.THING, E, "stopped deployment", told=True),
    ("AIWM", "POST", "/deployments/{id}/stop"): Entry(Rule.THING, E, "deployment", told=True),
    ("AIWM", "POST", "/deployments/{id}/inference/{path:path}"): Entry(Rule.INFER, V, "deployment", {}, 502),
    # A provider's model has no engine to read from: who is let through is told so.
    ("AIWM", "GET", "/deployments/{id}/logs"): Entry(Rule.THING, E, "deployment", good=400),
    ("AIWM", "GET", "/nodes"): Entry(Rule.MINE, V),
    ("AIWM", "GET", "/nodes/{id}"): Entry(Rule.MINE, V, "node"),
    ("AIWM", "POST", "/resources"): Entry(Rule.MINE, E, "node", {"name": "New"}, 201, told=True),
    ("AIWM", "GET", "/resources"): Entry(Rule.LIST, V, "resource"),
    ("AIWM", "GET", "/resources/{id}"): Entry(Rule.THING, V, "resource"),
    ("AIWM", "PUT", "/resources/{id}"): Entry(Rule.THING, E, "resource", {"cpus": 1}, told=True),
    ("AIWM", "DELETE", "/resources/{id}"): Entry(Rule.THING, E, "resource", told=True),
    ("AIWM", "POST", "/api-keys"): Entry(Rule.MINE, O, body={"name": "New"}, good=201, told=True),
    ("AIWM", "GET", "/api-keys"): Entry(Rule.LIST, O, "key"),
    ("AIWM", "GET", "/api-keys/{id}"): Entry(Rule.THING, O, "key"),
    ("AIWM", "DELETE", "/api-keys/{id}"): Entry(Rule.THING, O, "key", told=True),
    ("AIWM", "POST", "/limits"): Entry(Rule.MINE, O, body=LIMIT, good=201, told=True),
    ("AIWM", "GET", "/limits"): Entry(Rule.LIST, O, "limit"),
    ("AIWM", "GET", "/limits/{id}"): Entry(Rule.THING, O, "limit"),
    ("AIWM", "PUT", "/limits/{id}"): Entry(Rule.THING, O, "limit", {"tokensPerMinute": 5}, told=True),
    ("AIWM", "DELETE", "/limits/{id}"): Entry(Rule.THING, O, "limit", told=True),
    ("AIWM", "GET", "/usage"): Entry(Rule.MINE, V),
    ("AIWM", "GET", "/usage/requests"): Entry(Rule.LIST, V, "request"),
    ("AIWM", "GET", "/usage/requests/{id}"): Entry(Rule.THING, V, "request"),
    ("AIWM", "GET", "/usage/export"): Entry(Rule.MINE, V),
    ("AIWM", "GET", "/audit"): Entry(Rule.LIST, O, "audit"),
    ("IAM", "POST", "/users"): Entry(Rule.NEW_USER, O, body=NEW_USER, good=201, told=True),
    ("IAM", "GET", "/users"): Entry(Rule.LIST, O, "user"),
    ("IAM", "GET", "/users/{id}"): Entry(Rule.THING, O, "user"),
    ("IAM", "PUT", "/users/{id}"): Entry(Rule.THING, O, "user", {"fullname": "New"}, told=True),
    ("IAM", "DELETE", "/users/{id}"): Entry(Rule.THING, O, "user", told=True),
    ("IAM", "POST", "/organizations"): Entry(Rule.MINE, U, body={"name": "New"}, good=201, told=True),
    ("IAM", "GET", "/organizations"): Entry(Rule.LIST, V, "organization"),
    ("IAM", "GET", "/organizations/{id}"): Entry(Rule.ORGANIZATION, V, "organization"),
    ("IAM", "PUT", "/organizations/{id}"): Entry(
        Rule.ORGANIZATION, O, "organization", {"description": "New"}, told=True
    ),
    ("IAM", "DELETE", "/organizations/{id}"): Entry(Rule.ORGANIZATION, U, "empty organization", told=True),
}
SCOPED = ("model", "inactive model", "deployment", "stopped deployment")


def expected(method: str, entry: Entry, who: Who, relation: Relation, scope: Scope) -> int:
    """The status that the contract gives this cell; of a list, 200 shows the thing and 0 does not."""
    rule, operator = entry.rule, who is Who.OPERATOR
    if rule is Rule.OPEN:
        return entry.good
    if who is Who.NOBODY:
        return 401
    if relation is Relation.ACTING and not operator:
        return 403
    if rule in {Rule.TOKEN, Rule.ACCOUNT}:
        return 403 if rule is Rule.ACCOUNT and who in KEYS else entry.good
    assert entry.least is not None
    if rule is Rule.INFER and who is Who.LIMITED_KEY:
        return 403
    if RANKS[who] < entry.least.rank:
        return 403
    here = relation is not Relation.OTHER
    if rule is Rule.MINE:
        return entry.good
    if rule is Rule.NEW_USER:
        return entry.good if here or operator else 403
    if rule is Rule.ORGANIZATION:
        if method == "DELETE":
            return 409 if relation is Relation.OWN else entry.good  # Nobody deletes the own one.
        return entry.good if relation is Relation.OWN or operator else 404
    if entry.thing == "organization":
        return entry.good if relation is Relation.OWN or operator else 0
    if entry.thing == "audit":
        return entry.good if here else 0
    seen = here
    if entry.thing in {"model", "inactive model"}:
        seen = scope is Scope.PUBLIC or (here and (operator or scope is not Scope.PRIVATE))
    if who is Who.LIMITED_KEY and entry.thing in (*SCOPED, "request"):
        seen = False
    if rule is Rule.LIST:
        return entry.good if seen else 0
    if rule is Rule.DEPLOY:
        return entry.good if seen else 400
    if not seen:
        return 404
    return 403 if rule is Rule.MODEL and not here and method != "GET" else entry.good


# --- the world that the cells are tried in ---------------------------------------------------------------------


@dataclass
class World:
    aiwm: Inside
    orgs: dict[bool, str]
    """The callers' own organization under True, another one under False."""
    people: dict[Who, User]
    keys: dict[Who, str]
    things: dict[tuple[str, Scope, str, bool], dict[str, Any]] = field(default_factory=dict)
    """What was made for cells and is still as it was made."""
    number: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def headers(self, who: Who, *, org: str = "", acting: str = "", roles: tuple[Role, ...] | None = None) -> Any:
        if who is Who.NOBODY:
            credential = {}
        elif who in KEYS:
            credential = {"authorization": f"Bearer {self.keys[who]}"}
        else:
            user = self.people[who]
            user = replace(user, org_id=org or user.org_id, roles=user.roles if roles is None else roles)
            assert self.aiwm.program.signer is not None
            credential = {"authorization": f"Bearer {self.aiwm.program.signer.sign(user, new_id())}"}
        return credential | ({"x-organization-id": acting} if acting else {})

    async def thing(self, noun: str, scope: Scope, who: Who, *, own: bool) -> dict[str, Any]:
        """One that the cell may use; made anew when an earlier cell has changed it."""
        maker = who if scope is Scope.MINE else Who.NOBODY
        key = (noun, scope, maker, own)
        if key not in self.things:
            self.things[key] = await self._make(noun, scope, who, own=own)
        return self.things[key]

    def spent(self, noun: str, scope: Scope, who: Who, *, own: bool) -> None:
        self.things.pop((noun, scope, who if scope is Scope.MINE else Who.NOBODY, own), None)

    async def _make(self, noun: str, scope: Scope, who: Who, *, own: bool) -> dict[str, Any]:
        org, name = self.orgs[own], f"thing-{next(self.number)}"
        if noun == "organization":
            return {"_id": org, "name": ""}
        if noun == "node":
            return {"_id": self.aiwm.program.nodes.here.id}
        if noun == "resource":
            body = {"name": name, "nodeId": self.aiwm.program.nodes.here.id}
            return await self._made("/resources", body, org)
        if noun == "empty organization":
            return {"_id": org} if own else await self._made("/organizations", {"name": name}, org, iam=True)
        if noun == "user":
            return await self._made("/users", NEW_USER | {"username": name}, org, iam=True)
        if noun == "key":
            return await self._made("/api-keys", {"name": name}, org)
        if noun == "limit":
            subject = {"type": "user", "id": name}
            return {"name": name, **await self._made("/limits", LIMIT | {"subject": subject}, org)}
        if noun == "request":
            row = usage_row(new_id(), org_id=org)
            await LedgerStore(self.aiwm.database).add([row])
            return {"_id": row.request_id}
        if noun == "audit":
            await self._made("/api-keys", {"name": name}, org)
            return {"_id": "", "name": name}
        # A key's own are its maker's: the owner's.
        maker = who if scope is Scope.MINE and who in self.people else Who.OWNER if scope is Scope.MINE else None
        config = {"name": name, "apiEndpoint": NOWHERE, "scope": "private" if "private" in scope else scope}
        model = await self._made("/models", api_based(**config), org, maker=maker)
        if noun == "inactive model":
            await self._post(f"/models/{model['_id']}/deactivate", org)
        if noun.endswith("model"):
            return model
        deployment = await self._made("/deployments", {"name": name, "modelId": model["_id"]}, org)
        if noun == "stopped deployment":
            await self._post(f"/deployments/{deployment['_id']}/stop", org)
        return deployment

    async def _made(self, path: str, body: Any, org: str, *, iam: bool = False, maker: Who | None = None) -> Any:
        if maker is None:
            # A colleague: somebody of that organization whom no cell calls as.
            user = replace(self.people[Who.OPERATOR], id="c" * 24, org_id=org)
            assert self.aiwm.program.signer is not None
            headers = {"authorization": f"Bearer {self.aiwm.program.signer.sign(user, new_id())}"}
        else:
            headers = self.headers(maker, org=org, roles=(Role.EDITOR,))
        answer = await Caller(self.aiwm, headers)("POST", path, iam=iam, json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def _post(self, path: str, org: str) -> None:
        answer = await Caller(self.aiwm, self.headers(Who.OPERATOR, acting=org))("POST", path)
        assert answer.status_code == 200, answer.text


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with inside(tmp_path_factory.mktemp("roles") / "data", private_upstreams=("127.0.0.1",)) as aiwm:
        admin = await aiwm.program.users.by_username("admin")
        assert admin is not None
        world = World(aiwm, {}, {Who.OPERATOR: admin}, {})
        operator = Caller(aiwm, world.headers(Who.OPERATOR))
        for own in (True, False):
            made = await operator("POST", "/organizations", iam=True, json={"name": "Own" if own else "Other"})
            world.orgs[own] = made.json()["_id"]
        for who, role in ROLES.items():
            body = NEW_USER | {"username": f"the-{who}", "roles": [role], "orgId": world.orgs[True]}
            made = await operator("POST", "/users", iam=True, json=body)
            assert made.status_code == 201, made.text
            user = await aiwm.program.users.get(None, made.json()["_id"])
            assert user is not None
            world.people[who] = user
        world.people[Who.NO_ROLE] = replace(world.people[Who.VIEWER], roles=())
        elsewhere = await world.thing("deployment", Scope.ORG, Who.NOBODY, own=True)
        world.things.clear()
        owner = Caller(aiwm, world.headers(Who.OWNER))
        for who, limit in ((Who.KEY, {}), (Who.LIMITED_KEY, {"deployments": [elsewhere["_id"]]})):
            made = await owner("POST", "/api-keys", json={"name": "A program"} | limit)
            world.keys[who] = made.json()["apiKey"]
        yield world


class Changes:
    """Whether anybody has written to the database since the last look."""

    def __init__(self, aiwm: Inside) -> None:
        self._connection = sqlite3.connect(aiwm.folder / "aiwm.db", isolation_level=None)
        self.any()

    def any(self) -> bool:
        [version] = self._connection.execute("PRAGMA data_version").fetchone()
        before, self._version = getattr(self, "_version", None), version
        return bool(before != version)

    def told(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM audit").fetchone()[0])

    def close(self) -> None:
        self._connection.close()


CELLS: list[str] = []


@pytest.mark.parametrize("route", TABLE, ids=" ".join)
async def test_every_cell_is_answered_as_the_table_says(world: World, route: tuple[str, str, str]) -> None:
    program, method, path = route
    entry = TABLE[route]
    wrong = []
    with closing(Changes(world.aiwm)) as changes:
        for who, relation in itertools.product(Who, Relation):
            for scope in Scope if entry.thing in SCOPED else (Scope.ORG,):
                cell = f"{' '.join(route)} | {who} | {relation} | {scope}"
                CELLS.append(cell)
                found = await _tried(world, program, method, path, entry, who, relation, scope, changes)
                wanted = expected(method, entry, who, relation, scope)
                if found != wanted:
                    wrong.append(f"{cell}: {found} instead of {wanted}")
    assert wrong == []


async def _tried(
    world: World,
    program: str,
    method: str,
    path: str,
    entry: Entry,
    who: Who,
    relation: Relation,
    scope: Scope,
    changes: Changes,
) -> int:
    own = relation is Relation.OWN
    org = world.orgs[own]
    thing = await world.thing(entry.thing, scope, who, own=own) if entry.thing else {}
    body = None if entry.body is None else dict(entry.body)
    if entry.rule is Rule.DEPLOY:
        body = {"name": "New", "modelId": thing["_id"]}
    if path == "/resources" and body is not None:
        body["nodeId"] = thing["_id"]
    if entry.rule is Rule.NEW_USER:
        body = {**NEW_USER, "username": f"new-{next(world.number)}"}
        if relation is Relation.OTHER:
            body["orgId"] = org
    url = path.replace("{id}", thing.get("_id", "")).replace("{path:path}", "v1/chat/completions")
    if entry.thing == "request":
        url += "?limit=100" if entry.rule is Rule.LIST else ""
    elif entry.rule is Rule.LIST:
        url += f"?limit=100&search={thing.get('name', thing.get('username'))}"
    headers = world.headers(who, acting=org if relation is Relation.ACTING else "")
    before = changes.told()
    changes.any()

    caller = Caller(world.aiwm, headers)
    asked = {"iam": program == "IAM"} | ({} if body is None else {"json": body})
    answer = await caller(method, url, **asked)

    changed, told = changes.any(), changes.told() - before
    if answer.status_code >= 400:
        assert answer.headers["x-aiwm-error"] == "gateway"
        if changed and entry.rule is not Rule.INFER:
            # Once a minute the program writes down by itself which keys were used: was it that?
            assert (await caller(method, url, **asked)).status_code == answer.status_code
            assert not changes.any(), answer.text
    elif entry.told:
        assert told == 1, (told, answer.text)
        world.spent(entry.thing, scope, who, own=own)
    elif changed:
        assert (await caller(method, url, **asked)).status_code == answer.status_code
        assert not changes.any(), answer.text
    if entry.rule is Rule.LIST and answer.status_code == 200:
        return 200 if _shows(answer.json()["data"], entry, thing, org) else 0
    return answer.status_code


def _shows(listed: list[dict[str, Any]], entry: Entry, thing: Mapping[str, Any], org: str) -> bool:
    if entry.thing == "audit":
        return thing["name"] in {each["objectName"] for each in listed}
    return thing["_id"] in {each["_id"] for each in listed}


# --- the table is whole ----------------------------------------------------------------------------------------


def _programs(part: Any) -> Iterator[FastAPI]:
    """The applications inside, whatever is wrapped around them."""
    if isinstance(part, FastAPI):
        yield part
    elif isinstance(part, asyncio.Future):
        yield from _programs(part.result())
    elif type(part).__module__.startswith("aiwm."):
        for inner in getattr(part, "__dict__", {}).values():
            yield from _programs(inner)


def _routes(routes: Any) -> Iterator[tuple[str, str]]:
    for route in routes:
        if hasattr(route, "original_router"):
            yield from _routes(route.original_router.routes)
        else:
            for method in route.methods - {"HEAD"}:
                yield method, route.path


async def test_every_route_of_the_running_programs_is_in_the_table_and_no_other(world: World) -> None:
    live = set()
    await world.aiwm.program.whole
    for name, program in (("AIWM", world.aiwm.program.gateway), ("IAM", world.aiwm.program.identity)):
        [application] = _programs(program)
        live |= {(name, method, path) for method, path in _routes(application.routes)}
    assert len(live) > 50
    assert live == set(TABLE)


async def test_the_cells_are_counted() -> None:
    """Shown with `pytest -s`."""
    scoped = sum(entry.thing in SCOPED for entry in TABLE.values())
    cells = len(Who) * len(Relation) * (len(TABLE) - scoped + scoped * len(Scope))
    print(f"\n{len(TABLE)} routes, {cells} cells of the role table, {len(CELLS)} tried in this process")
    assert cells > 2000
