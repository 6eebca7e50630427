from __future__ import annotations

from typing import Any

from aiwm.simulator import tokens, words

from .conftest import Ask

PATH = "/v1/responses"
BODY: dict[str, Any] = {
    "model": "gpt-4o",
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}],
}
ANSWER = words.OPENING + "Hello"


async def test_usage_counts_instructions_and_input(ask: Ask) -> None:
    answered = await ask(PATH, {**BODY, "instructions": "Be brief"}, simulate="cached=7; cache-write=3; reasoning=5")
    assert answered.json["usage"] == {
        "input_tokens": tokens.of(["Be brief", "Hello"]) + 10,
        "input_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 3},
        "output_tokens": tokens.count(ANSWER) + 5,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": tokens.of(["Be brief", "Hello"]) + 10 + tokens.count(ANSWER) + 5,
    }
    assert answered.json["instructions"] == "Be brief"


async def test_usage_is_in_the_last_event_only(ask: Ask) -> None:
    *others, last = (await ask(PATH, {**BODY, "stream": True})).events
    assert last["type"] == "response.completed"
    assert last["response"]["usage"]["output_tokens"] == tokens.count(ANSWER)
    assert all(event.get("response", {}).get("usage") is None for event in others)


async def test_names_of_events_are_their_types(ask: Ask) -> None:
    answered = await ask(PATH, {**BODY, "stream": True})
    names = [
        line.removeprefix(b"event: ").decode() for line in answered.body.splitlines() if line.startswith(b"event:")
    ]
    assert names == [event["type"] for event in answered.events]
    assert b"[DONE]" not in answered.body


async def test_one_cut_short_is_incomplete_to_the_end(ask: Ask) -> None:
    *_, item, last = (await ask(PATH, {**BODY, "stream": True, "max_output_tokens": 2})).events
    assert item["item"]["status"] == "incomplete"
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_a_schema_is_filled(ask: Ask) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    answered = await ask(PATH, {**BODY, "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}})
    assert answered.json["output"][0]["content"][0]["text"] == '{"a":"simulated"}'


async def test_a_named_tool_is_called(ask: Ask) -> None:
    tools = [{"type": "web_search"}, {"type": "function", "name": "one"}, {"type": "function", "name": "two"}]
    answered = await ask(PATH, {**BODY, "tools": tools, "tool_choice": {"type": "function", "name": "two"}})
    assert answered.json["output"][0]["name"] == "two"
    assert answered.json["output"][0]["arguments"] == "{}"


async def test_an_error_in_mid_stream_is_an_event(ask: Ask) -> None:
    last = (await ask(PATH, {**BODY, "stream": True}, simulate="error-mid-stream")).events[-1]
    assert (last["type"], last["code"]) == ("error", "server_error")


async def test_input_is_required(ask: Ask) -> None:
    answered = await ask(PATH, {"model": "m"})
    assert (answered.status, answered.json["error"]["param"]) == (400, "input")
