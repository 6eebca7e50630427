"""The bytes are fed to the connection directly: no sockets, so that many ways to cut them can be tried."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwm.errors import AnswerBroken, UpstreamUnreachable
from aiwm.proxy.connection import (
    FRAMING_LIMIT,
    HEAD_LIMIT,
    HIGH_WATER,
    Connection,
    UpstreamResponse,
)
from aiwm.web.outbox import Outbox
from aiwm.wire.origins import Origin, Timeouts

TIMEOUTS = Timeouts(connect=5, first_byte=5, idle=5)


class FakeTransport(asyncio.Transport):
    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self._connection, self._closing = connection, False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)

    def lost(self, exc: Exception) -> None:
        self._closing = True
        self._connection.connection_lost(exc)


class Owner:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.told: list[str] = []

    def keep(self, connection: Connection) -> None:
        self.told.append("keep")

    def gone(self, connection: Connection) -> None:
        self.told.append("gone")


class Line:
    """A connection with an exchange under way, and the provider's end of it."""

    def __init__(self) -> None:
        self.owner = Owner()
        self.connection = Connection(Origin("http", "provider.example", 80), self.owner)
        self.transport = FakeTransport(self.connection)
        self.connection.connection_made(self.transport)

    async def ask(self, *, is_head: bool = False) -> asyncio.Task[UpstreamResponse]:
        exchange = self.connection.exchange(b"GET / HTTP/1.1\r\n\r\n", b"", TIMEOUTS, is_head=is_head, chunked=False)
        task = asyncio.create_task(exchange)
        await asyncio.sleep(0)
        return task

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.data_received(piece)

    async def drop(self) -> None:
        """Nothing of a connection, its timer neither, outlives its test."""
        self.connection.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def whole(response: UpstreamResponse) -> bytes:
    body = b""
    while piece := await response.next():
        body += piece
    return body


def cut(data: bytes, places: list[int] | None) -> list[bytes]:
    """At these places; None is everywhere."""
    if places is None:
        return [data[place : place + 1] for place in range(len(data))]
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(marks)]


token = st.text("abcdefghijklmnopqrstuvwxyzABC-", min_size=1, max_size=12).map(str.encode)
text = st.binary(max_size=20).map(lambda data: bytes(byte for byte in data if 32 < byte < 127 or byte > 127))
fields = st.lists(st.tuples(token.map(lambda name: b"x-" + name), text), max_size=6)
bodies = st.lists(st.binary(min_size=1, max_size=200), max_size=5)
framings = st.sampled_from(["length", "chunked", "closed"])
places = st.lists(st.integers(min_value=0, max_value=5000), max_size=12) | st.none()


def answer(framing: str, headers: list[tuple[bytes, bytes]], pieces: list[bytes], *, interim: bool) -> bytes:
    head = b"HTTP/1.1 100 Continue\r\nx-interim: 1\r\n\r\n" if interim else b""
    head += b"HTTP/1.1 203 Quite Fine\r\n" + b"".join(b"%b: %b\r\n" % field for field in headers)
    body = b"".join(pieces)
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if framing == "chunked":
        chunks = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nx-trailer: 1\r\n\r\n"
    return head + b"\r\n" + body


@settings(deadline=None, max_examples=80)
@given(framing=framings, headers=fields, pieces=bodies, interim=st.booleans(), places=places)
async def test_an_answer_is_the_same_however_the_network_cuts_it(
    framing: str, headers: list[tuple[bytes, bytes]], pieces: list[bytes], interim: bool, places: list[int] | None
) -> None:
    line = Line()
    task = await line.ask()
    line.feed(*cut(answer(framing, headers, pieces, interim=interim), places))
    if framing == "closed":
        line.connection.eof_received()
    response = await task
    expected = [(name.lower(), value) for name, value in headers]
    assert response.status == 203
    assert response.headers[: len(headers)] == expected
    assert {name for name, _ in response.headers[len(headers) :]} <= {b"content-length", b"transfer-encoding"}
    assert response.complete
    assert await whole(response) == b"".join(pieces)
    response.release()
    assert ("keep" in line.owner.told) == (framing != "closed")
    await line.drop()


