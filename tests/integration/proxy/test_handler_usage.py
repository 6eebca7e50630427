"""A stream that does not ask for its usage is counted, and its caller sees what it would have seen without us."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from callers import Door, Seen, answering_once, fields, framed
from cuttings import cut
from fakes import RawServer
from gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

RECORDED = Path(__file__).parents[2] / "recorded"
ASKED = (RECORDED / "openai" / "chat.sse").read_bytes()
EVENTS = [event + b"\n\n" for event in ASKED.split(b"\n\n") if event]
UNASKED = b"".join([event for event in EVENTS if b'"choices":[]' not in event]).replace(b',"usage":null', b"")

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
BODY = b'{"model":"gpt-5-mini", "messages":[],"stream":true}'
ASKING = b'{"stream_options":{"include_usage":true},"model":"gpt-5-mini", "messages":[],"stream":true}'
CHAT = "v1/chat/completions"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with Gateway(tmp_path_factory.mktemp("aiwm"), AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as gateway:
        door = Door(gateway)
        yield door
        assert door.complaints() == []


async def called(
    door: Door,
    *pieces: bytes,
    body: bytes = BODY,
    path: str = CHAT,
    provider: str = "openai",
    config: dict[str, str] | None = None,
    **deployment: Any,
) -> tuple[Seen, list[tuple[str, str]], bytes, dict[str, Any]]:
    """What the caller saw, what the provider was sent, and the row."""
    async with RawServer(answering_once(*pieces)) as server:
        deployed = door.deploy(server.port, provider, config=config, **deployment)
        seen = await door.call(deployed, path, headers=[("accept-encoding", "gzip, br")], body=body)
        head, sent = server.peers[0].requests[0]
        return seen, fields(head), sent, await door.only_row(deployed)


def encodings(head: list[tuple[str, str]]) -> list[str]:
    return [value for name, value in head if name.lower() == "accept-encoding"]


@pytest.mark.parametrize("size", [1, 7, 50, 1000, len(ASKED)])
async def test_the_provider_is_asked_and_the_caller_sees_nothing_of_it(door: Door, size: int) -> None:
    pieces = [framed([piece]).removesuffix(b"0\r\n\r\n") for piece in cut(ASKED, range(0, len(ASKED), size)) if piece]
    seen, head, sent, row = await called(door, HEAD + CHUNKED, *pieces, b"0\r\n\r\n")
    assert sent == ASKING
    assert encodings(head) == ["identity"]
    assert (seen.body, seen.whole) == (UNASKED, True)
    assert (row["end"], row["source"], row["input_tokens"], row["output_tokens"]) == ("complete", "provider", 2006, 300)


async def test_whoever_asks_gets_all_of_it_and_sends_what_it_sent(door: Door) -> None:
    for body in (ASKING, BODY.replace(b"}", b',"stream_options":{"include_usage":true}}')):
        seen, head, sent, row = await called(door, HEAD + CHUNKED, framed([ASKED]), body=body)
        assert (sent, seen.body) == (body, ASKED)
        assert encodings(head) == ["gzip, br"]
        assert row["source"] == "provider"


async def test_a_deployment_that_is_not_to_ask_does_not(door: Door) -> None:
    seen, head, sent, row = await called(door, HEAD + CHUNKED, framed([UNASKED]), streamUsage="off")
    assert (sent, seen.body, seen.whole) == (BODY, UNASKED, True)
    assert encodings(head) == ["gzip, br"]
    assert (row["source"], row["input_tokens"]) == ("none", 0)


async def test_a_provider_with_the_model_in_its_path_is_asked_too(door: Door) -> None:
    body = b'{"messages":[],"stream":true}'
    path = "openai/deployments/gpt/chat/completions?api-version=2025-01-01"
    seen, head, sent, row = await called(door, HEAD + CHUNKED, framed([ASKED]), body=body, path=path, provider="azure")
    assert sent == b'{"stream_options":{"include_usage":true},"messages":[],"stream":true}'
    assert encodings(head) == ["identity"]
    assert (seen.body, row["source"], row["model_asked"]) == (UNASKED, "provider", "gpt")
    path = path.replace("chat/completions", "images/generations")
    seen, head, sent, row = await called(door, HEAD + CHUNKED, framed([ASKED]), body=body, path=path, provider="azure")
    assert (sent, seen.body) == (body, ASKED)


@pytest.mark.parametrize(
    ("provider", "path", "body"),
    [
        ("openai", CHAT, BODY.replace(b"true", b"false")),
        ("openai", "v1/responses", BODY),
        ("openai", "v1/threads", BODY),
        ("mistral", CHAT, BODY),
        ("cohere", CHAT, BODY),
        ("google", "v1beta/openai/chat/completions", BODY),
        ("anthropic", "v1/messages", BODY),
    ],
)
async def test_nobody_else_is_asked(door: Door, provider: str, path: str, body: bytes) -> None:
    seen, head, sent, _ = await called(door, HEAD + CHUNKED, framed([ASKED]), body=body, path=path, provider=provider)
    assert (sent, seen.body) == (body, ASKED)
    assert encodings(head) == ["gzip, br"]


async def test_an_answer_with_a_length_loses_it(door: Door) -> None:
    seen, _, _, row = await called(door, HEAD + b"content-length: %d\r\n\r\n" % len(ASKED), ASKED)
    assert (seen.body, seen.whole, seen.one(b"content-length")) == (UNASKED, True, None)
    assert row["source"] == "provider"


async def test_a_provider_that_compresses_all_the_same_is_passed_on_as_it_is(door: Door) -> None:
    body = gzip.compress(ASKED)
    seen, _, _, row = await called(door, HEAD + b"content-encoding: gzip\r\n" + CHUNKED, framed([body]))
    assert seen.body == body
    assert (row["source"], row["output_tokens"]) == ("provider", 300)


async def test_an_operator_who_says_what_is_accepted_is_not_overruled(door: Door) -> None:
    config = {"apiKey": "sk-key", "header-Accept-Encoding": "gzip"}
    _, head, _, _ = await called(door, HEAD + CHUNKED, framed([ASKED]), config=config)
    assert encodings(head) == ["gzip"]


async def test_an_answer_that_is_no_stream_is_passed_on_as_it_is(door: Door) -> None:
    answer = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    seen, _, _, row = await called(door, head % (b"200 OK", len(answer)) + answer)
    assert (seen.body, row["input_tokens"]) == (answer, 3)
    seen, _, _, row = await called(door, head % (b"400 Bad Request", len(answer)) + answer)
    assert (seen.status, seen.body, row["source"]) == (400, answer, "none")


async def test_a_stream_that_breaks_off_breaks_off_after_its_last_event(door: Door) -> None:
    whole, half = EVENTS[1], EVENTS[2][:40]
    cut_off = framed([whole, half]).removesuffix(b"0\r\n\r\n")
    seen, _, _, row = await called(door, HEAD + CHUNKED + cut_off)
    assert (seen.body, seen.whole) == (whole.replace(b',"usage":null', b""), False)
    said = json.loads(row["raw_usage"])["estimated"]
    assert (row["end"], row["source"], said["outputChars"]) == ("provider-broke", "estimated", len("Say"))


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n\r\n"])
async def test_a_stream_without_a_proper_last_line_is_counted_all_the_same(door: Door, end: bytes) -> None:
    for asked in (ASKED.rstrip(), ASKED.replace(b"data: [DONE]\n\n", b"").rstrip()):
        seen, _, _, row = await called(door, HEAD + CHUNKED, framed([asked + end]))
        unasked = UNASKED.rstrip() if b"[DONE]" in asked else UNASKED.replace(b"data: [DONE]\n\n", b"")
        assert seen.body.rstrip() == unasked.rstrip()
        assert (row["source"], row["output_tokens"]) == ("provider", 300)
