"""metering/estimate: one rule for every dialect, and the same numbers however the stream was cut."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwm.domain.usage import Usage
from aiwm.metering.estimate import Estimate, estimated, request_chars
from aiwm.metering.reading import Reading
from aiwm.providers import registry
from aiwm.wire.ndjson import LineSplitter
from aiwm.wire.sse import EventSplitter
from cuttings import bytewise, cut

RECORDED = Path(__file__).parents[2] / "recorded"
REQUEST = b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hello!"}],"stream":true}'


def chars(provider: str, pieces: list[bytes], *, lines: bool = False) -> int:
    estimate = Estimate(registry.provider(provider).usage, LineSplitter if lines else EventSplitter)
    for piece in pieces:
        estimate.feed(piece)
    return estimate.chars()


def reading(provider: str, *events: bytes) -> Reading:
    found = Reading(registry.provider(provider).usage)
    for event in events:
        found.document(event)
    return found


# --- the text that was seen


def event(**body: object) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


DIALECTS = {
    "chat": ("openai", event(choices=[{"delta": {"role": "assistant", "content": "Grüße 🎈"}}]), 7),
    "several choices": ("openai", event(choices=[{"delta": {"content": "ab"}}, {"delta": {"content": "c"}}]), 3),
    "reasoning": ("deepseek", event(choices=[{"delta": {"reasoning_content": "hmm", "content": None}}]), 3),
    "a tool": (
        "openai",
        event(choices=[{"delta": {"tool_calls": [{"function": {"name": "add", "arguments": '{"a"'}}]}}]),
        7,
    ),
    "completions": ("openai", event(choices=[{"text": "word"}]), 4),
    "responses": ("openai", event(type="response.output_text.delta", delta="word"), 4),
    "responses, repeated whole": ("openai", event(type="response.output_text.done", text="word"), 0),
    "messages": ("anthropic", event(type="content_block_delta", delta={"type": "text_delta", "text": "word"}), 4),
    "thinking": ("anthropic", event(delta={"type": "thinking_delta", "thinking": "hmm"}), 3),
    "signature": ("anthropic", event(delta={"type": "signature_delta", "signature": "x" * 99}), 0),
    "tool input": ("anthropic", event(delta={"type": "input_json_delta", "partial_json": '{"a":'}), 5),
    "generate": ("google", event(candidates=[{"content": {"parts": [{"text": "ab"}, {"text": "cd"}]}}]), 4),
    "a function": (
        "google",
        event(candidates=[{"content": {"parts": [{"functionCall": {"name": "f", "args": {}}}]}}]),
        len('{"name":"f","args":{}}'),
    ),
    "cohere": ("cohere", event(type="content-delta", delta={"message": {"content": {"text": "word"}}}), 4),
    "ping": ("anthropic", b'event: ping\ndata: {"type":"ping"}\n\n', 0),
    "done": ("openai", b"data: [DONE]\n\n", 0),
    "no json": ("openai", b'data: {"content"\n\n', 0),
    "too deep": ("openai", b'data: {"x":' + b"[" * 5000 + b"]" * 5000 + b"}\n\n", 0),
    "deep on the way": ("ollama", b'data: {"response":' + b'{"usage":' * 500 + b"1" + b"}" * 501 + b"\n\n", 0),
    "invalid UTF-8": ("openai", b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', 0),
    "half an emoji": ("openai", b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n', 0),
    "of another kind": ("openai", event(choices={"delta": {"content": "x"}}, content=5, delta=[1]), 0),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_the_characters_of_what_the_model_wrote_are_counted(name: str) -> None:
    provider, stream, expected = DIALECTS[name]
    assert chars(provider, [stream]) == chars(provider, bytewise(stream)) == expected


def test_lines_of_json_are_counted_like_events() -> None:
    stream = b'{"message":{"content":"Hel"},"done":false}\n{"response":"lo","done":false}\n{"response":"cut'
    assert chars("ollama", [stream], lines=True) == chars("ollama", bytewise(stream), lines=True) == 5


def test_what_is_not_a_whole_event_has_not_been_seen() -> None:
    stream = event(choices=[{"delta": {"content": "word"}}])
    assert chars("openai", [stream, stream[:-1]]) == 4


def test_numbers_of_the_provider_include_all_that_came_before_them() -> None:
    start = event(type="message_start", message={"usage": {"input_tokens": 9, "output_tokens": 1}})
    words = [event(delta={"type": "text_delta", "text": "word"})] * 3
    assert chars("anthropic", [start, *words]) == 12
    assert chars("anthropic", [words[0] + start + words[1]]) == 4
    assert chars("anthropic", [*words, event(type="message_delta", usage={"output_tokens": 5})]) == 0


@pytest.mark.parametrize("number", [1, 100, 2000])
def test_a_long_stream_is_not_held(number: int) -> None:
    estimate = Estimate(registry.provider("openai").usage, EventSplitter)
    for _ in range(number):
        estimate.feed(event(choices=[{"delta": {"content": "a word"}}]))
        assert estimate._size <= 32 << 10
    assert estimate.chars() == 6 * number


_EVENTS = [
    event(choices=[{"delta": {"content": "word"}}]),
    event(choices=[{"delta": {"content": 'say "usage":{}'}}]),
    event(choices=[{"delta": {"content": "x" * 40_000}}]),
    event(choices=[{"delta": {"content": "é"}}], usage={"prompt_tokens": 3, "completion_tokens": 1}),
    event(choices=[{"delta": {}}], usage=None),
    b": comment\n\n",
    b"data: [DONE]\n\n",
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(_EVENTS), max_size=8), st.lists(st.integers(0, 1 << 16), max_size=12))
def test_where_the_network_cuts_makes_no_difference_nor_who_has_seen_the_numbers(
    events: list[bytes], places: list[int]
) -> None:
    stream = b"".join(events)
    expected = chars("openai", [stream])
    assert chars("openai", cut(stream, places)) == expected
    # The meter tells in which pieces it has found numbers: that spares the reading of all before them.
    told, numbers = Estimate(registry.provider("openai").usage, EventSplitter), EventSplitter([b'"prompt_tokens"'])
    for piece in cut(stream, places):
        if numbers.feed(piece):
            told.feed_numbers(piece)
        else:
            told.feed(piece)
    assert told.chars() == expected


# --- the numbers made of it


def test_without_any_numbers_both_sides_are_estimated() -> None:
    made = estimated(reading("openai"), 9, REQUEST)
    assert made is not None
    usage, raw = made
    read = len("gpt-4o") + len("user") + len("Hello!")
    assert usage == Usage(input_tokens=4, output_tokens=3)
    assert json.loads(raw) == {"estimated": {"outputChars": 9, "inputChars": read, "charsPerToken": 4}}


def test_what_came_after_the_last_numbers_is_added_to_them() -> None:
    numbers = {"input_tokens": 21, "cache_read_input_tokens": 100, "output_tokens": 2}
    found = reading("anthropic", orjson.dumps({"type": "message_start", "message": {"usage": numbers}}))
    made = estimated(found, 5, REQUEST)
    assert made is not None
    usage, raw = made
    assert usage == Usage(input_tokens=121, output_tokens=4, cache_read_tokens=100)
    assert json.loads(raw) == {**numbers, "estimated": {"outputChars": 5, "charsPerToken": 4}}


def test_numbers_after_which_nothing_came_need_no_estimate() -> None:
    assert estimated(reading("openai", b'{"usage":{"prompt_tokens":3}}'), 0, REQUEST) is None


def test_a_caller_who_leaves_before_the_answer_has_still_sent_its_request() -> None:
    made = estimated(reading("google"), 0, b'{"contents":[{"parts":[{"text":"12345678"}]}]}')
    assert made is not None
    assert made[0] == Usage(input_tokens=2, output_tokens=0)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"input":["abc","de"]}', 5),
        (b'{"a":{"b":[{"c":"xyz"}]},"n":5,"t":true,"z":null}', 3),
        (b'{"url":"data:image/png;base64,AAAA","text":"abc"}', 3),
        (b'{"inlineData":{"mimeType":"","data":"AAAA"},"text":"abc"}', 3),
        (b'{"input":[[1,2,3]]}', 0),
        (b'{"cut', 0),
        (b"", 0),
        (b"[" * 5000 + b"]" * 5000, 0),
        (b"[" * 900 + b'"x"' + b"]" * 900, 1),
    ],
)
def test_the_texts_of_a_request_are_counted_and_what_is_no_text_is_not(body: bytes, expected: int) -> None:
    assert request_chars(body) == expected