@settings(deadline=None, max_examples=80)
@given(framing=st.sampled_from(["length", "chunked"]), pieces=bodies, share=st.floats(0, 1), places=places)
async def test_an_answer_that_ends_before_its_end_is_never_taken_for_a_whole_one(
    framing: str, pieces: list[bytes], share: float, places: list[int] | None
) -> None:
    data = answer(framing, [], pieces, interim=False)
    data = data[: min(int(share * len(data)), len(data) - 1)]
    line = Line()
    task = await line.ask()
    line.feed(*cut(data, places))
    line.connection.eof_received()
    if b"\r\n\r\n" not in data:
        with pytest.raises(UpstreamUnreachable):
            await task
    else:
        response = await task
        assert not response.complete
        body = b""
        with pytest.raises(AnswerBroken):  # noqa: PT012 - which of the pieces is the last, only the failure tells
            while piece := await response.next():
                body += piece
        assert b"".join(pieces).startswith(body)
        response.release()
    await line.drop()
    assert line.owner.told == ["gone"]


@settings(deadline=None, max_examples=80)
@given(data=st.binary(max_size=400), places=places, valid=st.booleans())
async def test_no_garbage_gets_anything_but_our_errors(data: bytes, places: list[int] | None, valid: bool) -> None:
    line = Line()
    task = await line.ask()
    line.feed(*cut(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + data if valid else data, places))
    line.connection.eof_received()
    try:
        response = await task
        await whole(response)
    except (UpstreamUnreachable, AnswerBroken):
        pass
    await line.drop()


@settings(deadline=None)
@given(framings, bodies, places, st.lists(st.booleans(), max_size=30), st.lists(st.booleans(), max_size=30))
async def test_what_is_handed_over_meanwhile_and_what_is_waited_for_are_the_whole_answer_in_order(
    framing: str, pieces: list[bytes], places: list[int] | None, takes_more: list[bool], rests: list[bool]
) -> None:
    line, got, handed = Line(), b"", 0

    def meanwhile(piece: bytes) -> bool:
        nonlocal got, handed
        got += piece
        handed += 1
        return not takes_more or takes_more.pop()

    async def read() -> None:
        nonlocal got
        response = await task
        last = False
        while not last:
            piece = await response.next(meanwhile)
            last = response.complete
            got += piece

    task = await line.ask()
    reading = asyncio.create_task(read())
    for piece in cut(answer(framing, [], pieces, interim=False), places):
        line.feed(piece)
        if not rests or rests.pop():
            await asyncio.sleep(0)
    line.connection.eof_received()
    await reading
    assert got == b"".join(pieces)
    await line.drop()


async def test_no_task_is_woken_for_what_is_handed_over() -> None:
    line, got = Line(), []
    task = await line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
    response = await task

    def meanwhile(piece: bytes) -> bool:
        got.append(piece)
        return True

    reading = response.next(meanwhile)
    waiter = reading.send(None)
    line.feed(b"a", b"b", b"c")
    assert got == [b"a", b"b", b"c"]
    assert not waiter.done()
    line.feed(b"d")
    assert waiter.done()
    reading.close()
    await line.drop()


@pytest.mark.parametrize("rest", [b"bcd", b"bc", b""])
async def test_what_comes_when_no_more_is_wanted_is_kept(rest: bytes) -> None:
    line = Line()
    task = await line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
    response = await task
    reading = asyncio.create_task(response.next(lambda _: False))
    await asyncio.sleep(0)
    line.feed(b"a", *cut(rest, None))
    assert await reading == rest
    assert response.complete == (rest == b"bcd")
    await line.drop()


