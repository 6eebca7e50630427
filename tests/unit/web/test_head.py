"""web/head.py: a head that is known is what the parser would have said of it, whatever else comes with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.web.call import Call
from aiwm.web.connection import Connection, Crowd, Patience
from aiwm.web.head import Head, Heads
from cuttings import cut

_HEADS = [
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\nAuthorization: Bearer t\r\nA: 1\r\nA: 2\r\n\r\n",
    b"PUT /b?c=1 HTTP/1.1\r\nhost: x\r\ncontent-length: {n}\r\nx-length: 3\r\n\r\n",
    b"POST /a HTTP/1.1\r\nX-Length: 5\r\nHost: x\r\nContent-Length: {n}\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nX-Content-Length: 1\r\nContent-Length: {n}\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length:{n}\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0{n}\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: {n} \r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: +{n}\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\nContent-Length: {n}\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\nExpect: 100-continue\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"POST /a HTTP/1.0\r\nHost: x\r\nContent-Length: {n}\r\nConnection: keep-alive\r\n\r\n",
    b"\r\n\r\nPOST /a HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\n\r\n",
    b"POST http://x/a HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nHost: x\r\nContent-Length: {n}\r\n\r\n",
    b"POST /a HTTP/1.1\nHost: x\nContent-Length: {n}\n\n",
    b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
]

_bodies = st.sampled_from(
    [b"", b"{}", b"\r\n", b"\r\n\r\n", b"x" * 40, b"ength: 2\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]
) | st.binary(max_size=30)
_requests = st.tuples(st.sampled_from(_HEADS), _bodies).map(lambda each: _request(*each))


def _request(head: bytes, body: bytes, *, length: int | None = None) -> bytes:
    said = len(body) if length is None else length
    return head.replace(b"{n}", b"%d" % said) + (body if b"{n}" in head else b"")


class _Line(asyncio.Transport):
    """A connection whose other end is the test."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def write_eof(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def _tells(call: Call) -> None:
    """Answers with all that it was told."""
    body = await call.body(max_bytes=1 << 20)
    told = [
        call.method,
        call.path,
        call.head.query,
        body,
        *(b"%b: %b" % each for each in call.head.headers(call.length)),
    ]
    call.answer(200, [(b"content-length", b"%d" % len(told))], bytes(len(told)))
    _told.append([each.decode("latin-1") for each in told])


_told: list[list[str]] = []
_STEPS = 20
"""Of the event loop, in which all that came is answered: nothing here waits for anything else."""


async def _said(crowd: Crowd, pieces: Sequence[bytes]) -> tuple[str, bytes, bool]:
    """What the application was told of what came in these pieces, and what was answered."""
    _told.clear()
    line = _Line()
    connection = Connection(lambda _: _tells, crowd, Patience())
    connection.connection_made(line)
    for piece in pieces:
        if not line.closed:
            connection.data_received(piece)
        await asyncio.sleep(0)
    for _ in range(_STEPS):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.gather(*crowd.tasks, return_exceptions=True)
    written = b"\r\n".join(
        each for each in line.written.split(b"\r\n") if b'"timestamp"' not in each and not each.startswith(b"x-corr")
    )
    return json.dumps(_told), written, line.closed


async def _same(before: Sequence[bytes], pieces: Sequence[bytes]) -> None:
    """What comes in these pieces is told alike to a program that knows nothing and to one that was sent all this."""
    knowing = Crowd()
    for data in before:
        for _ in range(2):
            await _said(knowing, [data])
    assert await _said(knowing, pieces) == await _said(Crowd(), pieces)


@given(st.lists(_requests, min_size=1, max_size=4), st.lists(st.integers(0, 1 << 12), max_size=6))
def test_whatever_is_known_the_application_is_told_the_same(requests: list[bytes], places: list[int]) -> None:
    known = [_request(head, b"z" * length) for head in _HEADS for length in (0, 7, 12)]
    asyncio.run(_same([*known, b"".join(requests)], cut(b"".join(requests), places)))


@pytest.mark.parametrize("first", _HEADS)
async def test_two_that_come_together_are_two(first: bytes) -> None:
    for second in (_HEADS[0], _HEADS[3], _HEADS[-1]):
        for body in (b"", _request(second, b"{}")):
            one, other = _request(first, body), _request(second, b"abc")
            for pieces in ([one + other], [one, other], [one[: -len(body) or None], body, other], [one[:-1], one[-1:]]):
                await _same([other, one, one + other, b"".join(pieces)], pieces)


async def test_the_end_of_a_body_is_no_part_of_the_head_behind_it() -> None:
    knowing, end = Crowd(), b"Z" + _request(_HEADS[0], b"abc")
    for _ in range(2):
        await _said(knowing, [_request(_HEADS[1], b"xyZ")[:-1], end])
    told, written, _ = await _said(knowing, [end])
    assert (told, written[:12]) == ("[]", b"HTTP/1.1 400")


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length", b"CONTENT-LENGTH"])
async def test_a_head_that_came_twice_is_known_with_any_length(name: bytes) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: x\r\n%b: %%d\r\nA: b\r\n\r\n" % name
    crowd = Crowd()
    for length in (3, 20):
        assert crowd.heads.find(head % 5 + b"12345") is None
        await _said(crowd, [head % length + b"x" * length])
    found = crowd.heads.find(head % 5 + b"12345")
    if name == b"CONTENT-LENGTH":
        assert found is None  # Nobody spells it so.
        return
    assert found is not None
    known, length, start = found
    assert (length, (head % 5)[:start]) == (5, head % 5)
    assert known.head.headers(length) == [(b"host", b"x"), (b"content-length", b"5"), (b"a", b"b")]


async def test_what_is_made_of_a_head_is_found_with_it() -> None:
    plans: list[object] = []

    async def plans_once(call: Call) -> None:
        plans.append(call.head.plan)
        call.head.plan = call.head.plan or object()
        call.answer(200, [(b"content-length", b"0")], b"")

    crowd = Crowd()
    for length in (1, 22, 333, 4):
        connection = Connection(lambda _: plans_once, crowd, Patience())
        connection.connection_made(_Line())
        connection.data_received(_request(_HEADS[0], b"x" * length))
        await asyncio.sleep(0)
    assert plans[:2] == [None, None]
    assert plans[2] is plans[3] is not None


def test_what_never_comes_again_takes_little_and_drives_nothing_out() -> None:
    heads, kept = Heads(), b"POST /kept HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    for _ in range(2):
        heads.learn(kept, Head(b"POST", b"/kept", b"", []))
    for number in range(40_000):
        heads.learn(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n" % number, Head(b"POST", b"/", b"", []))
    assert heads.find(kept) is not None
    assert heads.find(b"POST /39999 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n") is None


def test_heads_that_are_remembered_have_an_end_in_number_and_in_size() -> None:
    heads = Heads()

    def head(number: int, size: int) -> bytes:
        return b"POST /%d%b HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n" % (number, b"a" * size)

    for size, known in ((10, 16_384), (7_000, 2_300)):
        for number in range(20_000):
            for _ in range(2):
                heads.learn(head(number, size), Head(b"POST", b"/", b"", []))
        found = [heads.find(head(number, size)) is not None for number in range(20_000)]
        assert found[-1]
        assert 0.9 * known < sum(found) <= 1.1 * known
    heads.learn(head(1, 9_000), Head(b"POST", b"/", b"", []))
    heads.learn(head(1, 9_000), Head(b"POST", b"/", b"", []))
    assert heads.find(head(1, 9_000)) is None
