"""A caller who did not ask for usage sees the stream of a provider that was not asked, to the byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwm.wire.sse import EventSplitter
from aiwm.wire.usage_filter import UsageFilter
from cuttings import bytewise, cut

RECORDED = Path(__file__).parents[2] / "recorded"


def filtered(pieces: Sequence[bytes], *, max_event: int = 1 << 20) -> bytes:
    passing = UsageFilter(max_event)
    return b"".join([passing.feed(piece) for piece in pieces]) + passing.finish()


# --- one event


BLANKS = (b"\n\n", b"\r\n\r\n", b"\r\r")


def around(event: bytes, blank: bytes) -> bytes:
    return b"data: a" + blank + event + b"data: z" + blank


@pytest.mark.parametrize(
    "event",
    [
        b'{"id":"c","choices":[],"usage":{"prompt_tokens":1}}',
        b'{"id":"c","choices":[],"usage":{"prompt_tokens":1},"obfuscation":"x"}',
        b'{"usage": {}, "choices": [ ]}',
    ],
)
def test_the_event_that_has_nothing_but_usage_is_taken_out(event: bytes) -> None:
    for blank in BLANKS:
        stream = around(b"data: " + event + blank, blank)
        assert filtered([stream]) == filtered(bytewise(stream)) == around(b"", blank)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (b'{"choices":[],"usage":null}', b'{"choices":[]}'),
        (b'{"choices":[{"index":0}],"usage":null,"obfuscation":"x"}', b'{"choices":[{"index":0}],"obfuscation":"x"}'),
        (b'{"choices": [{"index": 0}], "usage": null}', b'{"choices": [{"index": 0}]}'),
        (b'{"usage":null,"choices":[{}]}', b'{"choices":[{}]}'),
        (b'{"usage": null, "choices": [{}]}', b'{"choices": [{}]}'),
        (
            b'{"a":{"b":1,"usage":null},"usage":null,"c":{"d":1,"usage":null}}',
            b'{"a":{"b":1,"usage":null},"c":{"d":1,"usage":null}}',
        ),
        (
            b'{"choices":[{"delta":{"content":",\\"usage\\":null"}}],"usage":null}',
            b'{"choices":[{"delta":{"content":",\\"usage\\":null"}}]}',
        ),
    ],
)
def test_a_null_in_place_of_usage_is_taken_out_of_its_event(event: bytes, expected: bytes) -> None:
    for blank in BLANKS:
        stream = around(b"data: " + event + blank, blank)
        expected_stream = around(b"data: " + expected + blank, blank)
        assert filtered([stream]) == filtered(bytewise(stream)) == expected_stream


@pytest.mark.parametrize(
    "event",
    [
        b'{"choices":[],"prompt_filter_results":[]}',
        b'{"choices":[{}],"usage":{"prompt_tokens":1}}',
        b'{"choices":[{}],"usage":[]}',
        b'{"choices":null,"usage":{"prompt_tokens":1}}',
        b'{"usage":{"prompt_tokens":1}}',
        b'{"a":{"usage":null},"b":[{"c":1,"usage":null}]}',
        b'{"\\u0075sage":null,"b":[{"c":1,"usage":null}]}',
        b'{"error":{"message":"usage"},"usage"',
        b'["usage",null]',
        b'{"usage":null}',
        b'{"\xff":1,"choices":[],"usage":{"\xff":1},"\xff"}',
        b'{"usage":null,"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'"usage":null',
        b"[DONE]",
    ],
)
def test_everything_else_passes(event: bytes) -> None:
    for blank in BLANKS:
        stream = around(b"data: " + event + blank, blank)
        assert filtered([stream]) == filtered(bytewise(stream)) == stream


def test_lines_of_other_kinds_go_with_their_event() -> None:
    stream = b': hello\n\nid: 1\nevent: e\ndata: {"choices":[],\ndata: "usage":{}}\nretry: 5\n\ndata: [DONE]\n\n'
    assert filtered([stream]) == filtered(bytewise(stream)) == b": hello\n\ndata: [DONE]\n\n"


def test_the_blank_lines_around_an_event_stay() -> None:
    event = b'data: {"choices":[],"usage":{}}'
    assert filtered(bytewise(b"\n" + event + b"\n\n\n\ndata: z\n\n")) == b"\n\n\ndata: z\n\n"
    assert filtered(bytewise(b"\r\n" + event + b"\r\n\r\n\r\ndata: z")) == b"\r\n\r\ndata: z"
    assert filtered([event + b"\r\n\r", b"\n\n"]) == b"\n"
    assert filtered([event + b"\r\n\r", b"", b"\ndata: z\n\n"]) == b"data: z\n\n"
    assert filtered([event + b"\r\rdata: y\r\r", b"\ndata: z\n\n"]) == b"data: y\r\r\ndata: z\n\n"


def test_a_last_event_without_its_blank_line_is_filtered_too() -> None:
    assert filtered([b'data: {"choices":[],"usage":{}}']) == b""
    assert filtered([b'data: {"choices":[{}],"usage":null}\n']) == b'data: {"choices":[{}]}\n'
    assert filtered([b'data: {"choices":[],"usa']) == b'data: {"choices":[],"usa'


def test_what_was_taken_out_is_there_for_whoever_wants_its_numbers() -> None:
    passing, numbers = UsageFilter(), EventSplitter([b'"usage"'])
    found = []
    for piece in (b"data: a\n", b'\ndata: {"choices":[],"usage":{}}\r\n\r', b"\ndata: [DONE]"):
        found += [*numbers.feed(passing.feed(piece)), *numbers.feed(passing.withheld())]
    assert passing.withheld() == b""
    found += [*numbers.feed(passing.finish()), *numbers.finish()]
    assert found == [b'{"choices":[],"usage":{}}']
    passing.feed(b'data: {"choices":[],"usage":{"a":1}}')
    assert (passing.finish(), passing.withheld()) == (b"", b'\n\ndata: {"choices":[],"usage":{"a":1}}')


# --- what is held back


def test_an_event_passes_as_soon_as_its_end_is_known() -> None:
    passing = UsageFilter()
    assert passing.feed(b"data: a\n") == b""
    assert passing.feed(b"\ndata: b\r\n\r") == b"data: a\n\ndata: b\r\n\r"
    assert passing.feed(b"\n") == b"\n"
    assert passing.feed(b"\n\r\n: c\n\n: d") == b"\n\r\n: c\n\n"


def test_a_long_event_passes_as_it_is_and_those_around_it_do_not() -> None:
    short = b'data: {"choices":[],"usage":{}}\n\n'
    long = b'data: {"choices":[],"usage":{},"x":"' + b"x" * 100 + b'"}\n\n'
    stream = short + long + short + long
    for pieces in ([stream], bytewise(stream), cut(stream, [40, 80, 120])):
        assert filtered(pieces, max_event=60) == long + long


def test_what_is_held_of_an_event_without_end_stays_small() -> None:
    passing = UsageFilter(max_event=1000)
    for number in range(1, 1001):
        passing.feed(b"x" * 100)
        assert len(passing._held) <= 1000, number


# --- recorded answers, and any


@pytest.mark.parametrize("name", ["openai/chat.sse", "azure/chat.sse", "xai/chat.sse", "ollama/openai-chat.sse"])
def test_a_recorded_stream_is_what_it_would_have_been(name: str) -> None:
    asked = (RECORDED / name).read_bytes()
    events = [event for event in asked.split(b"\n\n") if not (b'"choices":[]' in event and b'"usage":{' in event)]
    unasked = b"\n\n".join(events).replace(b',"usage":null', b"")
    assert len(unasked) < len(asked)
    assert filtered([asked]) == filtered(bytewise(asked)) == unasked
    crlf, expected = (text.replace(b"\n", b"\r\n") for text in (asked, unasked))
    assert filtered([crlf]) == filtered(bytewise(crlf)) == expected


_WORDS = st.sampled_from(["", "usage", '"usage":null', ',"usage":{}', "é\u2028👋", "data: x\n\n", "\r", "[]", '\\",'])
_BLANKS = st.sampled_from(["\n\n", "\r\n\r\n", "\r\r"])
_COLONS = st.sampled_from([(",", ":"), (", ", ": ")])


@st.composite
def _streams(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A provider's answer to one who asks and to one who does not."""
    separators, blank, escaped = draw(_COLONS), draw(_BLANKS), draw(st.booleans())

    def written(body: dict[str, Any]) -> str:
        return f"data: {json.dumps(body, separators=separators, ensure_ascii=escaped)}{blank}"

    asked, unasked = [], []
    for word in draw(st.lists(_WORDS, max_size=6)):
        if draw(st.integers(0, 9)) == 0:
            asked.append(f": {word.split(chr(10))[0].split(chr(13))[0]}{blank}")
            unasked.append(asked[-1])
            continue
        before = {"id": word, "choices": draw(st.sampled_from([[], [{"delta": {"content": word, "usage": None}}]]))}
        after = draw(st.sampled_from([{}, {"obfuscation": word}]))
        asked.append(written({**before, "usage": None, **after}))
        unasked.append(written({**before, **after}))
    asked.append(written({"id": "c", "choices": [], "usage": {"prompt_tokens": 1, "details": {"usage": None}}}))
    done = f"data: [DONE]{blank}"
    return "".join([*asked, done]).encode(), "".join([*unasked, done]).encode()