async def test_what_a_taker_raises_is_raised_where_the_answer_is_waited_for() -> None:
    line = Line()
    task = await line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
    response = await task

    def meanwhile(_: bytes) -> bool:
        raise ValueError("not this one")

    reading = asyncio.create_task(response.next(meanwhile))
    await asyncio.sleep(0)
    line.feed(b"a", b"b")
    with pytest.raises(ValueError, match="not this one"):
        await reading
    assert not line.connection.usable
    await line.drop()


async def test_an_answer_that_came_with_its_head_is_there_without_another_wait() -> None:
    line = Line()
    task = await line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    response = await task
    assert response.complete
    reading = response.next()
    with pytest.raises(StopIteration) as stop:
        reading.send(None)
    assert stop.value.value == b"hi"
    await line.drop()


async def test_one_connection_carries_many_answers() -> None:
    line = Line()
    for number in range(3):
        task = await line.ask()
        line.feed(b"HTTP/1.1 200 OK\r\nx-number: %d\r\ncontent-length: 1\r\n\r\n%d" % (number, number))
        response = await task
        assert response.headers == [(b"x-number", b"%d" % number), (b"content-length", b"1")]
        assert await whole(response) == b"%d" % number
        response.release()
    assert line.owner.told == ["keep", "keep", "keep"]
    await line.drop()


async def test_a_second_release_does_not_touch_the_next_answer() -> None:
    line = Line()
    task = await line.ask()
    line.feed(b"HTTP/1.1 204 No Content\r\n\r\n")
    first = await task
    first.release()
    task = await line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
    second = await task
    first.release()
    line.feed(b"hi")
    assert await whole(second) == b"hi"
    second.release()
    first.release()
    assert line.owner.told == ["keep", "keep"]
    await line.drop()


async def test_bytes_that_nobody_asked_for_close_a_kept_connection() -> None:
    line = Line()
    task = await line.ask()
    line.feed(b"HTTP/1.1 204 No Content\r\n\r\n")
    (await task).release()
    assert line.connection.usable
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
    assert not line.connection.usable
    await line.drop()


@pytest.mark.parametrize(
    "surplus", [b"x", b"\0", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]
)
@pytest.mark.parametrize("together", [True, False])
async def test_bytes_behind_an_answer_do_not_harm_it_and_close_the_connection(surplus: bytes, together: bool) -> None:
    line = Line()
    task = await line.ask()
    data = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
    line.feed(*([data + surplus] if together else [data, surplus]))
    response = await task
    assert response.complete
    assert await whole(response) == b"hi"
    response.release()
    assert "keep" not in line.owner.told
    await line.drop()


@pytest.mark.parametrize("described", [b"content-length: 5", b"transfer-encoding: chunked", b"content-length: 0"])
async def test_the_answer_to_head_has_no_body_and_the_next_one_is_read_right(described: bytes) -> None:
    line = Line()
    task = await line.ask(is_head=True)
    line.feed(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % described)
    response = await task
    assert response.complete
    assert await response.next() == b""
    response.release()
    task = await line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    response = await task
    assert await whole(response) == b"hi"
    await line.drop()


async def test_a_body_behind_the_answer_to_head_is_not_delivered_and_closes_the_connection() -> None:
    line = Line()
    task = await line.ask(is_head=True)
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    response = await task
    assert response.complete
    assert await response.next() == b""
    response.release()
    assert "keep" not in line.owner.told
    await line.drop()


@pytest.mark.parametrize("size", [1, 1000, HEAD_LIMIT])
@pytest.mark.parametrize("excess", [0, 1])
async def test_a_head_is_taken_up_to_its_limit_and_not_a_byte_beyond(size: int, excess: int) -> None:
    bare = b"HTTP/1.1 200 OK\r\nx-filler: \r\ncontent-length: 2\r\n\r\n"
    head = bare.replace(b"filler: ", b"filler: " + b"x" * (HEAD_LIMIT - len(bare) + excess)) + b"hi"
    line = Line()
    task = await line.ask()
    line.feed(*(head[start : start + size] for start in range(0, len(head), size)) if size > 1 else (head,))
    if excess:
        with pytest.raises(UpstreamUnreachable):
            await task
    else:
        assert await whole(await task) == b"hi"
    await line.drop()


