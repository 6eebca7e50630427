"""server.py: what is no HTTP, heads without an end, and addresses that somebody has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest

from aiwm.errors import StartError
from aiwm.listeners import bind, bound
from aiwm.server import Server
from aiwm.web.call import Application, Call
from aiwm.web.connection import Patience
from gateway import free_ports
from patience import PATIENCE

_LARGE = 20_000_000


_TOGETHER = 8


def _in_one_turn() -> Application:
    """Answers when so many have called, all of them in one turn of the loop."""
    barrier = asyncio.Barrier(_TOGETHER)

    async def app(call: Call) -> None:
        await barrier.wait()
        call.start(200, [])
        call.write(b"half")
        if call.path != b"/broken":
            call.write(b" and half", last=True)

    return app


async def _app(call: Call) -> None:
    if call.path == b"/half":
        call.start(200, [])
        call.flush()
        call.write(b"half")
        await asyncio.Event().wait()
    if call.path == b"/large":
        call.answer(200, [(b"content-length", b"%d" % _LARGE)], b"x" * _LARGE)
        return
    if call.path == b"/refused":
        call.close_after()
        call.answer(413, [(b"content-length", b"7")], b"refused")
        return
    if call.path == b"/body":
        body = b"%d" % len(await call.body(max_bytes=1 << 20))
    else:
        body = json.dumps({name.decode(): len(value) for name, value in call.head.headers(call.length)}).encode()
    call.answer(200, [(b"content-length", b"%d" % len(body))], body)


@contextlib.asynccontextmanager
async def _serving(app: Application = _app, **patience: float) -> AsyncIterator[int]:
    with bound({"only": ("127.0.0.1", 0, "AIWM_PORT")}) as listeners:
        number = listeners["only"].getsockname()[1]
        server = Server({number: app}, drain_seconds=0, patience=Patience(**patience))
        running = asyncio.create_task(server.run_on(list(listeners.values())))
        yield number
        server.stop()
        await running


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with _serving() as number:
        yield number


async def _exchange(port: int, *parts: bytes) -> bytes:
    """Everything that is answered until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), PATIENCE)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def _problem(answer: bytes) -> dict[str, object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"x-aiwm-error: gateway" in head
    assert b"connection: close" in head
    told: dict[str, object] = json.loads(body)
    assert list(told) == ["statusCode", "message", "error", "timestamp", "path", "correlationId"]
    return told


_POST = b"POST /body HTTP/1.1\r\nHost: x\r\n"
_NEXT = (b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",)
"""What comes behind a request that is refused could be anything, and is not answered."""


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"Content-Length: 1, 1\r\n\r\na",
        b"Content-Length: 1 1\r\n\r\na",
        b"Content-Length: +1\r\n\r\na",
        b"Content-Length: -1\r\n\r\na",
        b"Content-Length: 0x1\r\n\r\na",
        b"Content-Length: 1.0\r\n\r\na",
        b"Content-Length:\r\n\r\na",
        b"Content-Length: 18446744073709551617\r\n\r\na",
        b"Content-Length : 1\r\n\r\na",
        b"Content-Length\r\n: 1\r\n\r\na",
        b"Content-Length\x0b: 1\r\n\r\na",
        b"Transfer-Encoding: identity\r\n\r\na",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"X: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_a_body_that_two_readers_could_end_at_two_places_is_refused(port: int, framing: bytes) -> None:
    _problem(await _exchange(port, _POST + framing, *_NEXT))


async def test_a_body_in_chunks_is_of_no_version_before_1_1(port: int) -> None:
    head = b"POST /body HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
    _problem(await _exchange(port, head + b"0\r\n\r\n", *_NEXT))


@pytest.mark.parametrize(
    "chunk",
    [b"1\na\r\n", b"1\r\naXX", b"1\r\na\n", b"-1\r\na\r\n", b"0x1\r\na\r\n", b"1 \r\na\r\n", b"\r\na\r\n",
     b"g\r\na\r\n", b"fffffffffffffffff\r\na\r\n", b"1;a\nb\r\na\r\n", b"1;a=\x00\r\na\r\n", b"0\r\nX : y\r\n\r\n",
     b"0\r\nX: a\r\n b\r\n\r\n"],
)  # fmt: skip
async def test_a_chunk_that_two_readers_could_end_at_two_places_breaks_the_request_off(port: int, chunk: bytes) -> None:
    """Its head was good and may be on its way already: then there is nothing but to close."""
    answer = await _exchange(port, _POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n", *_NEXT)
    assert not answer or _problem(answer)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost: x\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\nY: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\rY: b\r\n\r\n",
    ],
)
async def test_a_line_that_does_not_end_with_both_its_characters_is_refused(port: int, head: bytes) -> None:
    _problem(await _exchange(port, head, *_NEXT))


@pytest.mark.parametrize(
    "line",
    [b"X: a\r\n b", b"X: a\r\n\tb", b"X:\r\n b", b" X: a", b"X\x00: a", b"X: a\x00b", b"X: a\x01b", b"X: a\x7fb",
     b"X : a", b": a", b"X\xe9: a", b"X(y): a", b"X Y: a", b"X"],
)  # fmt: skip
async def test_a_header_that_is_folded_or_has_what_no_header_has_is_refused(port: int, line: bytes) -> None:
    _problem(await _exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % line, *_NEXT))
    _problem(await _exchange(port, b"GET / HTTP/1.1\r\n%b\r\nHost: x\r\n\r\n" % line, *_NEXT))


