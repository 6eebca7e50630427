"""web/call.py: what a caller's body and its answer look like to an application."""

from __future__ import annotations

import asyncio

import pytest

from aiwm.errors import BodyTooLarge, ClientGone
from aiwm.web.call import Call
from aiwm.web.head import Head
from aiwm.wire.headers import Header
from fakes import Wire


def call(wire: Wire, *, method: bytes = b"POST", **options: object) -> Call:
    made = Call(wire, Head(method, b"/", b"", [(b"a", b"1"), (b"a", b"2")]), **options)  # type: ignore[arg-type]
    made.correlation_id = "c-1"
    return made


def with_body(wire: Wire, *pieces: bytes, whole: bool = True) -> Call:
    made = call(wire)
    for piece in pieces:
        made.receive(piece)
    if whole:
        made.received()
    return made


# --- the body ------------------------------------------------------------------------------------------------------


def test_the_first_header_of_a_name_counts() -> None:
    assert call(Wire()).first == {b"a": b"1"}


@pytest.mark.parametrize("pieces", [(), (b"",), (b"one",), (b"one", b"two"), (b"", b"one", b"")])
async def test_a_body_is_the_same_whole_and_in_pieces(pieces: tuple[bytes, ...]) -> None:
    assert await with_body(Wire(), *pieces).body(max_bytes=6) == b"".join(pieces)
    assert await with_body(Wire(), *pieces).stream(max_bytes=6) == b"".join(pieces)
    assert [piece async for piece in with_body(Wire(), *pieces).pieces(max_bytes=6)] == [b"".join(pieces)] * bool(
        b"".join(pieces)
    )


