from __future__ import annotations

from typing import Any

import orjson
import pytest

from aiwm.simulator import tokens, words

from .conftest import Ask

GENERATE = "/v1beta/models/gemini:generateContent"
STREAM = "/v1beta/models/gemini:streamGenerateContent"
CONTENTS = [{"role": "user", "parts": [{"text": "Hello"}]}]
BODY: dict[str, Any] = {"contents": CONTENTS}
ANSWER = words.OPENING + "Hello"
DECLARED = [{"functionDeclarations": [{"name": "one"}, {"name": "two"}]}]


async def test_prompt_holds_the_cache_and_candidates_leave_out_the_thoughts(ask: Ask) -> None:
    body = {**BODY, "systemInstruction": {"parts": [{"text": "Be brief"}]}}
    usage = (await ask(GENERATE, body, simulate="cached=10; reasoning=30")).json["usageMetadata"]
    prompt = tokens.of(["Be brief", "Hello"]) + 10
    assert usage["promptTokenCount"] == prompt
    assert usage["cachedContentTokenCount"] == 10
    assert usage["candidatesTokenCount"] == tokens.count(ANSWER)
    assert usage["thoughtsTokenCount"] == 30
    assert usage["totalTokenCount"] == prompt + tokens.count(ANSWER) + 30


async def test_a_stream_of_events_ends_lines_as_google_does_and_has_no_done(ask: Ask) -> None:
    answered = await ask(f"{STREAM}?alt=sse", BODY)
    assert all(chunk.startswith(b"data: {") and chunk.endswith(b"}\r\n\r\n") for chunk in answered.chunks)
    assert "".join(event["candidates"][0]["content"]["parts"][0]["text"] for event in answered.events) == ANSWER
    assert [event["candidates"][0].get("finishReason") for event in answered.events[-2:]] == [None, "STOP"]


async def test_a_stream_without_alt_is_one_json_array_in_chunks(ask: Ask) -> None:
    answered = await ask(STREAM, BODY)
    events = (await ask(f"{STREAM}?alt=sse", BODY)).events
    assert len(answered.chunks) == tokens.count(ANSWER) + 1
    assert b"\n  " in answered.body
    assert [record["usageMetadata"] for record in answered.json] == [record["usageMetadata"] for record in events]


async def test_usage_in_a_stream_grows_to_that_of_the_whole(ask: Ask) -> None:
    events = (await ask(f"{STREAM}?alt=sse", BODY, simulate="cached=3")).events
    whole = (await ask(GENERATE, BODY, simulate="cached=3")).json
    counts = [event["usageMetadata"]["candidatesTokenCount"] for event in events]
    assert counts == sorted(counts)
    assert events[-1]["usageMetadata"] == whole["usageMetadata"]


async def test_candidates_add_up(ask: Ask) -> None:
    answered = (await ask(GENERATE, {**BODY, "generationConfig": {"candidateCount": 2}})).json
    assert [candidate["index"] for candidate in answered["candidates"]] == [0, 1]
    assert answered["usageMetadata"]["candidatesTokenCount"] == 2 * tokens.count(ANSWER)


@pytest.mark.parametrize("config", [{"maxOutputTokens": 2}, {"max_output_tokens": 2}])
async def test_a_limit_is_kept_and_told(ask: Ask, config: Any) -> None:
    candidate = (await ask(GENERATE, {**BODY, "generationConfig": config})).json["candidates"][0]
    assert candidate["content"]["parts"] == [{"text": ANSWER[:8]}]
    assert candidate["finishReason"] == "MAX_TOKENS"


@pytest.mark.parametrize(
    ("calling", "called"),
    [({"mode": "ANY"}, "one"), ({"mode": "ANY", "allowedFunctionNames": ["two"]}, "two"), ({"mode": "AUTO"}, None)],
)
async def test_functions_are_called_only_if_the_caller_insists(ask: Ask, calling: Any, called: str | None) -> None:
    body = {**BODY, "tools": DECLARED, "toolConfig": {"functionCallingConfig": calling}}
    part = (await ask(GENERATE, body)).json["candidates"][0]["content"]["parts"][0]
    assert part.get("functionCall", {}).get("name") == called


async def test_a_function_nobody_declared_cannot_be_called(ask: Ask) -> None:
    assert (await ask(GENERATE, {**BODY, "toolConfig": {"functionCallingConfig": {"mode": "ANY"}}})).status == 400


async def test_thoughts_come_first_in_a_stream(ask: Ask) -> None:
    body = {**BODY, "generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
    events = (await ask(f"{STREAM}?alt=sse", body)).events
    parts = [event["candidates"][0]["content"]["parts"][0] for event in events]
    assert "".join(part["text"] for part in parts if part.get("thought")) == words.THINKING
    assert "candidatesTokenCount" not in events[0]["usageMetadata"]
    assert events[0]["usageMetadata"]["thoughtsTokenCount"] == tokens.count(words.THINKING)


@pytest.mark.parametrize("query", ["?alt=sse", ""])
async def test_an_error_in_mid_stream_is_a_record(ask: Ask, query: str) -> None:
    answered = await ask(STREAM + query, BODY, simulate="error-mid-stream")
    records = answered.events if query else answered.json
    assert records[-1]["error"]["status"] == "UNAVAILABLE"
    assert len(records) == tokens.count(ANSWER) // 2 + 1


async def test_the_error_of_an_array_is_in_an_array(ask: Ask) -> None:
    assert (await ask(STREAM, BODY, simulate="status=429")).json[0]["error"]["status"] == "RESOURCE_EXHAUSTED"


async def test_a_bad_key_is_explained_in_detail(ask: Ask) -> None:
    answered = await ask(GENERATE, BODY, headers={"x-goog-api-key": "invalid"})
    assert answered.json["error"]["details"][0]["reason"] == "API_KEY_INVALID"


@pytest.mark.parametrize("body", [BODY, {"generateContentRequest": {"model": "models/gemini", **BODY}}])
async def test_counting_counts_what_an_answer_would(ask: Ask, body: Any) -> None:
    assert (await ask("/v1/models/gemini:countTokens", body)).json["totalTokens"] == 2


async def test_embeddings_come_one_by_one_or_in_batches(ask: Ask) -> None:
    request = {"content": {"parts": [{"text": "Hello"}]}, "outputDimensionality": 4}
    one = (await ask("/v1beta/models/m:embedContent", request)).json
    many = (await ask("/v1beta/models/m:batchEmbedContents", {"requests": [request, request]})).json
    assert len(one["embedding"]["values"]) == 4
    assert many["embeddings"] == [one["embedding"]] * 2
    assert many["usageMetadata"]["promptTokenCount"] == 2 * one["usageMetadata"]["promptTokenCount"] == 4


@pytest.mark.parametrize("path", [GENERATE, f"{STREAM}?alt=sse", "/v1/models/m:countTokens"])
async def test_contents_are_required(ask: Ask, path: str) -> None:
    answered = await ask(path, {})
    assert (answered.status, answered.json["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "contents is not specified" in answered.json["error"]["message"]


async def test_answers_are_printed_as_google_prints_them(ask: Ask) -> None:
    answered = await ask(GENERATE, BODY)
    assert answered.headers["content-type"] == "application/json; charset=UTF-8"
    assert answered.body == orjson.dumps(answered.json, option=orjson.OPT_INDENT_2) + b"\n"