@pytest.mark.parametrize("endless", [b"x-trailer: y\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_what_is_not_the_body_is_bounded_too(endless: bytes) -> None:
    line = Line()
    task = await line.ask()
    if endless.startswith(b"x-"):
        line.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
        response = await task
    for _ in range(FRAMING_LIMIT // 1000 + 1):
        line.feed(endless * (1000 // len(endless) + 1))
    with pytest.raises((AnswerBroken, UpstreamUnreachable)):
        await whole(response if task.done() else await task)
    await line.drop()


@pytest.mark.parametrize("framing", [b"content-length: 1000000", b"transfer-encoding: chunked", b"x-until: closed"])
async def test_a_client_that_does_not_take_the_answer_holds_the_provider_back(framing: bytes) -> None:
    line = Line()
    task = await line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
    response = await task
    piece = b"x" * 1000
    wire = b"3e8\r\n%b\r\n" % piece if b"chunked" in framing else piece
    sent = 0
    while line.transport.reading:
        line.feed(wire)
        sent += len(piece)
    assert sent <= HIGH_WATER + 1000
    assert len(await response.next()) == sent
    assert line.transport.reading
    response.release()
    await line.drop()


async def test_a_complete_answer_that_was_held_back_leaves_the_connection_reading() -> None:
    line = Line()
    task = await line.ask()
    half = b"x" * HIGH_WATER
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(half) * 2), half)
    assert not line.transport.reading
    line.feed(half)  # The transport had read it already.
    response = await task
    assert response.complete
    response.release()
    assert line.transport.reading
    assert line.owner.told == ["keep"]
    await line.drop()


async def test_what_arrived_is_delivered_before_the_failure_is_told() -> None:
    line = Line()
    task = await line.ask()
    line.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi")
    line.transport.lost(ConnectionResetError())
    response = await task
    assert await response.next() == b"hi"
    with pytest.raises(AnswerBroken) as caught:
        await response.next()
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    with pytest.raises(AnswerBroken):
        await response.next()
    response.release()
    response.release()
    assert line.owner.told == ["gone"]


async def test_spaces_around_a_header_value_are_not_part_of_it_and_its_bytes_are() -> None:
    line = Line()
    task = await line.ask()
    line.feed(b"HTTP/1.1 200\r\nX-Mixed:  a b \t\r\nx-empty:\r\nX-MIXED: \xe9\r\ncontent-length: 0\r\n\r\n")
    response = await task
    assert response.headers == [
        (b"x-mixed", b"a b"),
        (b"x-empty", b""),
        (b"x-mixed", b"\xe9"),
        (b"content-length", b"0"),
    ]
    await line.drop()


@pytest.mark.parametrize(("seconds", "stale"), [(0.0, True), (1.9, True), (2.1, False), (300.0, False)])
async def test_only_a_connection_that_ends_at_once_and_unheard_was_dead_before_the_request(
    monkeypatch: pytest.MonkeyPatch, seconds: float, stale: bool
) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    line = Line()
    task = await line.ask()
    now += seconds
    line.transport.lost(ConnectionResetError())
    with pytest.raises(UpstreamUnreachable) as caught:
        await task
    assert caught.value.reached
    assert line.connection.stale is stale


async def test_a_connection_that_has_said_something_was_not_dead_before_the_request() -> None:
    line = Line()
    task = await line.ask()
    line.feed(b"H")
    line.transport.lost(ConnectionResetError())
    with pytest.raises(UpstreamUnreachable):
        await task
    assert not line.connection.stale
