"""What goes wrong between us and a provider, and what the caller is told: clearly, or by an end that is not clean."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import trustme

from callers import Door, answering, framed, request
from fakes import RawPeer, RawServer
from gateway import Gateway, free_ports
from workers import KINDS

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

UNREACHABLE = (502, "Bad Gateway", "AI provider is unreachable")
TIMED_OUT = (504, "Gateway Timeout", "Request to AI provider timed out")
LIMIT = 200_000


@pytest.fixture(scope="module", params=KINDS)
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("aiwm")
    settings = {"AIWM_PRIVATE_UPSTREAMS": "127.0.0.1", "AIWM_MAX_BODY_BYTES": str(LIMIT)}
    with KINDS[request.param](folder, AIWM_CONNECT_TIMEOUT="2", **settings) as gateway:
        door = Door(gateway)
        yield door
        assert door.complaints() == []


KEY = {"apiKey": "sk-key"}
Fault = Callable[[RawPeer], Awaitable[None]]


def once(fault: Fault) -> Callable[[RawPeer], Awaitable[None]]:
    """A provider whose first connection ends as `fault` says, and whose others are fine."""

    async def script(peer: RawPeer) -> None:
        await (answering() if peer.number else fault)(peer)

    return script


async def works(door: Door, deployment: str) -> None:
    seen = await door.call(deployment, "v1/chat/completions", body=b"{}")
    assert (seen.status, seen.body, seen.whole) == (200, b"ok", True)


# -- no connection


async def test_a_provider_that_refuses_connections_is_unreachable(door: Door) -> None:
    (port,) = free_ports(1)
    deployment = door.deploy(port)
    for path, body in (("v1/chat/completions", b"{}"), ("v1/files", [b"a", b"b"])):
        seen = await door.call(deployment, path, body=body)
        assert door.refusal(seen, deployment, path) == UNREACHABLE
    assert await door.rows(deployment) == []
    assert door.deployment(deployment)["requestCount"] == 0


async def test_a_provider_whose_name_nobody_knows_is_unreachable(door: Door) -> None:
    deployment = door.deploy(443, host="no-such-provider.invalid", scheme="https")
    seen = await door.call(deployment, "v1/models", method="GET")
    assert door.refusal(seen, deployment, "v1/models") == UNREACHABLE
    assert await door.rows(deployment) == []


async def test_a_provider_that_cannot_prove_who_it_is_gets_no_request(door: Door) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    async with RawServer(answering(), tls=tls) as server:
        deployment = door.deploy(server.port, scheme="https")
        seen = await door.call(deployment, "v1/models", body=b"secret")
        assert door.refusal(seen, deployment, "v1/models") == UNREACHABLE
        assert server.peers == []
    assert await door.rows(deployment) == []


@contextmanager
def deaf() -> Iterator[int]:
    """A port whose queue of connections is full: whoever calls now hears nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for other in waiting:
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for other in waiting:
            other.close()


async def test_a_provider_that_does_not_react_times_out(door: Door) -> None:
    with deaf() as port:
        deployment = door.deploy(port)
        seen = await door.call(deployment, "v1/chat/completions", body=b"{}")
        assert door.refusal(seen, deployment, "v1/chat/completions") == TIMED_OUT
        assert await door.rows(deployment) == []


@pytest.mark.parametrize("host", ["127.0.0.2", "169.254.169.254", "[::1]", "10.1.2.3"])
async def test_an_address_that_the_operator_did_not_permit_is_not_called(door: Door, host: str) -> None:
    (port,) = free_ports(1)
    deployment = door.deploy(port, host=host)
    seen = await door.call(deployment, "v1/models")
    status, phrase, message = door.refusal(seen, deployment, "v1/models")
    assert (status, phrase) == UNREACHABLE[:2]
    assert message.startswith("AI provider is unreachable: its address is private or reserved")
    assert "AIWM_PRIVATE_UPSTREAMS" in message
    assert await door.rows(deployment) == []


# -- a connection, but no answer


async def reset(peer: RawPeer) -> None:
    await peer.read_request()
    peer.reset()


async def hang_up(peer: RawPeer) -> None:
    await peer.read_request()