@pytest.mark.parametrize(
    "hosts",
    [b"", b"Host: x\r\nHost: x\r\n", b"Host: x\r\nX: y\r\nhost: evil\r\n", b"Host: x\r\nHost:\r\n"],
    ids=["none", "twice the same", "two", "an empty one besides"],
)
async def test_a_request_has_one_host(port: int, hosts: bytes) -> None:
    told = _problem(await _exchange(port, b"GET / HTTP/1.1\r\n%b\r\n" % hosts, *_NEXT))
    assert str(told["message"]).startswith("The request must have one Host header")


async def test_a_request_of_the_old_version_needs_no_host(port: int) -> None:
    assert (await _exchange(port, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (b"http://evil.example/", "must name the same host"),
        (b"http://x:81/", "must name the same host"),
        (b"http://x@evil.example/", "without a user name"),
        (b"http://evil.example@x/", "without a user name"),
        (b"http:///", "without a user name"),
        (b"http:/x/", None),
        (b"ftp://x/", "without a user name"),
        (b"file:///etc/passwd", "without a user name"),
        (b"//evil.example@x", None),
        (b"*", "without a user name"),
        (b"/body#/models", "must not have a fragment"),
        (b"http://x/body#/models", "must not have a fragment"),
        (b"models", None),
        (b"", None),
        (b"/\x00", None),
        (b"/\x01", None),
        (b"/\x7f", None),
        (b"/\xc3\xa9", None),
        (b"/?\xc3\xa9", None),
        (b"/a b", None),
        (b"/\t", None),
    ],
)
async def test_a_target_that_is_no_path_of_ours_is_refused(port: int, target: bytes, told: str | None) -> None:
    answer = await _exchange(port, b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
    if target.startswith(b"//"):
        assert answer.startswith(b"HTTP/1.1 200 OK")  # A path, as it stands; there is none such.
        return
    message = str(_problem(answer)["message"])
    assert message.startswith("This is no HTTP/1.1 request") if told is None else told in message


@pytest.mark.parametrize("authority", [b"evil.example:443", b"x:80", b"x"])
async def test_nobody_is_connected_to_anything(port: int, authority: bytes) -> None:
    _problem(await _exchange(port, b"CONNECT %b HTTP/1.1\r\nHost: x\r\n\r\n" % authority, *_NEXT))


@pytest.mark.parametrize("target", [b"http://x/body", b"HTTP://X/body?a=b", b"https://x/body"])
async def test_a_target_that_is_a_whole_url_of_this_host_is_its_path(port: int, target: bytes) -> None:
    call = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
    answer = await _exchange(port, call % target)
    assert (answer[:15], answer[-1:]) == (b"HTTP/1.1 200 OK", b"2")


async def test_many_small_headers_are_a_large_head(port: int) -> None:
    many = b"".join(b"a%d:\r\n" % number for number in range(3000))
    _problem(await _exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n" % many))
    some = b"".join(b"a%d:\r\n" % number for number in range(1000))
    answer = await _exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n" % some)
    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_the_server_goes_on_while_others_are_refused(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for refused in (b"\x00" * 1000, _POST + b"Content-Length: x\r\n\r\n", b"GET * HTTP/1.1\r\nHost: x\r\n\r\n"):
        _problem(await _exchange(port, refused))
        writer.write(_POST + b"Content-Length: 3\r\n\r\nabc")
        assert (await reader.readuntil(b"\r\n\r\n3")).startswith(b"HTTP/1.1 200 OK")
    writer.close()


@pytest.mark.parametrize(
    "request_",
    [
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS on a plain port
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /\x80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
        b"GET /\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_in_our_shape_and_the_connection_closed(port: int, request_: bytes) -> None:
    told = _problem(await _exchange(port, request_, *_NEXT))
    assert told["message"] == "This is no HTTP/1.1 request, or its head is larger than 65536 bytes"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 100) for n in range(700)) + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"x" * 70_000 + b": y\r\n\r\n",
    ],
    ids=["target", "one header", "many headers", "a header's name"],
)
async def test_a_head_that_is_too_large_is_refused(port: int, head: bytes) -> None:
    _problem(await _exchange(port, head))


async def test_a_head_without_an_end_is_not_kept(port: int) -> None:
    """However small its pieces are."""
    answer = await _exchange(port, b"GET / HTTP/1.1\r\n", *(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(200)))
    assert not answer or _problem(answer)


async def test_a_large_head_within_the_limit_is_read(port: int) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 60_000 + b"\r\nConnection: close\r\n\r\n"
    answer = await _exchange(port, request)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["x"] == 60_000


async def test_each_request_of_a_connection_has_the_whole_limit(port: int) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40_000 + b"\r\n"
    answer = await _exchange(port, (request + b"\r\n"), request + b"\r\n", request + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 3


async def _shouted(port: int, head: bytes, piece: bytes, times: int) -> bytes:
    """What is answered to one who sends all of it before it listens."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    for _ in range(times):
        writer.write(piece)
        await asyncio.wait_for(writer.drain(), PATIENCE)
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()


async def test_who_sends_on_when_it_is_refused_hears_why(port: int) -> None:
    """Closed at once, the connection would be reset under it, and the answer lost."""
    head = b"POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n"
    answer = await _shouted(port, head, b"x" * 1_000_000, 50)
    assert answer.startswith(b"HTTP/1.1 413")
    assert answer.endswith(b"\r\n\r\nrefused")


async def test_who_sends_a_head_without_an_end_hears_why(port: int) -> None:
    _problem(await _shouted(port, b"GET / HTTP/1.1\r\n", b"X: %b\r\n" % (b"x" * 100_000), 50))


async def test_who_sends_what_is_no_body_while_it_is_worked_on_hears_why(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE) == b"HTTP/1.1 100 Continue\r\n\r\n"
    for _ in range(50):
        writer.write(b"no chunk" * 100_000)
        await asyncio.wait_for(writer.drain(), PATIENCE)
    _problem(await asyncio.wait_for(reader.read(), PATIENCE))
    writer.close()


async def test_who_sends_for_ever_is_left() -> None:
    async with _serving(parting=0.2) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)

        async def send() -> None:
            while True:
                writer.write(b"POST / HTTP/1.9\r\n" * 1000)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send(), PATIENCE)


async def test_an_answer_that_is_on_its_way_gets_no_other_answer_into_it(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /half HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"half" in await reader.readuntil(b"half")
    writer.write(b"no http\r\n\r\n")
    rest = await asyncio.wait_for(reader.read(), PATIENCE)
    assert b"400" not in rest
    assert not rest.endswith(b"0\r\n\r\n")
    writer.close()


async def test_calls_that_are_sent_without_waiting_are_answered_in_turn(port: int) -> None:
    call = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b"
    sizes = (3, 70_000, 0, 11)
    calls = [call % (size, b"" if size != 11 else b"Connection: close\r\n", b"x" * size) for size in sizes]
    answers = await _exchange(port, b"".join(calls))
    assert [int(answer.rpartition(b"\r\n")[2]) for answer in answers.split(b"HTTP/1.1 200 OK")[1:]] == list(sizes)


@pytest.mark.parametrize(
    ("path", "told"),
    [(b"/", b"4\r\nhalf\r\n9\r\n and half\r\n0\r\n\r\n"), (b"/broken", b"4\r\nhalf\r\n")],
)
async def test_callers_who_are_answered_in_one_turn_hear_all_before_their_connection_closes(
    path: bytes, told: bytes
) -> None:
    request_ = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path
    async with _serving(_in_one_turn()) as port:
        answers = await asyncio.gather(*[_exchange(port, request_) for _ in range(_TOGETHER)])
    assert [answer.partition(b"\r\n\r\n")[2] for answer in answers] == [told] * _TOGETHER


async def test_who_leaves_in_the_turn_of_the_answers_takes_nobody_elses(port: int) -> None:
    request_ = b"GET /left HTTP/1.1\r\nHost: x\r\n\r\n"

    async def leave() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_)
        await writer.drain()
        writer.transport.abort()

    for _ in range(20):
        stays = asyncio.gather(
            *[_exchange(port, request_.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) for _ in range(4)]
        )
        await asyncio.gather(*[leave() for _ in range(4)])
        assert all(answer.endswith(b'{"host": 1, "connection": 5}') for answer in await stays)


async def test_what_stands_behind_a_body_is_no_header(port: int) -> None:
    call = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await _exchange(port, call + b"2\r\nhi\r\n0\r\nX-Late: 1\r\n\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]).keys() == {"host", "connection", "transfer-encoding"}


async def test_a_caller_who_reads_slowly_gets_all_of_it_and_one_who_does_not_read_is_left() -> None:
    async with _serving(stuck=1.0, rest=1.0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        size = 0
        while piece := await reader.read(100_000):
            size += len(piece)
            if size < _LARGE // 4:
                await asyncio.sleep(0.04)
        assert size > _LARGE
        writer.close()

        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(3)  # Nothing is read for longer than twice its patience.
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(_LARGE)
        writer.close()


async def test_an_offer_to_upgrade_is_not_taken_up_and_the_body_is_read(port: int) -> None:
    call = b"POST /body HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello"
    answers = await _exchange(port, call + call.replace(b"upgrade\r\nUpgrade: h2c", b"close"))
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert answers.endswith(b"5")


async def test_a_caller_who_waits_to_be_asked_for_the_body_is_asked(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hello")
    assert (await reader.readuntil(b"\r\n\r\n5")).startswith(b"HTTP/1.1 200 OK")
    writer.close()


@pytest.mark.parametrize(
    "part",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n",
    ],
    ids=["a head", "a body", "a second head"],
)
async def test_a_request_without_an_end_is_given_up(part: bytes) -> None:
    async with _serving(head=0.5, body=0.5, rest=0.5) as port:
        answer = await _exchange(port, part)
    last = answer[answer.rindex(b"HTTP/1.1 ") :]
    assert last.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in last


async def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    async with _serving(head=0.2) as impatient:
        assert await _exchange(impatient) == b""


async def test_a_connection_that_is_kept_for_another_call_is_not_kept_for_ever() -> None:
    async with _serving(rest=0.2) as port:
        answer = await _exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1


# --- addresses -----------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_told_with_the_setting_to_change() -> None:
    with bind("127.0.0.1", 0, "AIWM_PORT") as first:
        port = first.getsockname()[1]
        with pytest.raises(StartError) as caught:
            bind("127.0.0.1", port, "AIWM_IAM_PORT")
    assert str(caught.value) == (
        f"port {port} on 127.0.0.1 is taken: stop the program that has it, or set AIWM_IAM_PORT"
    )


def test_a_port_that_was_used_a_moment_ago_is_free() -> None:
    [port] = free_ports(1)
    with bind("127.0.0.1", port, "AIWM_PORT") as first, socket.create_connection(("127.0.0.1", port)):
        first.accept()[0].close()  # Leaves the server's side in TIME_WAIT.
    bind("127.0.0.1", port, "AIWM_PORT").close()


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("203.0.113.7", "can't listen on port 0 of 203.0.113.7"),
        ("no.such.host.invalid", "no.such.host.invalid is not an address of this machine"),
        ("300.1.1.1", "300.1.1.1 is not an address of this machine"),
    ],
)
def test_an_address_that_is_not_of_this_machine_is_told(host: str, told: str) -> None:
    with pytest.raises(StartError, match="AIWM_HOST") as caught:
        bind(host, 0, "AIWM_PORT")
    assert str(caught.value).startswith(told)


def test_one_port_that_is_taken_lets_go_of_the_others() -> None:
    with bind("127.0.0.1", 0, "AIWM_PORT") as other:
        taken = other.getsockname()[1]
        [free] = free_ports(1)
        with pytest.raises(StartError), bound({"a": ("127.0.0.1", free, "A"), "b": ("127.0.0.1", taken, "B")}):
            raise AssertionError("it was taken")
        bind("127.0.0.1", free, "A").close()


def test_a_listener_hears_at_once() -> None:
    """Two programs could both bind an address that neither listens on."""
    with bind("127.0.0.1", 0, "AIWM_PORT") as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


async def test_what_is_to_be_done_before_anything_is_sent_is_done_for_each_answer() -> None:
    done: list[bool] = []
    with bound({"only": ("127.0.0.1", 0, "AIWM_PORT")}) as listeners:
        number = listeners["only"].getsockname()[1]
        server = Server({number: _app}, drain_seconds=0)
        server.before_sending(lambda: done.append(True))
        running = asyncio.create_task(server.run_on(list(listeners.values())))
        for times in (1, 2):
            answer = await _exchange(number, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert len(done) >= times
        server.stop()
        await running


async def test_one_task_answers_the_calls_of_a_connection_and_ends_with_it() -> None:
    async with _serving() as number:
        serving = asyncio.all_tasks()
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        working: set[asyncio.Task[object]] = set()
        for _ in range(3):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r")[0]))
            working |= asyncio.all_tasks() - serving
        [task] = working
        assert not task.done()
        writer.close()
        await asyncio.wait_for(task, PATIENCE)
