from __future__ import annotations

from typing import Any

import pytest

from aiwm.simulator import tokens, words

from .conftest import Ask

PATH = "/v1/chat/completions"
USER = [{"role": "user", "content": "Hello"}]
BODY: dict[str, Any] = {"model": "gpt-4o", "messages": USER}
STREAM = {**BODY, "stream": True}
ANSWER = words.OPENING + "Hello"
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("one", "two")]


async def test_usage_is_what_the_counting_says(ask: Ask) -> None:
    answered = await ask(PATH, {**BODY, "n": 3}, simulate="cached=10; cache-write=20; reasoning=30")
    truth = tokens.usage(USER, 3 * tokens.count(ANSWER), cached=10, cache_write=20, reasoning=30)
    usage = answered.json["usage"]
    assert len(answered.json["choices"]) == 3
    assert usage["prompt_tokens"] == truth.total_in == 2 + 30
    assert usage["completion_tokens"] == truth.total_out
    assert usage["total_tokens"] == truth.total
    assert usage["prompt_tokens_details"]["cached_tokens"] == 10
    assert usage["prompt_tokens_details"]["cache_write_tokens"] == 20
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 30


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_is_kept_and_told(ask: Ask, limit: str) -> None:
    choice = (await ask(PATH, {**BODY, limit: 2})).json["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (ANSWER[:8], "length")


async def test_a_stream_without_the_option_never_mentions_usage(ask: Ask) -> None:
    answered = await ask(PATH, STREAM)
    assert b"usage" not in answered.body
    assert answered.chunks[-1] == b"data: [DONE]\n\n"
    assert answered.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_a_stream_with_the_option_says_null_until_the_chunk_before_the_end(ask: Ask) -> None:
    answered = await ask(PATH, {**STREAM, "stream_options": {"include_usage": True}})
    whole = await ask(PATH, BODY)
    *others, last = answered.events
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in others)
    assert last["choices"] == []
    assert last["usage"] == whole.json["usage"]
    assert answered.chunks[-1] == b"data: [DONE]\n\n"


@pytest.mark.parametrize(("options", "padded"), [({}, True), ({"include_obfuscation": False}, False)])
async def test_padding_can_be_turned_off(ask: Ask, options: dict[str, bool], padded: bool) -> None:
    answered = await ask(PATH, {**STREAM, "stream_options": options})
    assert all(("obfuscation" in chunk) == padded for chunk in answered.events)


async def test_a_stream_has_as_many_chunks_of_text_as_tokens_asked_for(ask: Ask) -> None:
    answered = await ask(PATH, STREAM, simulate="tokens=50")
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in answered.events]
    assert len([text for text in texts if text]) == 50


async def test_choices_take_turns(ask: Ask) -> None:
    events = (await ask(PATH, {**STREAM, "n": 2})).events
    assert [chunk["choices"][0]["index"] for chunk in events] == [0, 1] * (len(events) // 2)
    assert [chunk["choices"][0]["finish_reason"] for chunk in events[-2:]] == ["stop", "stop"]


@pytest.mark.parametrize(
    ("choice", "called"),
    [("required", "one"), ({"type": "function", "function": {"name": "two"}}, "two"), ("auto", None), ("none", None)],
)
async def test_tools_are_called_only_if_the_caller_insists(ask: Ask, choice: Any, called: str | None) -> None:
    answered = (await ask(PATH, {**BODY, "tools": TOOLS, "tool_choice": choice})).json["choices"][0]
    calls = answered["message"].get("tool_calls")
    assert (calls[0]["function"]["name"] if calls else None) == called
    assert answered["finish_reason"] == ("tool_calls" if called else "stop")


async def test_an_error_in_mid_stream_comes_after_half_the_chunks_and_ends_it(ask: Ask) -> None:
    whole, broken = await ask(PATH, STREAM), await ask(PATH, STREAM, simulate="error-mid-stream; quote-key")
    *before, error = broken.events
    assert len(before) == len(whole.chunks) // 2
    assert "(API key: key)" in error["error"]["message"]
    assert b"[DONE]" not in broken.body


async def test_azure_sends_its_filters_first(ask: Ask) -> None:
    path = "/openai/deployments/mine/chat/completions?api-version=1"
    first, *_ = (await ask(path, {"messages": USER, "stream": True})).events
    whole = (await ask(path, {"messages": USER})).json
    assert first["choices"] == []
    assert first["prompt_filter_results"] == whole["prompt_filter_results"]
    assert whole["model"] == "mine"


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": "Hello"}, "messages", "invalid_value"),
        ({"messages": ["Hello"]}, "messages[0]", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 129}, "n", "invalid_value"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_value"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function"}},
            "tool_choice.function.name",
            "missing_required_parameter",
        ),
        ({"tools": TOOLS, "tool_choice": {"function": {"name": "three"}}}, "tool_choice", None),
        ({"tools": TOOLS, "tool_choice": 5}, "tool_choice", "invalid_value"),
    ],
)
async def test_wrong_fields_are_named(ask: Ask, change: Any, param: str, code: str | None) -> None:
    answered = await ask(PATH, {**BODY, **change})
    assert answered.status == 400
    assert (answered.json["error"]["param"], answered.json["error"]["code"]) == (param, code)


async def test_completions_stream_like_chats(ask: Ask) -> None:
    body = {"model": "m", "prompt": ["Hello"], "n": 2, "max_tokens": 3, "stream": True}
    *chunks, last = (await ask("/v1/completions", {**body, "stream_options": {"include_usage": True}})).events
    texts = [chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"][0]["index"] == 1]
    assert "".join(texts) == ANSWER[:12]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 6)
