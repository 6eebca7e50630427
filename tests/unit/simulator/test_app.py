from __future__ import annotations

from typing import Any

import pytest

from aiwm import __version__
from aiwm.simulator import switches
from aiwm.simulator.app import Simulator
from aiwm.simulator.delivery import BrokenOff, Message

from .conftest import KEYS, Answered, Ask

USER = [{"role": "user", "content": "Hello"}]
CHAT = ("/v1/chat/completions", {"model": "m", "messages": USER})
MESSAGE = ("/v1/messages", {"model": "m", "messages": USER, "max_tokens": 100})
CONTENT = ("/v1beta/models/m:generateContent", {"contents": [{"parts": [{"text": "Hello"}]}]})
DIALECTS = pytest.mark.parametrize(("path", "body"), [CHAT, MESSAGE, CONTENT], ids=["openai", "anthropic", "google"])


def _shape(answered: Answered) -> str:
    """Whose error body it is."""
    body = answered.json
    if body.get("type") == "error":
        assert set(body) == {"type", "error", "request_id"}
        assert set(body["error"]) == {"type", "message"}
        return "anthropic"
    assert set(body) == {"error"}
    if "status" in body["error"]:
        assert body["error"]["code"] == answered.status
        return "google"
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return "openai"


@DIALECTS
async def test_every_answer_says_that_it_is_a_simulation(ask: Ask, path: str, body: Any) -> None:
    answered = await ask(path, body)
    assert answered.status == 200
    assert answered.headers["x-aiwm-simulator"] == __version__
    assert b"simulated answer" in answered.body
    assert answered.headers["content-length"] == str(len(answered.body))


@DIALECTS
@pytest.mark.parametrize("status", switches.STATUSES)
async def test_every_status_has_the_providers_own_body(ask: Ask, path: str, body: Any, status: int) -> None:
    answered = await ask(path, body, simulate=f"status={status}")
    assert answered.status == status
    assert _shape(answered) == {CHAT[0]: "openai", MESSAGE[0]: "anthropic", CONTENT[0]: "google"}[path]
    assert answered.json["error"]["message"]
    assert ("retry-after" in answered.headers) == (status == 429)
    assert answered.headers["x-aiwm-simulator"] == __version__


@DIALECTS
async def test_a_wrong_switch_is_explained_in_the_providers_shape(ask: Ask, path: str, body: Any) -> None:
    answered = await ask(path, body, simulate="dely=1")
    _shape(answered)
    assert answered.status == 400
    assert "there is no switch 'dely'" in answered.json["error"]["message"]
    assert "chunk-delay=SECONDS" in answered.json["error"]["message"]


@DIALECTS
@pytest.mark.parametrize(
    "body_sent", [b"", b"{", b"[]", b'"text"', b"\xff", b"[" * 600 + b"]" * 600, b'{"a":' * 300 + b"1" + b"}" * 300]
)
async def test_what_is_no_json_object_is_refused(ask: Ask, path: str, body: Any, body_sent: bytes) -> None:
    answered = await ask(path, body_sent)
    _shape(answered)
    assert answered.status == 400


@DIALECTS
async def test_the_key_is_quoted_only_if_asked(ask: Ask, path: str, body: Any) -> None:
    headers = {name: value.replace("key", "my-invalid-secret-key") for name, value in KEYS.items()}
    silent = await ask(path, body, headers=headers)
    quoting = await ask(path, body, headers=headers, simulate="quote-key")
    assert b"my-invalid-secret-key" not in silent.body
    assert "my-invalid-secret-key" in quoting.json["error"]["message"]


@pytest.mark.parametrize(
    ("path", "headers", "status", "text"),
    [
        (CHAT[0], {}, 401, "You didn't provide an API key"),
        (CHAT[0], {"authorization": "Basic key"}, 401, "You didn't provide an API key"),
        (CHAT[0], {"api-key": "key"}, 401, "You didn't provide an API key"),
        (
            CHAT[0],
            {"authorization": "Bearer invalid-1234567890"},
            401,
            "Incorrect API key provided: invalid-******7890.",
        ),
        ("/openai/deployments/d/chat/completions?api-version=1", {}, 401, "Access denied due to invalid"),
        ("/openai/v1/chat/completions", {"api-key": "INVALID"}, 401, "Incorrect API key provided: *******."),
        (MESSAGE[0], {"anthropic-version": "2023-06-01"}, 401, "x-api-key header is required"),
        (MESSAGE[0], {"x-api-key": "invalid", "anthropic-version": "2023-06-01"}, 401, "invalid x-api-key"),
        (MESSAGE[0], {"authorization": "Bearer invalid", "anthropic-version": "1"}, 401, "Invalid bearer token"),
        (MESSAGE[0], {"x-api-key": "key"}, 400, "anthropic-version: header is required"),
        (CONTENT[0], {}, 403, "unregistered callers"),
        (CONTENT[0], {"x-goog-api-key": "invalid"}, 400, "API key not valid"),
        (f"{CONTENT[0]}?key=invalid", {}, 400, "API key not valid"),
    ],
)
async def test_bad_credentials_are_refused(
    ask: Ask, path: str, headers: dict[str, str], status: int, text: str
) -> None:
    answered = await ask(path, {}, headers=headers)
    assert answered.status == status
    assert text in answered.json["error"]["message"]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/openai/v1/chat/completions", {"api-key": "k"}),
        ("/openai/deployments/d/chat/completions?api-version=1", {"api-key": "k"}),
        ("/openai/deployments/d/chat/completions?api-version=1", {"authorization": "bearer k"}),
        ("/openai/responses?api-version=1", {"api-key": "k"}),
        (MESSAGE[0], {"authorization": "Bearer k", "anthropic-version": "2026-10-21"}),
        (f"{CONTENT[0]}?key=k", {}),
        ("/v1/models/m:generateContent", {"x-goog-api-key": "k"}),
    ],
)
async def test_good_credentials_come_in_many_ways(ask: Ask, path: str, headers: dict[str, str]) -> None:
    everything = {"messages": USER, "contents": "Hello", "max_tokens": 5, "model": "m", "input": "Hello"}
    assert (await ask(path, everything, headers=headers)).status == 200


