"""Bytes are sacred: what a provider gets and what a caller gets is what the other one sent, to the last bit."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard

from aiwm.web.call import Call
from aiwm.web.head import Head
from callers import Body, Door, answering, answering_once, fields, framed, request, unchunked
from fakes import RawPeer, RawServer, Wire
from inside import inside
from patience import PATIENCE
from workers import KINDS

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

MIB = 1 << 20


@pytest.fixture(scope="module", params=KINDS)
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with KINDS[request.param](tmp_path_factory.mktemp("aiwm"), AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as gateway:
        door = Door(gateway)
        yield door
        assert door.complaints() == []


def noise(size: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(size)


def digest(data: bytes) -> str:
    """Compared instead of the bytes: a failure must not print megabytes."""
    return hashlib.sha256(data).hexdigest()


# -- answers


JSON_ANSWER = b'{"id":1e400,"n":12345678901234567890, "n" : 1.0, "s":"\\u00e9\xc3\xa9\\/","usage":null }\n \n'
EVENTS = (
    b': a comment\r\n\r\nevent: message\r\ndata: {"a":\r\ndata: 1}\r\n\r\n'
    b'data: {"text":"\xe2\x80\xa8 \xf0\x9f\x98\x80"}\n\n\n\ndata:[DONE]\rid: 1\r\rretry: 5\n\ndata: no end'
)
ANSWERS = {
    "json": (b"application/json", JSON_ANSWER),
    "events": (b"text/event-stream; charset=utf-8", EVENTS),
    "lines": (b"application/x-ndjson", b'{"a":1}\n{"b":2}\r\n{"c"'),
    "not the json it claims to be": (b"application/json", b"\xff\xfe{]\x00"),
    "binary": (b"audio/mpeg", noise(70_000)),
    "one byte": (b"text/plain", b"\x00"),
    "empty": (b"text/plain", b""),
    "no type": (b"", b"?"),
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("framing", ["length", "chunked", "until closed"])
async def test_an_answer_arrives_as_the_provider_wrote_it(door: Door, kind: str, framing: str) -> None:
    content_type, body = ANSWERS[kind]
    head = b"HTTP/1.1 200 OK\r\n" + (b"content-type: %b\r\n" % content_type if content_type else b"")
    if framing == "length":
        answer = head + b"content-length: %d\r\n\r\n" % len(body) + body
    elif framing == "chunked":
        answer = head + b"transfer-encoding: chunked\r\n\r\n" + framed([body] if body else [])
    else:
        answer = head + b"connection: close\r\n\r\n" + body
    async with RawServer(answering_once(answer)) as server:
        seen = await door.call(door.deploy(server.port))
    assert (seen.status, seen.body, seen.whole) == (200, body, True)
    assert seen.all(b"content-type") == ([content_type] if content_type else [])


async def test_a_stream_passes_each_byte_on_before_the_next_one_is_written(door: Door) -> None:
    seen = asyncio.Semaphore(0)

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for at in range(len(EVENTS)):
            await peer.write(framed([EVENTS[at : at + 1]]).removesuffix(LAST_CHUNK))
            await seen.acquire()
        await peer.write(LAST_CHUNK)

    async with RawServer(script) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            await line.send(request("POST", door.path(deployment, "v1/responses"), [door.bearer], b"{}"))
            assert (await line.head()).status == 200
            for at in range(len(EVENTS)):
                assert await line.chunk() == EVENTS[at : at + 1]
                seen.release()
            assert await line.chunk() == b""


class _SlowCaller(Wire):
    """Takes nothing more once it has been sent something, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.waited_for, self.goes_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def write(self, data: bytes) -> None:
        super().write(data)
        self.held_back = not self.goes_on.is_set()
        self.begun.set()

    async def drained(self) -> None:
        self.waited_for.set()
        await self.goes_on.wait()
        self.held_back = False


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_what_comes_while_a_slow_caller_is_waited_for_is_passed_on(tmp_path: Path, framing: str) -> None:
    wire = _SlowCaller()

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
        chunked = framing == "chunked"
        await peer.write(
            head + (b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n" if chunked else b"content-length: 3\r\n\r\na")
        )
        await wire.begun.wait()
        await peer.write(b"1\r\nb\r\n" if chunked else b"b")
        await wire.waited_for.wait()
        await peer.write(b"1\r\nc\r\n0\r\n\r\n" if chunked else b"c")
        peer.finish()
        await peer.closed()  # So all of it is there.
        wire.goes_on.set()

    async with RawServer(script) as server, inside(tmp_path, private_upstreams=("127.0.0.1",)) as running:
        caller = running.caller()
        model = await caller.model(apiEndpoint=f"http://127.0.0.1:{server.port}")
        deployment = await caller.deployment(model)
        headers = [(b"host", b"localhost"), (b"authorization", caller.headers["authorization"].encode())]
        path = f"/deployments/{deployment['_id']}/inference/v1/files".encode()
        call = Call(wire, Head(b"GET", path, b"", headers))
        call.received()
        async with asyncio.timeout(PATIENCE):
            await running.program.gateway(call)
    head, _, body = wire.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert (unchunked(body) if framing == "chunked" else body) == b"abc"


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_bodies_of_any_size_arrive_though_nobody_reads_for_a_while(door: Door, framing: str) -> None:
    """Buffers fill up on the way, and at some of these sizes the end of the body is what no longer has room."""
    most = noise(6 * MIB)
    turns = asyncio.Semaphore(8)
    received: dict[int, str] = {}

    def pieces(body: bytes) -> Body:
        return body if framing == "length" else [body[at : at + 50_000] for at in range(0, len(body), 50_000)]

    async def script(peer: RawPeer) -> None:
        # A connection that it closed behind an answer could be the one that the next body is sent on.
        while head := await peer.read_head():
            await asyncio.sleep(0.1)
            body = await peer.read_body(head)
            body = body if framing == "length" else unchunked(body)
            received[len(body)] = digest(body)
            said = b"content-length: %d" % len(body) if framing == "length" else b"transfer-encoding: chunked"
            await peer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (said, framed(pieces(body))))

    async def echoed(size: int, deployment: str) -> tuple[str, str]:
        body = most[:size]
        async with turns, await door.line(limit=1 << 16) as line:
            await line.send(request("POST", door.path(deployment, "v1/files"), [door.bearer], pieces(body)))
            head = await line.head()
            await asyncio.sleep(0.1)
            seen = await line.body(head)
            assert (seen.status, seen.whole) == (200, True), seen.body[:500]
            return digest(body), digest(seen.body)

    sizes = range(1_000_000, len(most), 200_000)
    async with RawServer(script) as server:
        deployment = door.deploy(server.port)
        for size, (sent, seen) in zip(
            sizes, await asyncio.gather(*(echoed(size, deployment) for size in sizes)), strict=True
        ):
            assert (size, sent) == (size, received[size]) == (size, seen)