@settings(max_examples=300, deadline=None)
@given(_streams(), st.lists(st.integers(0, 1 << 16), max_size=12) | st.none())
def test_however_the_stream_is_cut_the_caller_sees_what_it_would_have_seen(
    streams: tuple[bytes, bytes], places: list[int] | None
) -> None:
    asked, unasked = streams
    assert filtered(bytewise(asked) if places is None else cut(asked, places)) == unasked


_USAGE = b'data: {"choices":[],"usage":{}}'
_NULL = b'data: {"choices":[],"usage":null}'
_LINES = st.sampled_from([_USAGE, _NULL, b"data: x", b": c", b"\xef\xbb\xbf", b"\xc3", b""])
_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n"])
_ANY = st.lists(st.builds(bytes.__add__, _LINES, _ENDS), max_size=12).map(b"".join)


@pytest.mark.parametrize("line", [b"data: x\n", b": ", b"data: x,", b"event: "])
def test_what_is_no_object_keeps_its_null(line: bytes) -> None:
    event = line + _NULL + b"\n\n"
    assert filtered([event]) == filtered(bytewise(event)) == event


@pytest.mark.parametrize("blank", [b"\n\n", b"\n\r\n", b"\r\n\r", b"\r\n\r\n", b"\r\r", b"\r\r\n"])
def test_an_event_is_too_long_or_not_wherever_it_is_cut(blank: bytes) -> None:
    for most in range(len(_USAGE), len(_USAGE) + 5):
        event = _USAGE + blank
        assert filtered(bytewise(event), max_event=most) == filtered([event], max_event=most), most


@settings(max_examples=300, deadline=None)
@given(_ANY, st.lists(st.integers(0, 1 << 16), max_size=12) | st.none(), st.sampled_from([12, 33, 1000]))
def test_where_the_network_cuts_makes_no_difference(stream: bytes, places: list[int] | None, max_event: int) -> None:
    pieces = bytewise(stream) if places is None else cut(stream, places)
    assert filtered(pieces, max_event=max_event) == filtered([stream], max_event=max_event)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=30) | st.sampled_from([_USAGE, _NULL, b"data: {", b"}", b',"usage":null}\n\n'])))
def test_any_bytes_whatever_pass(pieces: list[bytes]) -> None:
    passed = filtered(pieces, max_event=100)
    assert len(passed) <= sum(map(len, pieces))