@pytest.mark.parametrize(
    ("path", "headers", "first"),
    [
        ("/v1/models", {"authorization": "Bearer k"}, "object"),
        ("/v1/models?limit=20", {"x-api-key": "k", "anthropic-version": "2023-06-01"}, "data"),
        ("/v1/models", {"authorization": "Bearer k", "anthropic-version": "2023-06-01"}, "data"),
        ("/v1/models", {"x-goog-api-key": "k"}, "models"),
        ("/v1/models?key=k", {}, "models"),
        ("/v1beta/models", {"x-goog-api-key": "k"}, "models"),
        ("/openai/v1/models", {"api-key": "k"}, "object"),
    ],
)
async def test_models_are_listed_in_the_callers_dialect(
    ask: Ask, path: str, headers: dict[str, str], first: str
) -> None:
    answered = await ask(path, method="GET", headers=headers)
    assert next(iter(answered.json)) == first


@pytest.mark.parametrize(
    ("method", "path", "headers", "shape", "status"),
    [
        ("GET", "/", {}, "openai", 404),
        ("POST", "/v1/nothing", {}, "openai", 404),
        ("POST", "/openai/deployments/d/nothing?api-version=1", {}, "openai", 404),
        ("POST", "/v1/nothing", {"x-api-key": "k"}, "anthropic", 404),
        ("POST", "/v1/messages/nothing", {}, "anthropic", 404),
        ("POST", "/v1beta/nothing", {}, "google", 404),
        ("POST", "/v1beta/models/m:nothing", {}, "google", 404),
        ("POST", "/nothing", {"x-goog-api-key": "k"}, "google", 404),
        ("GET", "/v1/chat/completions", {}, "openai", 405),
        ("DELETE", "/v1/models", {}, "openai", 405),
        ("GET", "/v1/messages", {}, "anthropic", 405),
        ("GET", "/v1beta/models/m:generateContent", {}, "google", 405),
        ("POST", "/v1beta/models", {}, "google", 405),
    ],
)
async def test_what_is_not_there_is_said_in_the_providers_shape(
    ask: Ask, method: str, path: str, headers: dict[str, str], shape: str, status: int
) -> None:
    answered = await ask(path, method=method, headers=headers)
    assert (_shape(answered), answered.status) == (shape, status)


async def test_azure_wants_a_version(ask: Ask) -> None:
    answered = await ask("/openai/deployments/d/chat/completions", CHAT[1])
    assert answered.json == {"error": {"code": "404", "message": "Resource not found"}}


@DIALECTS
async def test_ids_are_unique_and_in_the_headers(ask: Ask, path: str, body: Any) -> None:
    first, second = await ask(path, body), await ask(path, body)
    ids = [answered.json.get("id") or answered.json["responseId"] for answered in (first, second)]
    assert ids[0] != ids[1]


@DIALECTS
async def test_a_cut_is_an_error_after_the_start(ask: Ask, path: str, body: Any) -> None:
    answered = Answered()
    with pytest.raises(BrokenOff):
        await ask(path, body, simulate="piece=10; cut=2", into=answered)
    assert [len(chunk) for chunk in answered.chunks] == [10, 10]
    assert not answered.whole


async def test_one_who_leaves_during_a_stream_gets_no_more(ask: Ask) -> None:
    path, body = CHAT
    answered = await ask(path, {**body, "stream": True}, simulate="tokens=1000; chunk-delay=1", leave_after=3)
    assert len(answered.chunks) < 20
    assert not answered.whole


async def test_one_who_hangs_up_on_silence_gets_nothing(ask: Ask) -> None:
    path, body = CHAT
    answered = await ask(path, body, simulate="hang", leave_after=0)
    assert answered.messages == []


async def test_two_headers_of_switches_are_one(ask: Ask) -> None:
    sent: list[Message] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer k"), (b"x-simulate", b"status=429"), (b"x-simulate", b"quote-key")],
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False} if not sent else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await Simulator()(scope, receive, send)
    assert sent[0]["status"] == 429
    assert b"(API key: k)" in sent[1]["body"]


async def test_one_who_leaves_while_sending_is_not_answered() -> None:
    incoming = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await Simulator()({"type": "http"}, receive, send)
    assert sent == []


@pytest.mark.parametrize(
    ("kind", "incoming", "outgoing"),
    [
        (
            "lifespan",
            ["lifespan.startup", "lifespan.shutdown"],
            ["lifespan.startup.complete", "lifespan.shutdown.complete"],
        ),
        ("websocket", ["websocket.connect"], ["websocket.close"]),
    ],
)
async def test_the_server_is_told_what_it_waits_for(kind: str, incoming: list[str], outgoing: list[str]) -> None:
    sent: list[str] = []

    async def receive() -> Message:
        return {"type": incoming.pop(0)}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    await Simulator()({"type": kind}, receive, send)
    assert sent == outgoing