CODINGS = {
    "gzip": gzip.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("status", [200, 429])
async def test_a_compressed_answer_stays_compressed(door: Door, coding: str, status: int) -> None:
    body = CODINGS[coding](JSON_ANSWER * 50)
    head = b"HTTP/1.1 %d X\r\ncontent-encoding: %b\r\ncontent-type: application/json\r\n" % (status, coding.encode())
    async with RawServer(answering(head + b"content-length: %d\r\n\r\n" % len(body) + body)) as server:
        seen = await door.call(door.deploy(server.port))
    assert (seen.status, seen.one(b"content-encoding")) == (status, coding.encode())
    assert digest(seen.body) == digest(body)


@pytest.mark.parametrize("coding", ["gzip", "x-unknown"])
async def test_a_compressed_error_that_is_not_what_it_says_arrives_as_it_is(door: Door, coding: str) -> None:
    body = noise(100_000)
    head = b"HTTP/1.1 500 X\r\ncontent-encoding: %b\r\ncontent-length: 100000\r\n\r\n" % coding.encode()
    async with RawServer(answering(head + body)) as server:
        seen = await door.call(door.deploy(server.port))
    assert (seen.status, digest(seen.body), seen.whole) == (500, digest(body), True)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_very_large_compressed_error_arrives_whole(door: Door, framing: str) -> None:
    text = noise(3 * MIB).hex().encode()
    body = gzip.compress(text, 1)
    assert len(body) > 2 * MIB
    head = b"HTTP/1.1 500 X\r\ncontent-encoding: gzip\r\n"
    pieces = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
    if framing == "length":
        script = answering_once(head + b"content-length: %d\r\n\r\n" % len(body), *pieces)
    else:
        script = answering_once(head + b"transfer-encoding: chunked\r\n\r\n", framed(pieces))
    async with RawServer(script) as server:
        seen = await door.call(door.deploy(server.port))
    assert seen.whole
    # So long an error is searched for the key as it goes by, which takes its compression off.
    assert seen.one(b"content-encoding") is None
    assert digest(seen.body) == digest(text)


async def test_twenty_megabytes_come_down_unchanged(door: Door) -> None:
    body = noise(20 * MIB)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with RawServer(answering(head + body)) as server:
        seen = await door.call(door.deploy(server.port), method="GET")
    assert (digest(seen.body), seen.whole) == (digest(body), True)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (204, b""),
        (204, b"content-length: 0\r\n"),
        (204, b"content-length: 5\r\n"),
        (304, b'etag: "x"\r\n'),
        (304, b'etag: "x"\r\ncontent-length: 1234\r\n'),
    ],
)
async def test_an_answer_that_has_no_body_by_its_status_ends_at_once(door: Door, status: int, headers: bytes) -> None:
    async with RawServer(answering(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, headers))) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            for _ in range(2):  # On one connection: nothing of the first answer may be left in the way.
                await line.send(request("GET", door.path(deployment, "x"), [door.bearer]))
                seen = await line.body(await line.head())
                assert (seen.status, seen.body) == (status, b"")
                assert seen.one(b"etag") == (b'"x"' if b"etag" in headers else None)
        assert {row["end"] for row in await door.rows(deployment)} == {"complete"}


