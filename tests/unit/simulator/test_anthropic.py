from __future__ import annotations

from typing import Any

import pytest

from aiwm.simulator import tokens, words

from .conftest import KEYS, Ask

PATH = "/v1/messages"
USER = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
BODY: dict[str, Any] = {"model": "claude", "max_tokens": 100, "messages": USER}
STREAM = {**BODY, "stream": True}
ANSWER = words.OPENING + "Hello"
TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("one", "two")]


async def test_input_leaves_out_the_cache_and_output_holds_the_thinking(ask: Ask) -> None:
    answered = await ask(PATH, {**BODY, "system": "Be brief"}, simulate="cached=10; cache-write=20; reasoning=30")
    usage = answered.json["usage"]
    assert usage["input_tokens"] == tokens.of(["Be brief", "Hello"])
    assert usage["cache_read_input_tokens"] == 10
    assert usage["cache_creation_input_tokens"] == 20
    assert usage["cache_creation"]["ephemeral_5m_input_tokens"] == 20
    assert usage["output_tokens"] == tokens.count(ANSWER) + 30
    assert usage["output_tokens_details"] == {"thinking_tokens": 30}


async def test_a_stream_tells_input_first_and_everything_last(ask: Ask) -> None:
    events = (await ask(PATH, STREAM, simulate="cached=10; reasoning=5")).events
    first, last = events[0]["message"]["usage"], events[-2]["usage"]
    assert (first["input_tokens"], first["cache_read_input_tokens"], first["output_tokens"]) == (2, 10, 1)
    assert (last["input_tokens"], last["cache_read_input_tokens"]) == (2, 10)
    assert last["output_tokens"] == tokens.count(ANSWER) + 5


async def test_events_come_in_the_real_order_with_their_names(ask: Ask) -> None:
    answered = await ask(PATH, {**STREAM, "max_tokens": 2})
    kinds = [event["type"] for event in answered.events]
    assert kinds == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    lines = answered.body.splitlines()
    assert [line.removeprefix(b"event: ").decode() for line in lines if line.startswith(b"event: ")] == kinds
    assert answered.events[-2]["delta"]["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    ("choice", "called"),
    [({"type": "any"}, "one"), ({"type": "tool", "name": "two"}, "two"), ({"type": "auto"}, None), (None, None)],
)
async def test_tools_are_used_only_if_the_caller_insists(ask: Ask, choice: Any, called: str | None) -> None:
    answered = (await ask(PATH, {**BODY, "tools": TOOLS, "tool_choice": choice})).json
    assert answered["content"][0].get("name") == called
    assert answered["stop_reason"] == ("tool_use" if called else "end_turn")


async def test_thinking_is_a_block_of_its_own_with_a_signature(ask: Ask) -> None:
    events = (await ask(PATH, {**STREAM, "thinking": {"type": "adaptive"}})).events
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    deltas = {event["delta"]["type"] for event in events if event["type"] == "content_block_delta"}
    assert starts == ["thinking", "text"]
    assert deltas == {"thinking_delta", "signature_delta", "text_delta"}
    assert events[-2]["usage"]["output_tokens_details"] == {"thinking_tokens": tokens.count(words.THINKING)}


async def test_an_overload_in_mid_stream_is_an_event(ask: Ask) -> None:
    answered = await ask(PATH, STREAM, simulate="error-mid-stream")
    assert answered.chunks[-1].startswith(b"event: error\n")
    assert answered.events[-1]["error"]["type"] == "overloaded_error"
    assert answered.events[-1]["request_id"] == answered.headers["request-id"]


async def test_counting_counts_what_a_message_would(ask: Ask) -> None:
    answered = await ask("/v1/messages/count_tokens", {"model": "m", "messages": USER, "system": "Be brief"})
    assert answered.json == {"input_tokens": tokens.of(["Be brief", "Hello"])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": "5"}, "max_tokens: Input should be an integer"),
        ({"messages": None}, "messages: Field required"),
        ({"model": None}, "model: Field required"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name: Tool 'x' not found"),
    ],
)
async def test_wrong_fields_are_named(ask: Ask, change: Any, message: str) -> None:
    answered = await ask(PATH, {**BODY, **change})
    assert (answered.status, answered.json["error"]["type"]) == (400, "invalid_request_error")
    assert answered.json["error"]["message"].startswith(message)


@pytest.mark.parametrize(("version", "status"), [("2023-06-01", 200), ("2026-10-21", 400)])
async def test_the_newer_version_has_no_sampling(ask: Ask, version: str, status: int) -> None:
    answered = await ask(PATH, {**BODY, "temperature": 1.0}, headers={**KEYS, "anthropic-version": version})
    assert answered.status == status


async def test_a_model_nobody_knows_is_not_found(ask: Ask) -> None:
    answered = await ask("/v1/models/x", method="GET")
    assert (answered.status, answered.json["error"]["message"]) == (404, "model: x")