@pytest.mark.parametrize("pieces", [(b"123456",), (b"123", b"456")])
async def test_a_body_over_the_limit_is_refused(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(BodyTooLarge):
        await with_body(Wire(), *pieces).body(max_bytes=5)
    with pytest.raises(BodyTooLarge):
        await with_body(Wire(), *pieces).stream(max_bytes=5)


async def test_a_body_is_waited_for() -> None:
    made = with_body(Wire(), whole=False)
    reading = asyncio.create_task(made.body(max_bytes=100))
    for piece in (b"one", b"two"):
        await asyncio.sleep(0)
        made.receive(piece)
    await asyncio.sleep(0)
    made.received()
    assert await reading == b"onetwo"


async def test_a_caller_who_leaves_before_its_body_is_whole_is_gone() -> None:
    made = with_body(Wire(), b"one", whole=False)
    reading = asyncio.create_task(made.body(max_bytes=100))
    await asyncio.sleep(0)
    made.leave()
    with pytest.raises(ClientGone):
        await reading


async def test_a_body_that_is_not_taken_holds_its_caller_back_until_it_is() -> None:
    wire = Wire()
    made = with_body(wire, b"x" * 300_000, whole=False)
    assert not wire.reading
    assert await made.take() == (b"x" * 300_000, False)
    waiting = asyncio.create_task(made.take())
    await asyncio.sleep(0)
    assert wire.reading
    made.received()
    assert await waiting == (b"", True)


async def test_what_nobody_wants_is_thrown_away_and_read_on() -> None:
    wire = Wire()
    made = with_body(wire, b"x" * 300_000, whole=False)
    made.discard()
    assert wire.reading
    made.receive(b"x" * 300_000)
    assert wire.reading
    made.received()
    assert await made.take() == (b"", True)


async def test_a_caller_who_waits_to_be_asked_is_asked_once_and_only_when_its_body_is_wanted() -> None:
    wire = Wire()
    made = call(wire, expects_continue=True)
    assert wire.written == b""
    reading = asyncio.create_task(made.body(max_bytes=100))
    await asyncio.sleep(0)
    made.receive(b"one")
    await asyncio.sleep(0)
    made.received()
    assert await reading == b"one"
    assert wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_a_caller_who_was_never_asked_for_its_body_is_told_that_the_connection_ends() -> None:
    wire = Wire()
    made = call(wire, expects_continue=True)
    made.discard()
    made.answer(401, [(b"content-length", b"5")], b"hello")
    assert wire.written.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close\r\n" in wire.written
    assert wire.ends == [False]


# --- the answer ----------------------------------------------------------------------------------------------------

_LENGTH: list[Header] = [(b"content-length", b"5")]


def test_the_head_goes_out_with_the_first_piece() -> None:
    wire = Wire()
    made = call(wire)
    made.start(200, _LENGTH)
    assert (wire.written, made.begun) == (b"", False)
    made.write(b"hello", last=True)
    assert wire.written == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-correlation-id: c-1\r\n\r\nhello"
    assert (wire.ends, made.begun, made.answered) == ([True], True, True)


def test_a_body_of_unknown_length_goes_in_chunks_and_the_head_when_it_is_flushed() -> None:
    wire = Wire()
    made = call(wire)
    made.start(200, [])
    made.flush()
    assert wire.written.endswith(b"transfer-encoding: chunked\r\n\r\n")
    made.write(b"hello")
    made.write(b"")
    made.write(b"!", last=True)
    assert wire.written.partition(b"\r\n\r\n")[2] == b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"


def test_for_an_old_caller_the_end_of_the_connection_is_the_end_of_the_body() -> None:
    wire = Wire()
    made = call(wire, version="1.0")
    made.start(200, [])
    made.write(b"hello", last=True)
    assert wire.written.endswith(b"connection: close\r\n\r\nhello")
    assert wire.ends == [False]


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_an_answer_that_has_no_body_has_none(method: bytes, status: int) -> None:
    wire = Wire()
    made = call(wire, method=method)
    made.answer(status, _LENGTH, b"")
    assert wire.written.endswith(b"content-length: 5\r\nx-correlation-id: c-1\r\n\r\n")
    assert wire.ends == [True]


@pytest.mark.parametrize("status", [299, 499, 529, 599])
def test_a_status_without_a_name_has_a_line_too(status: int) -> None:
    wire = Wire()
    call(wire).answer(status, _LENGTH, b"hello")
    assert wire.written.startswith(b"HTTP/1.1 %d \r\ncontent" % status)


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b"])
def test_a_header_can_not_begin_another_one(value: bytes) -> None:
    wire = Wire()
    with pytest.raises(ValueError, match="line break"):
        call(wire).start(200, [(b"note", value)])
    asking = call(wire)
    asking.correlation_id = value.decode("latin-1")
    with pytest.raises(ValueError, match="line break"):
        asking.start(200, [])
    assert wire.written == b""


@pytest.mark.parametrize("body", [b"hell", b"hello!"])
def test_an_answer_that_is_not_as_long_as_it_says_never_ends_well(body: bytes) -> None:
    wire = Wire()
    made = call(wire)
    made.start(200, _LENGTH)
    with pytest.raises(ValueError, match="content-length"):
        made.write(body, last=True)
    assert (wire.ends, made.answered) == ([], False)


def test_to_a_caller_who_is_gone_nothing_is_written_and_who_asked_is_told() -> None:
    wire, told = Wire(), []
    made = call(wire)
    made.on_gone = lambda: told.append("gone")
    made.leave()
    made.leave()
    made.start(200, _LENGTH)
    made.flush()
    made.write(b"hello", last=True)
    assert (wire.written, told, made.answered) == (b"", ["gone"], False)


def test_a_caller_who_leaves_after_its_answer_has_not_left() -> None:
    made = call(Wire())
    made.answer(200, _LENGTH, b"hello")
    made.leave()
    assert not made.gone


def test_a_connection_that_is_to_be_closed_says_so() -> None:
    wire = Wire()
    made = call(wire)
    made.close_after()
    made.answer(200, _LENGTH, b"hello")
    assert b"connection: close\r\n" in wire.written
    assert wire.ends == [False]
