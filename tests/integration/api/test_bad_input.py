"""Bad input: always one error of one shape that names the field, never a 500, and nothing changed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from aiwm.domain.ids import new_id
from aiwm.domain.users import Role
from inside import KEY, Caller, Inside, api_based, self_hosted

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHAPE = ["statusCode", "message", "error", "timestamp", "path", "correlationId"]


def _require_refusal(answer: httpx2.Response, *statuses: int) -> Any:
    """The message, of an answer that is an error as all of ours are."""
    context = f"{answer.request.method} {answer.request.url} {answer.request.content[:200]!r}: {answer.text[:500]}"
    assert answer.status_code in statuses, context
    told = answer.json()
    assert list(told) == SHAPE, context
    assert told["statusCode"] == answer.status_code
    assert told["error"] == HTTPStatus(answer.status_code).phrase
    assert told["path"] == httpx2.URL(str(answer.request.url)).path
    assert told["correlationId"] == answer.headers["x-correlation-id"]
    assert abs(time.time() - datetime.fromisoformat(told["timestamp"]).timestamp()) < 60
    assert answer.headers["x-aiwm-error"] == "gateway"
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    for never in ("Traceback", "pydantic", "sqlalchemy", ".py", KEY):
        assert never not in answer.text, context
    assert len(answer.content) < 2000, context
    return told["message"]


# --- fields --------------------------------------------------------------------------------------------------

WRONG_TYPES: tuple[Any, ...] = (5, -1, 1.5, True, [], {}, ["x"], {"x": "y"}, 10**30)
CONTROL = ("\x00", "a\x00b", "a\rb", "a\nb", "a\x1bb", "a\x7fb", "a\x85b", "a\u2028b")


def _text(most: int, *, empty: bool = False, blank: bool = True, lines: bool = False) -> tuple[Any, ...]:
    """What a text field must not be."""
    return (
        *WRONG_TYPES,
        None,
        "x" * (most + 1),
        "ü" * 100_000,
        *(() if empty else ("",)),
        *(() if blank else (" ", "\u3000 ")),
        *(("\x00", "a\x1bb", "a\x85b") if lines else CONTROL),
    )


NAME = _text(100, blank=False)
DESCRIPTION = _text(500, empty=True, lines=True)
CHOICE = (*WRONG_TYPES, None, "", "LLM", "llm ", "unknown", "llm\x00", "x" * 1000)
ENDPOINT = (
    *_text(2000), "api.openai.com", "ftp://x.org", "https://", "https:///v1", "https://u:p@x.org", "https://x.org?a=b",
    "https://x.org#f", "https://x.org:99999", "https://x.org:port", "javascript:alert(1)", "https://x.org/../a",
    "https://x.org/a b", "https://x.org\\a", "//x.org", "https://[::1", "https://x..org", "https://x.org/%00",
    "https://x.org/%zz", "https://0x7f.1", " https://x.org",
)  # fmt: skip
CONFIG = (
    5, None, True, "x", [], ["apiKey"], {"apiKey": 5}, {"apiKey": None}, {"apiKey": ["k"]}, {"apiKey": {"k": "v"}}, {},
    {"apiKey": ""}, {"apiKey": "k\r\nX: y"}, {"apiKey": "k\x00"}, {"apiKey": "ключ"}, {"apiKey": "k" * 8193},
    {"apiKey": "k", "x-api-key": "k"}, {"apiKey": "k", "unknown": "x"}, {"apiKey": "k", "": "x"},
    {"apiKey": "k", "header-": "x"}, {"apiKey": "k", "header-Host": "x"}, {"apiKey": "k", "header-Cookie": "x"},
    {"apiKey": "k", "header-X\r\nY": "x"}, {"apiKey": "k", "timeout": "0"}, {"apiKey": "k", "timeout": 5},
    {"apiKey": "k", **{f"header-X-{n}": "x" for n in range(64)}}, {"apiKey": "k", "n" * 5000: "x"},
)  # fmt: skip
IDENTIFIER = (
    *(bad for bad in WRONG_TYPES if bad),
    "",
    "x",
    "a" * 23,
    "a" * 25,
    "g" * 24,
    "a" * 23 + "\n",
    "a" * 23 + "\x00",
    "/" * 24,
)
MODELS = (5, "gpt-4", {}, [], [5], [None], [""], ["a\nb"], ["x" * 201], ["x"] * 101, [["x"]], True)

PRICES = (
    5, "free", {}, True, [5], ["x"], [[]], [None], [{}], [{"from": "2026-01-01"}], [{"input": "1"}], [{"input": True}],
    [{"input": -1}], [{"input": 1e300}], [{"input": 10**40}], [{"input": 1e-10}], [{"input": None}], [{"input": []}],
    [{"input": 1, "unknown": 1}], [{"input": 1, "since": "2026-01-01"}], [{"input": 1, "cacheWrite5M": 1}],
    [{"input": 1, "from": 5}], [{"input": 1, "from": "today"}], [{"input": 1, "from": "2026-02-30"}],
    [{"input": 1, "from": "2026-01-01T00:00:00Z"}], [{"input": 1, "from": "1969-01-01"}], [{"input": 1, "from": []}],
    [{"input": 1}, {"input": 2}], [{"input": 1}] * 101, [{"input": 1, "from": "2026-01-01"}] * 2,
)  # fmt: skip

API_BASED = {
    "name": NAME,
    "type": CHOICE,
    "description": DESCRIPTION,
    "scope": CHOICE,
    "deploymentType": CHOICE,
    "provider": (*_text(100), "OpenAI", "open ai", "-x", "../x"),
    "apiEndpoint": ENDPOINT,
    "modelIdentifier": _text(200),
    "apiConfig": CONFIG,
    "prices": PRICES,
}
SELF_HOSTED = {
    "repository": (*_text(500), "a/b/c", "../x", "https://huggingface.co/org/name", "file://x", "file:///etc"),
    "framework": _text(100),
    "fileName": (*(bad for bad in _text(500) if bad is not None), "../a.gguf", "/a.gguf", "a//b", "a\\b"),
    "fileSize": (-1, 1.5, True, "5", "x", [], {}, 1 << 63, 10**40, 1e300),
    "downloadPath": (*(bad for bad in _text(1000) if bad is not None), "models", "/etc/passwd", "/nowhere"),
}
CHANGE_OF_MODEL = {name: bad for name, bad in API_BASED.items() if name != "deploymentType"}
NEW_DEPLOYMENT = {
    "name": NAME,
    "description": DESCRIPTION,
    "modelId": (*IDENTIFIER, None),
    "nodeId": IDENTIFIER,
    "resourceId": IDENTIFIER,
    "allowedModels": MODELS,
    "streamUsage": CHOICE,
    "onDisconnect": CHOICE,
}
CHANGE_OF_DEPLOYMENT = {
    name: bad for name, bad in NEW_DEPLOYMENT.items() if name not in {"modelId", "nodeId", "resourceId"}
}
USERNAME = (*WRONG_TYPES, None, "", "ab", "a b", "a\x00bc", "a\nbc", "x" * 101, "x" * 5000)
PASSWORD = (*WRONG_TYPES, None, "", "short", "x" * 129, "x" * 5000)
ROLES = (5, None, "organization.viewer", {}, [5], [None], ["admin"], ["organization.owner\x00"], [["x"]], ["x"] * 101)
NEW_USER = {
    "username": USERNAME,
    "password": PASSWORD,
    "roles": ROLES,
    "orgId": (*WRONG_TYPES, "", "x", "x" * 256, "a" * 24, "\x00"),
    "fullname": (*WRONG_TYPES, None, "x" * 201, *CONTROL),
    "status": CHOICE,
}
NUMBER = (-1, 0, 1.5, True, "5", "", [], {}, {"x": 1}, 10**9 + 1, 10**40, 1e300)
BUDGET = (
    5, "x", [], True, {}, {"usd": 5}, {"per": "day"}, {"usd": 0, "per": "day"}, {"usd": -1, "per": "day"},
    {"usd": "5", "per": "day"}, {"usd": True, "per": "day"}, {"usd": None, "per": "day"}, {"usd": 1e-7, "per": "day"},
    {"usd": 10**7, "per": "day"}, {"usd": 1e300, "per": "day"}, {"usd": 5, "per": "week"}, {"usd": 5, "per": None},
    {"usd": 5, "per": "Day"}, {"usd": 5, "per": ["day"]}, {"usd": 5, "per": "day", "unknown": 1},
)  # fmt: skip
NUMBERS_OF_LIMIT = {
    "requestsPerMinute": NUMBER,
    "tokensPerMinute": NUMBER,
    "concurrentRequests": NUMBER,
    "budget": BUDGET,
}
SUBJECT = (
    5, None, "x", [], True, {}, {"type": "user"}, {"id": "x"}, {"type": "User", "id": "x"}, {"type": None, "id": "x"},
    {"type": "user", "id": 5}, {"type": "user", "id": None}, {"type": "user", "id": ""}, {"type": "user", "id": " "},
    {"type": "user", "id": "x" * 256}, {"type": "user", "id": "a\x00b"}, {"type": "user", "id": "a\nb"},
    {"type": "apiKey", "id": "x"}, {"type": "apiKey", "id": "a" * 24}, {"type": "deployment", "id": "a" * 24},
    {"type": "deployment", "id": "a" * 23}, {"type": "organization", "id": "a" * 24},
    {"type": "user", "id": "x", "orgId": "x"},
)  # fmt: skip
CHANGE_OF_USER = {name: bad for name, bad in NEW_USER.items() if name != "orgId"}
ORGANIZATION = {"name": NAME, "description": DESCRIPTION}


COUNT = (-1, "1", 1.5, True, [], {}, 10**40, None)
ARGUMENTS = (5, "x", [], True, {"a": []}, {"a": {}}, {"a": None}, {"a": "x" * 201}, {"n" * 101: 1}, {"a": 1})
OF_ENGINES = {
    "arguments": ARGUMENTS,
    "replicas": (*COUNT, 0, 65),
    "idleTimeout": (*(bad for bad in COUNT if bad is not None), 0, 30 * 86_400 + 1),
}
RESOURCE = {
    "name": NAME,
    "gpus": (*COUNT, 1025),
    "cpus": (-1, "1", True, [], {}, 1e300, None),
    "memoryBytes": (*COUNT, 1 << 61),
}


@dataclass
class Route:
    """A route that reads a body: one that is good, and what each field of it must not be."""

    method: str
    path: str
    good: dict[str, Any]
    bad: dict[str, tuple[Any, ...]]
    required: tuple[str, ...] = ()
    iam: bool = False
    title: str = ""
    statuses: tuple[int, ...] = (400,)
    things: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.title or f"{self.method} {self.path}"


LIMIT = {"subject": {"type": "user", "id": "x"}, "requestsPerMinute": 5}
SECRET_WORDS = "a long password"
PERSON = {
    "username": "someone",
    "password": SECRET_WORDS,
    "roles": ["organization.viewer"],
    "fullname": "",
    "status": "active",
}
ROUTES_WITH_BODIES = [
    Route("POST", "/models", api_based(), API_BASED,
          ("name", "type", "deploymentType", "provider", "apiEndpoint", "modelIdentifier", "apiConfig")),
    Route("POST", "/models", self_hosted(fileSize=5), SELF_HOSTED, ("name", "type", "repository", "framework"),
          title="POST /models self-hosted"),
    Route("PUT", "/models/{model}", {"name": "New"}, CHANGE_OF_MODEL),
    Route("PUT", "/models/{hosted}", {"name": "New"}, SELF_HOSTED, title="PUT /models self-hosted"),
    Route("POST", "/deployments", {"name": "x", "modelId": "{model}"}, NEW_DEPLOYMENT, ("name", "modelId")),
    Route("PUT", "/deployments/{deployment}", {"name": "New"}, CHANGE_OF_DEPLOYMENT),
    Route("POST", "/limits", {"subject": {"type": "user", "id": "x"}, "requestsPerMinute": 5},
          {"subject": SUBJECT, **NUMBERS_OF_LIMIT}, ("subject",)),
    Route("PUT", "/limits/{limit}", {"requestsPerMinute": 5}, NUMBERS_OF_LIMIT),
    Route("POST", "/deployments", {"name": "x", "modelId": "{model}"}, OF_ENGINES,
          title="POST /deployments of engines"),
    Route("PUT", "/deployments/{deployment}", {"name": "New"}, OF_ENGINES, title="PUT /deployments of engines"),
    Route("POST", "/resources", {"name": "x", "nodeId": "{node}"}, RESOURCE | {"nodeId": IDENTIFIER, "type": CHOICE},
          ("name", "nodeId")),
    Route("PUT", "/resources/{resource}", {"name": "New"}, RESOURCE),
    Route("POST", "/auth/login", {"username": "admin", "password": "wrong password"},
          {"username": WRONG_TYPES, "password": WRONG_TYPES}, ("username", "password"), iam=True),
    Route("POST", "/auth/refresh-token", {"refreshToken": "x"}, {"refreshToken": WRONG_TYPES},
          ("refreshToken",), iam=True),
    Route("POST", "/auth/change-password", {"currentPassword": SECRET_WORDS, "newPassword": SECRET_WORDS},
          {"currentPassword": WRONG_TYPES, "newPassword": WRONG_TYPES}, ("currentPassword", "newPassword"), iam=True),
    Route("POST", "/users", PERSON, NEW_USER, ("username", "password", "roles"), iam=True),
    Route("PUT", "/users/{user}", {"fullname": "New"}, CHANGE_OF_USER, iam=True),
    Route("POST", "/organizations", {"name": "x"}, ORGANIZATION, ("name",), iam=True),
    Route("PUT", "/organizations/{organization}", {"name": "x"}, ORGANIZATION, iam=True),
]  # fmt: skip
EVERY_ROUTE = pytest.mark.parametrize("route", ROUTES_WITH_BODIES, ids=str)


@dataclass
class Office:
    """An operator, and one of each thing that the routes are about."""

    aiwm: Inside
    operator: Caller
    things: dict[str, str]

    async def send(self, route: Route, body: Any, **request: Any) -> httpx2.Response:
        path = route.path.format(**self.things)
        content = body if isinstance(body, bytes) else json.dumps(self._about(body)).encode()
        return await self.operator(route.method, path, iam=route.iam, content=content, **request)

    def _about(self, body: Any) -> Any:
        if isinstance(body, dict) and body.get("modelId") == "{model}":
            return body | {"modelId": self.things["model"]}
        if isinstance(body, dict) and body.get("nodeId") == "{node}":
            return body | {"nodeId": self.things["node"]}
        return body


@pytest_asyncio.fixture(loop_scope="module")
async def office(aiwm: Inside) -> Office:
    operator = aiwm.caller(Role.UNIVERSE_OWNER)
    organization = (await operator("POST", "/organizations", iam=True, json={"name": "Office"})).json()["_id"]
    person = PERSON | {"username": f"user-{organization}", "orgId": organization}
    made = await operator("POST", "/users", iam=True, json=person)
    assert made.status_code == 201, made.text
    operator = aiwm.caller(Role.UNIVERSE_OWNER, org=organization)
    model, hosted = await operator.model(), await operator.model(**self_hosted())
    node = aiwm.program.nodes.here.id
    resource = await operator("POST", "/resources", json={"name": "Small", "nodeId": node})
    things = {
        "node": node,
        "resource": resource.json()["_id"],
        "model": model["_id"],
        "hosted": hosted["_id"],
        "deployment": (await operator.deployment(model))["_id"],
        "limit": (await operator("POST", "/limits", json=LIMIT)).json()["_id"],
        "user": made.json()["_id"],
        "organization": organization,
    }
    return Office(aiwm, operator, things)


@EVERY_ROUTE
async def test_every_value_that_a_field_must_not_be_is_refused_by_name(office: Office, route: Route) -> None:
    before = office.aiwm.contents()
    for name, values in route.bad.items():
        for value in values:
            answer = await office.send(route, route.good | {name: value})
            message = _require_refusal(answer, 400)
            # The IAM says of an organization that is not there what it says everywhere.
            said = "organization" if "Organization with ID" in message else name
            assert said.lower() in str(message).lower(), (name, value, message)
    assert office.aiwm.contents() == before


@EVERY_ROUTE
async def test_a_required_field_that_is_missing_is_named(office: Office, route: Route) -> None:
    before = office.aiwm.contents()
    for name in route.required:
        body = {key: value for key, value in route.good.items() if key != name}
        assert _require_refusal(await office.send(route, body), 400) == [f"{name}: is required"]
    if route.required:
        named = _require_refusal(await office.send(route, {}), 400)
        assert {text.split(":")[0] for text in named} <= {*route.required, "deploymentType"}
    assert office.aiwm.contents() == before


UNKNOWN = [
    "x",
    "Name",
    "NAME",
    "_id",
    "orgId ",
    "owner",
    "status\u0000",
    "model_id",
    "__proto__",
    "",
    "n" * 1000,
    "ключ",
]


@EVERY_ROUTE
async def test_an_unknown_field_is_named(office: Office, route: Route) -> None:
    before = office.aiwm.contents()
    for name in UNKNOWN:
        [text] = _require_refusal(await office.send(route, route.good | {name: KEY}), 400)
        assert text.endswith(": is not a field of this request")
        assert text.startswith(name[:100] or "body")
    assert office.aiwm.contents() == before


OBJECTS = frozenset({"deploymentType", "apiConfig", "subject", "budget"})
"""Fields in which an object is not wrong by itself."""


@EVERY_ROUTE
async def test_all_that_is_wrong_is_told_at_once(office: Office, route: Route) -> None:
    wrong = {name: {"no": ["such", "thing"]} for name in route.bad if name not in OBJECTS}
    answer = await office.send(route, route.good | wrong | {"unknown": 1})
    named = {text.split(":")[0] for text in _require_refusal(answer, 400)}
    assert named == {*wrong, "unknown"}


# --- bodies --------------------------------------------------------------------------------------------------


def _broken(route: Route) -> Iterator[bytes]:
    good = json.dumps(route.good).encode()
    name = next(iter(route.good))
    yield from (
        b" ",
        b"{",
        b"null",
        b"5",
        b'"x"',
        b"[]",
        b"true",
        b"[" + good + b"]",
        good[:-1],
        good + b"x",
        good + good,
    )
    yield from (b"[" * 100_000, b'{"a":' * 50_000, b"[" * 1000 + b"]" * 1000, b"\xff\xfe", b"\xef\xbb\xbf" + good)
    yield from (good.decode().encode("utf-16"), good[:-1] + b',"x":NaN}', good[:-1] + b',"x":-Infinity}')
    yield from (good[:-1] + b',"x":' + b"9" * 5000 + b"}", good[:-1] + b',"x":1e999}')
    yield from (good[:-1] + b',"x":"\\ud800"}', good[:-1] + b',"\\udc00":1}', good[:-1] + b',"x":"\xc3\x28"}')
    yield good[:-1] + f',"{name}":"twice"}}'.encode()
    yield b"name=x&type=llm"
    yield b"<xml/>"


@EVERY_ROUTE
async def test_a_body_that_is_no_json_object_is_refused(office: Office, route: Route) -> None:
    before = office.aiwm.contents()
    for body in _broken(route):
        for content_type in (None, "application/json", "application/x-www-form-urlencoded"):
            headers = {} if content_type is None else {"content-type": content_type}
            _require_refusal(await office.send(route, body, headers=headers), 400)
    _require_refusal(await office.send(route, b""), 400)
    assert office.aiwm.contents() == before


@EVERY_ROUTE
async def test_a_body_of_another_type_or_too_large_is_refused(office: Office, route: Route) -> None:
    before = office.aiwm.contents()
    for content_type in (
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/xml",
        "image/png",
        "x" * 500,
        "é",
    ):
        answer = await office.send(route, route.good, headers={"content-type": content_type.encode()})
        assert _require_refusal(answer, 415).endswith("is not read here; send application/json")
    large = json.dumps(route.good).encode()[:-1] + b',"x":"' + b"x" * (1 << 20) + b'"}'
    assert "at most 1048576 bytes" in _require_refusal(await office.send(route, large), 413)
    assert office.aiwm.contents() == before


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "application/json;charset=utf-8",
        "application/x-www-form-urlencoded",
        "application/ld+json",
    ],
)
async def test_json_is_read_under_the_types_that_callers_send_it_as(editor: Caller, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    answer = await editor("POST", "/models", content=json.dumps(api_based()).encode(), headers=headers)
    assert answer.status_code == 201


# --- paths ---------------------------------------------------------------------------------------------------

WITH_ID = [
    ("GET", "/models/{id}", "Model"),
    ("DELETE", "/models/{id}", "Model"),
    ("POST", "/models/{id}/activate", "Model"),
    ("POST", "/models/{id}/deactivate", "Model"),
    ("GET", "/deployments/{id}", "Deployment"),
    ("DELETE", "/deployments/{id}", "Deployment"),
    ("POST", "/deployments/{id}/start", "Deployment"),
    ("POST", "/deployments/{id}/stop", "Deployment"),
    ("GET", "/limits/{id}", "Limit"),
    ("DELETE", "/limits/{id}", "Limit"),
    ("GET", "/users/{id}", "User"),
    ("DELETE", "/users/{id}", "User"),
    ("GET", "/organizations/{id}", "Organization"),
    ("DELETE", "/organizations/{id}", "Organization"),
]
MALFORMED = ["x", "0" * 23, "0" * 25, "67a1b2c3d4e5f6g7h8i9j0k1", "%00", "a%0Ab", "%F0%9F%99%82", "..%2Fmodels", "null",
             "1%20OR%201=1", "%2E%2E", "x" * 5000]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "noun"), WITH_ID, ids=lambda value: str(value))
async def test_an_id_that_is_none_is_refused_and_one_of_nothing_is_not_found(
    office: Office, method: str, path: str, noun: str
) -> None:
    iam = noun in {"User", "Organization"}
    before = office.aiwm.contents()
    for malformed in MALFORMED:
        answer = await office.operator(method, path.replace("{id}", malformed), iam=iam)
        if answer.status_code == 404:
            # A slash in it makes it another path.
            assert "%2F" in malformed
            continue
        assert answer.status_code == 400
        assert answer.json()["message"] == f"{noun} ID must be 24 hexadecimal digits"
    nothing = new_id()
    answer = await office.operator(method, path.replace("{id}", nothing), iam=iam)
    assert _require_refusal(answer, 404) == f"{noun} with ID {nothing} not found"
    assert office.aiwm.contents() == before


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/model", "/models/", "/Models", "//models", "/models/{id}/nothing",
     "/deployments/{id}/inference", "/auth", "/auth/nothing", "/api/models",
     "/.env", "/admin", "/redoc", "/docs/nothing.js"],
)  # fmt: skip
async def test_a_path_that_is_none_is_not_found(editor: Caller, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = await editor(method, path.replace("{id}", new_id()))
        if "inference" in path:
            assert answer.status_code == 404
            continue
        message = _require_refusal(answer, 404)
        assert message.endswith("there is no such path; GET /docs lists them all")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/models", "GET, POST"),
        ("DELETE", "/models", "GET, POST"),
        ("PATCH", "/models/{id}", "GET, PUT, DELETE"),
        ("POST", "/models/{id}", "GET, PUT, DELETE"),
        ("GET", "/models/{id}/activate", "POST"),
        ("PUT", "/deployments", "GET, POST"),
        ("POST", "/deployments/{id}", "GET, PUT, DELETE"),
        ("GET", "/deployments/{id}/start", "POST"),
        ("POST", "/healthz", "GET"),
        ("GET", "/auth/login", "POST"),
        ("TRACE", "/models", "GET, POST"),
    ],
)
async def test_a_method_that_a_path_has_not_is_told_those_that_it_has(
    editor: Caller, method: str, path: str, allowed: str
) -> None:
    answer = await editor(method, path.replace("{id}", new_id()))
    assert _require_refusal(answer, 405).endswith(f"allowed: {allowed}")
    assert answer.headers["allow"] == allowed


async def test_a_refusal_to_head_has_no_body(editor: Caller) -> None:
    answer = await editor("HEAD", "/models")
    assert (answer.status_code, answer.headers["x-aiwm-error"]) == (405, "gateway")