def saying(data: bytes) -> Fault:
    async def fault(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(data)

    return fault


NO_ANSWERS = {
    "reset": reset,
    "closed": hang_up,
    "garbage": saying(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "half a head": saying(b"HTTP/1.1 200 OK\r\ncontent-type: text"),
    "two lengths": saying(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
    "length and chunks": saying(
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n" + framed([b"a"])
    ),
    "a control character": saying(b"HTTP/1.1 200 OK\r\nx-a: \x01\r\ncontent-length: 0\r\n\r\n"),
    "an upgrade": saying(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
    "a head without end": saying(b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 20_000),
}


@pytest.mark.parametrize("kind", NO_ANSWERS)
async def test_a_provider_that_gives_no_answer_is_unreachable_and_the_next_one_works(door: Door, kind: str) -> None:
    async with RawServer(once(NO_ANSWERS[kind])) as server:
        deployment = door.deploy(server.port)
        seen = await door.call(deployment, "v1/chat/completions", body=b"{}")
        assert door.refusal(seen, deployment, "v1/chat/completions") == UNREACHABLE
        row = await door.row(deployment)
        assert (row["end"], row["status"], row["source"]) == ("provider-broke", None, "none")
        assert len(server.peers) == 1, "it may have been billed: it must not be asked again"
        await works(door, deployment)
        assert door.deployment(deployment)["requestCount"] == 2


async def test_a_provider_that_breaks_off_an_upload_is_unreachable(door: Door) -> None:
    async def fault(peer: RawPeer) -> None:
        await peer.read()
        peer.reset()

    async with RawServer(once(fault)) as server:
        deployment = door.deploy(server.port)
        seen = await door.call(deployment, "v1/files", body=[b"x" * 50_000] * 3)
        assert door.refusal(seen, deployment, "v1/files") == UNREACHABLE
        assert (await door.row(deployment))["end"] == "provider-broke"
        await works(door, deployment)


async def silence(peer: RawPeer) -> None:
    await peer.read_request()
    await peer.closed()


async def test_a_provider_that_says_nothing_times_out(door: Door) -> None:
    async with RawServer(once(silence)) as server:
        deployment = door.deploy(server.port, config={**KEY, "timeout": "1.5"})
        seen = await door.call(deployment, "v1/chat/completions", body=b"{}")
        assert door.refusal(seen, deployment, "v1/chat/completions") == TIMED_OUT
        row = await door.row(deployment)
        assert (row["end"], row["status"]) == ("timed-out", None)
        assert row["total_ms"] >= 1490
        await works(door, deployment)


async def test_the_time_for_the_first_byte_is_a_setting_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {"AIWM_FIRST_BYTE_TIMEOUT": "0.3", "AIWM_IDLE_TIMEOUT": "0.3", "AIWM_PRIVATE_UPSTREAMS": "127.0.0.1"}
    with Gateway(tmp_path_factory.mktemp("aiwm"), **settings) as gateway:
        door = Door(gateway)
        async with RawServer(silence) as server:
            deployment = door.deploy(server.port)
            seen = await door.call(deployment, "v1/models")
            assert door.refusal(seen, deployment, "v1/models") == TIMED_OUT
            longer = door.deploy(server.port, config={**KEY, "timeout": "1.5"})
            assert (await door.call(longer, "v1/models")).status == 504
            assert (await door.row(longer))["total_ms"] >= 1490


# -- half an answer


EVENT = b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNK = framed([EVENT]).removesuffix(b"0\r\n\r\n")

BROKEN = {
    "chunks without the last": STREAM + b"transfer-encoding: chunked\r\n\r\n" + CHUNK,
    "half a chunk": STREAM + b"transfer-encoding: chunked\r\n\r\n" + CHUNK + b"ff\r\nhalf",
    "no chunk": STREAM + b"transfer-encoding: chunked\r\n\r\n" + CHUNK + b"zz\r\n",
    "short of its length": STREAM + b"content-length: 1000\r\n\r\n" + EVENT,
    "an error cut short": b"HTTP/1.1 500 X\r\ncontent-length: 1000\r\n\r\n" + EVENT,
}


@pytest.mark.parametrize("how", ["closes", "resets", "falls silent"])
@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_answer_has_no_clean_end(door: Door, kind: str, how: str) -> None:
    arrived = asyncio.Event()

    async def fault(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(BROKEN[kind])
        if how == "resets":
            await arrived.wait()  # A reset may overtake what was written before it.
            peer.reset()
        elif how == "falls silent":
            await peer.closed()

    async with RawServer(once(fault)) as server:
        config = {**KEY, "idle-timeout": "0.3"} if how == "falls silent" else KEY
        deployment = door.deploy(server.port, config=config)
        async with await door.line() as line:
            await line.send(request("POST", door.path(deployment, "v1/chat/completions"), [door.bearer], b"{}"))
            seen = await line.head()
            arrived.set()
            await line.body(seen)
        assert not seen.whole
        assert seen.body.startswith(EVENT)
        assert seen.one(b"x-aiwm-error") is None
        row = await door.only_row(deployment)
        timed_out = how == "falls silent" and kind != "no chunk"
        assert row["end"] == ("timed-out" if timed_out else "provider-broke")
        # What was seen is booked, whatever became of the rest.
        assert (row["input_tokens"], row["output_tokens"]) == ((0, 0) if row["status"] == 500 else (3, 4))
        await works(door, deployment)


async def test_a_slow_stream_is_no_broken_one(door: Door) -> None:
    async def slow(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(STREAM + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(6):
            await asyncio.sleep(0.5)
            await peer.write(CHUNK)
        await peer.write(b"0\r\n\r\n")

    async with RawServer(slow) as server:
        deployment = door.deploy(server.port, config={**KEY, "idle-timeout": "2.5", "timeout": "2.5"})
        seen = await door.call(deployment, "v1/chat/completions", body=b"{}")
        assert (seen.body, seen.whole) == (EVENT * 6, True)
        assert (await door.row(deployment))["end"] == "complete"


# -- the provider's own answers


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 429, 499, 500, 502, 503, 504, 529, 599])
async def test_an_error_of_the_provider_is_its_own(door: Door, status: int) -> None:
    body = b'{"error" : {"message":"no",  "type":null}}\n'
    headers = b"content-type: application/json\r\nretry-after-ms: 20\r\nx-should-retry: false\r\n"
    answer = b"HTTP/1.1 %d Whatever\r\n%bcontent-length: %d\r\n\r\n%b" % (status, headers, len(body), body)
    async with RawServer(answering(answer)) as server:
        deployment = door.deploy(server.port)
        seen = await door.call(deployment, "v1/chat/completions", body=b"{}")
        assert (seen.status, seen.body, seen.whole) == (status, body, True)
        assert seen.one(b"x-aiwm-error") is None
        assert (seen.one(b"retry-after-ms"), seen.one(b"x-should-retry")) == (b"20", b"false")
        assert seen.one(b"x-correlation-id")
        assert len([found for peer in server.peers for found in peer.requests]) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_returned_and_not_followed(door: Door, status: int) -> None:
    location = b"http://169.254.169.254/latest/meta-data"
    answer = b"HTTP/1.1 %d Found\r\nlocation: %b\r\ncontent-length: 5\r\n\r\nthere" % (status, location)
    async with RawServer(answering(answer)) as server:
        seen = await door.call(door.deploy(server.port), "v1/models", method="GET")
        assert (seen.status, seen.one(b"location"), seen.body) == (status, location, b"there")
        assert len(server.peers[0].requests) == 1


async def test_a_refusal_in_the_middle_of_an_upload_arrives(door: Door) -> None:
    async def refuse(peer: RawPeer) -> None:
        while len(peer.received) < 50_000:
            await peer.read()
        await peer.answer(b"enough", status=b"413 Too Large", headers=b"connection: close\r\n")

    async with RawServer(refuse) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            await line.send(request("POST", door.path(deployment, "v1/files"), [door.bearer], [b"x" * 60_000])[:-5])
            seen = await line.body(await line.head())
            assert (seen.status, seen.body, seen.whole) == (413, b"enough", True)
            assert seen.one(b"x-aiwm-error") is None
        assert (await door.row(deployment))["end"] == "complete"


# -- limits


TOO_LARGE = (
    413,
    "Request Entity Too Large",
    f"The request body is too large: at most {LIMIT} bytes are passed on",
)


@pytest.mark.parametrize("path", ["v1/chat/completions", "v1/files"])
async def test_a_body_of_a_length_beyond_the_limit_is_refused_before_it_is_read(door: Door, path: str) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            # Only the head: nobody waits for the body.
            head = request("POST", door.path(deployment, path), [door.bearer, ("content-length", str(LIMIT + 1))], [])
            await line.send(head.replace(b"transfer-encoding: chunked\r\n", b"").removesuffix(b"0\r\n\r\n"))
            seen = await line.body(await line.head())
        assert door.refusal(seen, deployment, path) == TOO_LARGE
        assert server.peers == []
        assert await door.rows(deployment) == []


@pytest.mark.parametrize("path", ["v1/chat/completions", "v1/files"])
async def test_a_body_that_grows_beyond_the_limit_is_refused(door: Door, path: str) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.closed()

    async with RawServer(script) as server:
        deployment = door.deploy(server.port)
        seen = await door.call(deployment, path, body=[b"x" * 50_000] * 8)
        assert door.refusal(seen, deployment, path) == TOO_LARGE
        for peer in server.peers:
            assert not bytes(peer.received).endswith(b"0\r\n\r\n"), "the provider must not take it for whole"
        # What has reached the provider is booked; what was held back to be filled in has not.
        assert len(await door.rows(deployment)) == len(server.peers) == (1 if path == "v1/files" else 0)


@pytest.mark.parametrize("cut", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("path", ["v1/chat/completions", "v1/files"])
async def test_a_body_of_exactly_the_limit_passes(door: Door, path: str, cut: bool) -> None:
    async with RawServer(answering()) as server:
        body = b'"' + b"x" * (LIMIT - 2) + b'"'
        seen = await door.call(door.deploy(server.port), path, body=[body[:7], body[7:]] if cut else body)
        assert seen.status == 200
