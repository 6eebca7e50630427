"""metering/worst_case.py: no answer takes more than its request is taken to need."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from aiwm.metering.worst_case import Ceilings, WorstCase, worst_case

CEILINGS = Ceilings(input_tokens=1_000_000, output_tokens=50_000)
TEXT = {"messages": [{"role": "user", "content": "How many?"}]}


def worst(**body: Any) -> WorstCase:
    return worst_case(orjson.dumps(body), None, CEILINGS)


def test_a_text_has_no_more_tokens_than_its_body_has_bytes() -> None:
    assert worst(**TEXT, max_tokens=1).input_tokens == len(orjson.dumps(TEXT | {"max_tokens": 1}))


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 20},
        {"max_completion_tokens": 20},
        {"max_output_tokens": 20},
        {"max_tokens": 5, "max_completion_tokens": 20},
        {"generationConfig": {"maxOutputTokens": 20}},
        {"generation_config": {"max_output_tokens": 20}},
        {"options": {"num_predict": 20}},
        {"max_tokens": 5, "n": 4},
        {"generationConfig": {"maxOutputTokens": 10, "candidateCount": 2}},
        {"max_tokens": 19.5},
    ],
)
def test_what_is_written_is_what_the_caller_allows(body: dict[str, Any]) -> None:
    assert worst(**TEXT, **body).output_tokens == 20


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"max_tokens": None},
        {"max_tokens": "5"},
        {"max_tokens": True},
        {"max_tokens": -1},
        {"max_tokens": 5, "max_output_tokens": "many"},
        {"options": {"num_predict": -1}},
        {"tools": [{"type": "function", "function": {"max_tokens": 5}}]},
    ],
)
def test_without_a_word_of_the_caller_the_ceiling_is_taken(body: dict[str, Any]) -> None:
    assert worst(**TEXT, **body).output_tokens == CEILINGS.output_tokens


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://x.example/cat.png"}}]}]},
        {"messages": [{"content": [{"type": "image", "source": {"type": "url", "url": "https://x.example"}}]}]},
        {"contents": [{"parts": [{"inlineData": {"data": "aaaa"}}]}]},
        {"input": "Go on", "previous_response_id": "resp_1"},
        {"input": "Search", "tools": [{"type": "web_search"}]},
        {"contents": [], "tools": [{"googleSearch": {}}]},
        {"messages": [], "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"messages": [], "web_search_options": {}},
    ],
)
def test_what_is_not_in_the_body_may_be_all_that_a_model_reads(body: dict[str, Any]) -> None:
    found = worst(**body, max_tokens=1)
    assert (found.input_tokens, found.web_searches > 0) == (CEILINGS.input_tokens, True)


@pytest.mark.parametrize(
    "tool",
    [
        {
            "type": "function",
            "function": {"name": "f", "parameters": {"properties": {"image_url": {"type": "string"}}}},
        },
        {"name": "f", "input_schema": {"properties": {"source": {}}}},
        {"functionDeclarations": [{"name": "f"}]},
        {"type": "custom", "name": "f"},
    ],
)
def test_a_tool_that_the_caller_runs_brings_nothing(tool: dict[str, Any]) -> None:
    found = worst(**TEXT, tools=[tool])
    assert (found.input_tokens < 500, found.web_searches) == (True, 0)


@pytest.mark.parametrize("body", [None, b"", b"[]", b"5", b"{", b"\x1f\x8b\x08", b"[" * 100_000])
def test_what_is_not_read_is_taken_for_the_most(body: bytes | None) -> None:
    found = worst_case(body, 400, CEILINGS)
    assert (found.input_tokens, found.output_tokens) == (CEILINGS.input_tokens, CEILINGS.output_tokens)


def test_a_deep_body_is_read_like_any_other() -> None:
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    assert worst_case(deep, None, CEILINGS).input_tokens == len(deep)


def test_what_is_likely_is_a_token_for_four_bytes_and_what_is_allowed() -> None:
    assert worst(input="x" * 389, max_tokens=50).likely_tokens == (389 + len('{"input":"","max_tokens":50}')) // 4 + 50