async def test_a_head_request_gets_the_headers_of_the_body_that_does_not_come(door: Door) -> None:
    async with RawServer(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\nx-a: b\r\n\r\n")) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            for _ in range(2):
                await line.send(request("HEAD", door.path(deployment, "x"), [door.bearer]))
                seen = await line.head()
                assert (seen.status, seen.one(b"content-length"), seen.one(b"x-a")) == (200, b"1234", b"b")
    assert [head.split(b" ", 1)[0] for head, _ in server.peers[0].requests] == [b"HEAD", b"HEAD"]


async def test_the_headers_of_an_answer_keep_their_order_and_their_duplicates(door: Door) -> None:
    sent = b"x-b: 1\r\nX-A: 2\r\nlink: <a>\r\nx-b: 3\r\nlink: <b>\r\nx-empty:\r\nx-latin: caf\xe9\r\n"
    async with RawServer(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n%b\r\n" % sent)) as server:
        seen = await door.call(door.deploy(server.port))
    ours = {b"content-length", b"x-correlation-id"}
    assert [header for header in seen.headers if header[0] not in ours] == [
        (b"x-b", b"1"),
        (b"x-a", b"2"),
        (b"link", b"<a>"),
        (b"x-b", b"3"),
        (b"link", b"<b>"),
        (b"x-empty", b""),
        (b"x-latin", b"caf\xe9"),
    ]


async def test_interim_answers_are_not_taken_for_the_answer(door: Door) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    async with RawServer(answering(interim + b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok")) as server:
        seen = await door.call(door.deploy(server.port))
    assert (seen.status, seen.body, seen.all(b"link")) == (201, b"ok", [])


# -- requests


LAST_CHUNK = b"0\r\n\r\n"


def received(server: RawServer) -> tuple[bytes, bytes]:
    """The only request that the provider got."""
    ((head, body),) = [request for peer in server.peers for request in peer.requests]
    return head, body


MULTIPART = (
    b'--cut\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--cut\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    + noise(300_000)
    + b"\r\n--cut--\r\n"
)
REQUESTS: dict[str, tuple[str, bytes]] = {
    "json": ("application/json", b' {"a":1.0, "a":2,"model" :\t"x"}\n'),
    "multipart": ("multipart/form-data; boundary=cut", MULTIPART),
    "gzip": ("application/json", gzip.compress(JSON_ANSWER)),
    "one byte": ("text/plain", b"\n"),
    "empty": ("text/plain", b""),
    "large": ("application/octet-stream", noise(20 * MIB)),
}


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("cut", [False, True], ids=["length", "chunked"])
async def test_a_body_arrives_at_the_provider_as_the_caller_wrote_it(door: Door, kind: str, cut: bool) -> None:
    content_type, body = REQUESTS[kind]
    sent: Body = body
    if cut:
        size = max(1, len(body) // 7)
        sent = [body[at : at + size] for at in range(0, len(body), size)]
    async with RawServer(answering()) as server:
        seen = await door.call(
            door.deploy(server.port), "v1/files", headers=[("content-type", content_type)], body=sent
        )
        assert (seen.status, seen.body) == (200, b"ok")
        head, got = received(server)
    chunked = b"transfer-encoding: chunked" in head.lower()
    assert digest(unchunked(got) if chunked else got) == digest(body)
    assert head.lower().count(b"content-length:") == (0 if chunked else 1)
    assert ("content-type", content_type) in fields(head)
    if not cut:
        assert not chunked


async def test_an_upload_that_comes_slowly_is_passed_on_while_it_comes(door: Door) -> None:
    arrived = asyncio.Semaphore(0)

    async def script(peer: RawPeer) -> None:
        for number in range(1, 6):
            while bytes(peer.received).count(b"1\r\n.\r\n") < number:
                assert await peer.read()
            arrived.release()
        while not peer.received.endswith(LAST_CHUNK):
            assert await peer.read()
        await peer.answer()

    async with RawServer(script) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            head = request("PUT", door.path(deployment, "v1/files"), [door.bearer], [])
            await line.send(head.removesuffix(LAST_CHUNK))
            for _ in range(5):
                await line.send(b"1\r\n.\r\n")
                await asyncio.wait_for(arrived.acquire(), PATIENCE)
            await line.send(LAST_CHUNK)
            assert (await line.head()).status == 200


async def test_a_large_upload_needs_little_memory(door: Door) -> None:
    size, piece = 64 * MIB, noise(MIB)
    expected = hashlib.sha256()
    got = hashlib.sha256()

    async def script(peer: RawPeer) -> None:
        reader = peer._reader
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(size // MIB):
            got.update(await reader.readexactly(MIB))
        await peer.answer()

    async with RawServer(script) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            headers = [door.bearer, ("content-length", str(size))]
            door.forget_peak_memory()
            before = door.peak_memory()
            await line.send(request("PATCH", door.path(deployment, "v1/files"), headers, []).split(b"transfer")[0])
            await line.send(b"\r\n")
            for _ in range(size // MIB):
                expected.update(piece)
                await line.send(piece)
            assert (await line.head()).status == 200
            assert door.peak_memory() - before < 16 * MIB
    assert got.hexdigest() == expected.hexdigest()


async def test_a_body_of_the_largest_size_may_have_its_model_filled_in(door: Door) -> None:
    text = b'{"messages":"%b"}' % (b"x" * (20 * MIB))
    async with RawServer(answering()) as server:
        seen = await door.call(door.deploy(server.port), "v1/chat/completions", body=text)
        assert seen.status == 200
        _, got = received(server)
    assert digest(got) == digest(b'{"model":"a-model",' + text[1:])


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH", "OPTIONS", "POST"])
@pytest.mark.parametrize("body", [b"", b"\x00\r\n"], ids=["no body", "body"])
async def test_every_method_passes_with_and_without_a_body(door: Door, method: str, body: bytes) -> None:
    async with RawServer(answering()) as server:
        seen = await door.call(door.deploy(server.port), "v1/files/x", method=method, body=body)
        assert seen.status == 200
        head, got = received(server)
    assert head.startswith(method.encode() + b" /v1/files/x HTTP/1.1\r\n")
    assert got == body
    assert (b"content-length" in head.lower()) == (bool(body) or method in {"POST", "PUT", "PATCH"})


@pytest.mark.parametrize(
    "query", ["a=1&a=2&b=&c", "q=%2F%3f+%20&%C3%A9", "", "a?b=/../&//", "alt=sse&key=", "x=a;b,c'()*!$@:~"]
)
async def test_the_query_is_not_touched(door: Door, query: str) -> None:
    async with RawServer(answering()) as server:
        await door.call(door.deploy(server.port), f"v1/files?{query}", method="GET")
        head, _ = received(server)
    assert head.split(b"\r\n")[0].decode() == f"GET /v1/files{'?' if query else ''}{query} HTTP/1.1"


async def test_the_headers_of_a_request_keep_their_order_and_their_duplicates(door: Door) -> None:
    sent = [("x-b", "1"), ("x-a", "2"), ("accept", "a"), ("x-b", "3"), ("accept", "b"), ("x-empty", ""), ("x-l", "é")]
    async with RawServer(answering()) as server:
        await door.call(door.deploy(server.port), method="GET", headers=sent)
        head, _ = received(server)
    assert [header for header in fields(head) if header[0] not in {"host", "authorization"}] == sent


async def test_a_request_that_wants_to_upgrade_is_passed_on_as_a_plain_one(door: Door) -> None:
    headers = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")]
    async with RawServer(answering()) as server:
        seen = await door.call(door.deploy(server.port), "v1/chat/completions", headers=headers, body=b'{"model":"m"}')
        assert (seen.status, seen.body) == (200, b"ok")
        head, got = received(server)
    assert got == b'{"model":"m"}'
    assert not {"connection", "upgrade", "http2-settings"} & {name for name, _ in fields(head)}


async def test_requests_that_wait_for_permission_to_send_their_body_get_it(door: Door) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            headers = [door.bearer, ("expect", "100-continue"), ("content-length", "3")]
            head = request("GET", door.path(deployment, "v1/files"), headers)
            await line.send(head)
            assert await line.some() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await line.send(b"abc")
            assert (await line.head()).status == 200
        head, got = received(server)
    assert (got, "expect" in dict(fields(head))) == (b"abc", False)


async def test_many_requests_on_one_connection_do_not_mix(door: Door) -> None:
    async def script(peer: RawPeer) -> None:
        while found := await peer.read_request():
            await peer.answer(found[1])

    async with RawServer(script) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            bodies = [noise(size, size) for size in (0, 1, 70_000, 3, 300_000, 2)]
            await line.send(b"".join(request("POST", door.path(deployment, "x"), [door.bearer], b) for b in bodies[:3]))
            for body in bodies[:3]:
                assert digest((await line.body(await line.head())).body) == digest(body)
            for body in bodies[3:]:
                await line.send(request("POST", door.path(deployment, "x"), [door.bearer], body))
                assert digest((await line.body(await line.head())).body) == digest(body)
        assert [row["end"] for row in await door.rows(deployment)] == ["complete"] * 6
