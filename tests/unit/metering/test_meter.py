"""metering/meter: the row of an answer is right however the answer is cut, encoded or ended, and there is one."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import brotli
import msgspec
import pytest
import zstandard

from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.domain.users import Principal, Role
from aiwm.errors import Unavailable
from aiwm.metering.meter import Meter
from aiwm.metering.subject import Begun, Subject
from aiwm.providers import registry
from aiwm.targets import Target
from aiwm.wire.origins import Timeouts
from aiwm.wire.urls import base_url

RECORDED = Path(__file__).parents[2] / "recorded"
ANSWERS = sorted(path for path in RECORDED.glob("*/*") if not path.name.endswith(".truth.json"))
KINDS = {".sse": b"text/event-stream; charset=utf-8", ".ndjson": b"application/x-ndjson", ".json": b"application/json"}
ENCODINGS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"br": brotli.compress,
    b"zstd": zstandard.ZstdCompressor().compress,
}


class Book:
    """What was written down, in its order."""

    def __init__(self, *, full: bool = False) -> None:
        self.openings: list[UsageRow] = []
        self.ended: list[Meter] = []
        self._full = full

    @property
    def closings(self) -> list[UsageRow]:
        return [row for meter in self.ended if (row := meter.row) is not None]

    def opened(self, subject: Subject, begun: Begun) -> None:
        if self._full:
            raise Unavailable
        self.openings.append(msgspec.json.decode(subject.opening(begun), type=UsageRow))

    def closed(self, meter: Meter) -> None:
        self.ended.append(meter)


def target(provider: str) -> Target:
    return Target(
        deployment_id="d" * 24,
        org_id="o" * 24,
        model_id="m" * 24,
        provider=registry.provider(provider),
        base=base_url("https://provider.example"),
        lines=b"",
        replaced=frozenset(),
        defaults=(),
        query=(),
        secrets=(),
        model="a-model",
        aliases=frozenset(),
        allowed=None,
        timeouts=Timeouts(1, 1, 1),
    )


CALLER = Principal(
    user_id="u" * 24,
    username="caller",
    org_id="o" * 24,
    roles=(Role.VIEWER,),
    session="",
    issued_at=0,
    expires_at=0,
    home_org_id="o" * 24,
    rank=1,
)


REQUEST = b'{"model":"a-model","messages":[{"role":"user","content":"123456789"}]}'
"""Its texts have 20 characters."""


def meter(book: Book, provider: str = "openai", *, asked: str | None = "a-model", caller: Principal = CALLER) -> Meter:
    return Meter(
        registry.provider(provider),
        Subject.of(target(provider), caller, asked),
        request_id="f" * 24,
        correlation_id="correlation",
        body=REQUEST,
        book=book,
        clock=lambda: 1_800_000_000_000,
    )


def metered(path: Path, pieces: list[bytes], *headers: tuple[bytes, bytes]) -> UsageRow:
    book = Book()
    watching = meter(book, path.parent.name)
    watching.sent()
    watching.begin(200, dict([(b"content-type", KINDS[path.suffix]), *headers]))
    for piece in pieces:
        watching.feed(piece)
    watching.close(End.COMPLETE)
    [row] = book.closings
    return row


def truth(path: Path) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(path.with_name(f"{path.name}.truth.json").read_text())
    return known


def said(row: UsageRow, names: dict[str, Any]) -> dict[str, Any]:
    """What a row says of the things that the truth is known of."""
    facts = {"model": row.model_answered, "source": row.source, "service_tier": row.service_tier}
    return {name: facts[name] if name in facts else getattr(row.usage, name) for name in names}


def cut_at_random(body: bytes, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    places = sorted(chance.choices(range(len(body) + 1), k=chance.choice((1, 2, 5, 40, len(body)))))
    return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_usage_is_the_same_however_the_network_cuts_the_answer(path: Path) -> None:
    body, known = path.read_bytes(), truth(path)
    assert said(metered(path, [body]), known) == known
    for seed in range(200):
        assert said(metered(path, cut_at_random(body, seed)), known) == known, f"seed {seed}"


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda name: name.decode())
@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_compressed_answer_has_the_same_usage(path: Path, encoding: bytes) -> None:
    body, known = ENCODINGS[encoding](path.read_bytes()), truth(path)
    for seed in range(10):
        row = metered(path, cut_at_random(body, seed), (b"content-encoding", encoding))
        assert said(row, known) == known, f"seed {seed}"


@pytest.mark.parametrize(
    "path", [each for each in ANSWERS if each.suffix != ".json"], ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_line_ends_and_a_missing_last_one_make_no_difference(path: Path) -> None:
    body, known = path.read_bytes().replace(b"\r\n", b"\n"), truth(path)
    for form in (body.replace(b"\n", b"\r\n"), body.rstrip(b"\n")):
        assert said(metered(path, [form]), known) == known


OPENAI_STREAM = RECORDED / "openai" / "chat.sse"


def test_a_stream_that_is_cut_short_is_booked_once_with_what_was_seen() -> None:
    book = Book()
    watching = meter(book)
    watching.sent()
    watching.begin(200, {b"content-type": b"text/event-stream"})
    watching.feed(b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\ndata: {"cho')
    watching.close(End.CLIENT_GONE)
    watching.close(End.COMPLETE)
    [row] = book.closings
    assert (row.end, row.usage, row.source) == (End.CLIENT_GONE, Usage(7, 3), Source.PROVIDER)


def test_a_json_answer_that_is_cut_after_its_usage_still_counts() -> None:
    path = RECORDED / "openai" / "chat.json"
    row = metered(path, [b'{"model":"m","usage":{"prompt_tokens":7,"completion_tokens":3},"choices":[{"mess'])
    assert row.usage == Usage(7, 3)


def test_a_json_answer_too_large_to_be_kept_is_counted_by_its_end() -> None:
    path = RECORDED / "openai" / "chat.json"
    pieces = [b'{"data":["', *[b"x" * 65_536] * 40, b'"],"usage":{"prompt_tokens":7,"total_tokens":7}}']
    assert metered(path, pieces).usage == Usage(7, 0)


def test_nothing_is_booked_for_a_request_that_never_went_out() -> None:
    book = Book()
    watching = meter(book)
    watching.close(End.PROVIDER_BROKE)
    assert (book.openings, book.closings, watching.row) == ([], [], None)


def test_a_request_that_can_not_be_booked_is_refused_and_leaves_no_row() -> None:
    book = Book(full=True)
    watching = meter(book)
    with pytest.raises(Unavailable):
        watching.sent()
    watching.close(End.PROVIDER_BROKE)
    assert book.closings == []


def test_a_request_that_is_sent_again_on_a_fresh_connection_is_opened_once() -> None:
    book = Book()
    watching = meter(book)
    watching.sent()
    watching.sent()
    watching.close(End.COMPLETE)
    [opening], [closing] = book.openings, book.closings
    assert opening.request_id == closing.request_id
    assert opening.end is End.GATEWAY_DIED


def test_who_calls_with_an_api_key_is_booked_with_it_from_the_opening_on() -> None:
    book = Book()
    counting = meter(book, caller=replace(CALLER, api_key_id="k" * 24))
    counting.sent()
    counting.close(End.TIMED_OUT)
    assert [row.api_key_id for row in book.openings + book.closings] == ["k" * 24] * 2


def test_what_can_not_be_decoded_is_not_metered_and_breaks_nothing() -> None:
    path = RECORDED / "openai" / "chat.json"
    for encoding in (b"gzip", b"no-such-coding"):
        row = metered(path, [b"this is not compressed"], (b"content-encoding", encoding))
        assert (row.source, row.usage, row.end) == (Source.NONE, Usage(), End.COMPLETE)


@pytest.mark.parametrize("body", [b"", b"[", b"{", b"null", b"[" * 100_000, b'{"usage": 5}', b'{"usage":{"a":1e999}}'])
def test_garbage_counts_as_nothing(body: bytes) -> None:
    row = metered(RECORDED / "openai" / "chat.json", [body])
    assert row.usage == Usage()


def test_an_error_answer_has_its_status_and_no_tokens() -> None:
    book = Book()
    watching = meter(book)
    watching.sent()
    watching.begin(429, {b"content-type": b"application/json", b"x-request-id": b"req_1"})
    watching.feed(b'{"error":{},"usage":{"prompt_tokens":5}}')
    watching.close(End.COMPLETE)
    [row] = book.closings
    assert (row.status, row.usage, row.provider_request_id) == (429, Usage(), "req_1")


# -- answers that ended early


def ended(
    end: End, *pieces: bytes, provider: str = "openai", status: int | None = 200, kind: bytes = b"text/event-stream"
) -> UsageRow:
    book = Book()
    watching = meter(book, provider)
    watching.sent()
    if status is not None:
        watching.begin(status, {b"content-type": kind})
    for piece in pieces:
        watching.feed(piece)
    watching.close(end)
    [row] = book.closings
    return row


def word(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}], "usage": None}).encode() + b"\n\n"


NUMBERS = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
EARLY = [End.CLIENT_GONE, End.PROVIDER_BROKE, End.TIMED_OUT, End.GATEWAY_DIED]


@pytest.mark.parametrize("end", EARLY)
def test_a_stream_that_ended_before_its_numbers_is_estimated(end: End) -> None:
    row = ended(end, word("12345"), word("6789"))
    assert (row.usage, row.source) == (Usage(5, 3), Source.ESTIMATED)
    assert json.loads(row.raw_usage or "") == {"estimated": {"outputChars": 9, "inputChars": 20, "charsPerToken": 4}}


@pytest.mark.parametrize("end", EARLY)
def test_a_stream_that_ended_after_its_numbers_has_these(end: End) -> None:
    row = ended(end, word("12345"), NUMBERS)
    assert (row.usage, row.source) == (Usage(7, 3), Source.PROVIDER)
    assert "estimated" not in (row.raw_usage or "")
    assert ended(end, word("12345"), NUMBERS.rstrip()).usage == Usage(7, 3)


def test_a_stream_that_came_to_its_end_without_numbers_is_not_estimated() -> None:
    row = ended(End.COMPLETE, word("12345"))
    assert (row.usage, row.source, row.raw_usage) == (Usage(), Source.NONE, None)


def test_what_came_after_running_numbers_is_added_however_the_stream_was_cut() -> None:
    path = RECORDED / "anthropic" / "messages.sse"
    seen = path.read_bytes().partition(b"event: content_block_stop")[0]
    said = len('Hello! "usage": {"output_tokens": 1} Grüße 🎈')
    for seed in range(100):
        row = ended(End.CLIENT_GONE, *cut_at_random(seen, seed), provider="anthropic")
        assert (row.usage.output_tokens, row.source) == (2 + -(-said // 4), Source.ESTIMATED), f"seed {seed}"
        assert row.usage.cache_read_tokens == 2051
        raw = json.loads(row.raw_usage or "")
        assert raw["cache_read_input_tokens"] == 2051
        assert raw["estimated"] == {"outputChars": said, "charsPerToken": 4}


def test_an_answer_that_never_began_has_cost_its_request_unless_the_provider_broke() -> None:
    for end in (End.CLIENT_GONE, End.TIMED_OUT, End.GATEWAY_DIED):
        assert ended(end, status=None).usage == Usage(5, 0)
    row = ended(End.PROVIDER_BROKE, status=None)
    assert (row.usage, row.source) == (Usage(), Source.NONE)


def test_an_error_that_ended_early_is_not_estimated() -> None:
    assert ended(End.CLIENT_GONE, b'{"error"', status=500, kind=b"application/json").source is Source.NONE


def test_a_request_that_asks_no_model_is_not_estimated() -> None:
    book = Book()
    watching = meter(book, asked=None)
    watching.sent()
    watching.close(End.CLIENT_GONE)
    [row] = book.closings
    assert (row.usage, row.source) == (Usage(), Source.NONE)


def test_a_json_answer_that_ended_early_has_cost_its_request() -> None:
    row = ended(End.CLIENT_GONE, b'{"choices":[{"message":{"content":"Hel', kind=b"application/json")
    assert (row.usage, row.source) == (Usage(5, 0), Source.ESTIMATED)
