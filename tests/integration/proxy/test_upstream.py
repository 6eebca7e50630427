from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trustme

from aiwm.errors import AnswerBroken, UpstreamTimeout, UpstreamUnreachable
from aiwm.proxy.connection import HIGH_WATER
from aiwm.wire.addresses import AddressPolicy
from fakes import RawPeer, RawServer
from patience import PATIENCE
from upstream_client import MakeClient, whole

OK = b"HTTP/1.1 200 OK\r\n"


async def polite(peer: RawPeer) -> None:
    """Answers every request with its number on this connection."""
    while await peer.read_request():
        await peer.answer(b"%d.%d" % (peer.number, len(peer.requests)))


def answers(data: bytes) -> Callable[[RawPeer], Awaitable[None]]:
    """Reads one request, writes these bytes, and closes."""

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(data)

    return script


def stays(data: bytes) -> Callable[[RawPeer], Awaitable[None]]:
    """Reads one request, writes these bytes, and waits for the client to hang up."""

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(data)
        await peer.closed()

    return script


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def resolving_to(*addresses: str) -> Callable[[str, int], Awaitable[list[str]]]:
    async def resolver(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolver


@contextlib.contextmanager
def takes(at_least: float) -> Iterator[None]:
    """And less than the other times of a request."""
    start = time.monotonic()
    yield
    assert at_least <= time.monotonic() - start < PATIENCE


# Requests and answers


async def test_a_request_goes_out_as_it_was_given_and_the_answer_comes_back_as_it_was_sent(
    make_client: MakeClient,
) -> None:
    data = OK + b"X-A: 1\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 5\r\n\r\nhello"
    async with RawServer(stays(data)) as server:
        response = await make_client().post(server.port, b'{"a": 1}')
        assert response.status == 200
        assert response.headers == [
            (b"x-a", b"1"),
            (b"set-cookie", b"a"),
            (b"set-cookie", b"b"),
            (b"content-length", b"5"),
        ]
        assert await whole(response) == b"hello"
    assert server.peers[0].received == b'POST /v1 HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n{"a": 1}'


async def test_a_large_body_goes_out_whole_and_a_large_answer_comes_back_whole(make_client: MakeClient) -> None:
    body = bytes(range(256)) * 20_000

    async def script(peer: RawPeer) -> None:
        while request := await peer.read_request():
            await peer.answer(request[1][::-1])

    async with RawServer(script) as server:
        client = make_client()
        for _ in range(2):
            assert await whole(await client.post(server.port, body)) == body[::-1]
    assert len(server.peers) == 1


async def test_each_piece_of_a_stream_is_there_when_it_arrives(make_client: MakeClient) -> None:
    taken = asyncio.Semaphore(0)

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(OK + b"transfer-encoding: chunked\r\n\r\n")
        for number in range(5):
            await peer.write(b"6\r\ndata %d\r\n" % number)
            await taken.acquire()
        await peer.write(b"0\r\n\r\n")
        await peer.closed()

    async with RawServer(script) as server:
        response = await make_client().post(server.port)
        for number in range(5):
            assert not response.complete
            assert await response.next() == b"data %d" % number
            taken.release()
        assert await response.next() == b""
        assert response.complete
        response.release()


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"]
)
async def test_interim_answers_are_skipped(make_client: MakeClient, interim: bytes) -> None:
    async with RawServer(stays(interim * 2 + OK + b"content-length: 2\r\n\r\nhi")) as server:
        response = await make_client().post(server.port)
        assert response.status == 200
        assert response.headers == [(b"content-length", b"2")]
        assert await whole(response) == b"hi"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_a_body_are_complete_with_their_head(make_client: MakeClient, status: bytes) -> None:
    async with RawServer(stays(b"HTTP/1.1 %b\r\ncontent-length: 5\r\n\r\n" % status)) as server:
        response = await make_client().post(server.port)
        assert response.complete
        assert await whole(response) == b""


async def test_the_answer_to_head_has_no_body_whatever_its_length_says(make_client: MakeClient) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(OK + b"content-length: 1000\r\n\r\n")
        await polite(peer)

    async with RawServer(script) as server:
        client = make_client()
        response = await client.head(server.port)
        assert response.complete
        assert await whole(response) == b""
        assert await whole(await client.post(server.port)) == b"0.2"


async def test_an_answer_that_the_end_of_the_connection_ends_is_complete_with_it(make_client: MakeClient) -> None:
    async with RawServer(answers(OK + b"\r\nall of it")) as server:
        response = await make_client().post(server.port)
        assert await whole(response) == b"all of it"
        assert response.complete


async def test_trailers_are_dropped(make_client: MakeClient) -> None:
    chunks = b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-trailer: 1\r\n\r\n"
    async with RawServer(stays(OK + chunks)) as server:
        response = await make_client().post(server.port)
        assert await whole(response) == b"hi"
        assert response.headers == [(b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        OK + b"content-length: 2\r\n",
        b"garbage\r\n\r\n",
        b"HTTP/2 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        OK + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        OK + b"content-length: three\r\n\r\nabc",
        OK + b"bad header\r\n\r\n",
        OK + b"x-long: " + b"x" * 65536,
        OK + b"x-long: x\r\n" * 10_000 + b"\r\n",
    ],
    ids=lambda data: repr(data[:60]),
)
async def test_what_is_no_answer_is_an_unreachable_provider(make_client: MakeClient, data: bytes) -> None:
    async with RawServer(answers(data)) as server:
        with pytest.raises(UpstreamUnreachable) as caught:
            await make_client().post(server.port)
    assert caught.value.reached
    assert caught.value.message == "AI provider is unreachable"
    assert len(server.peers) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"content-length: 5\r\n\r\nhi",
        b"transfer-encoding: chunked\r\n\r\n5\r\nhi",
        b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
        b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n",
        b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\n",
    ],
)
async def test_an_answer_cut_short_is_broken_after_what_arrived(make_client: MakeClient, data: bytes) -> None:
    async with RawServer(answers(OK + data)) as server:
        response = await make_client().post(server.port)
        assert await response.next() == b"hi"
        with pytest.raises(AnswerBroken) as caught:
            await response.next()
        assert not caught.value.timed_out
        assert not response.complete
        response.release()


async def test_a_reset_in_the_middle_of_the_answer_is_a_broken_answer(make_client: MakeClient) -> None:
    taken = asyncio.Event()

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(OK + b"\r\nhi")
        await taken.wait()
        peer.reset()

    async with RawServer(script) as server:
        response = await make_client().post(server.port)
        assert await response.next() == b"hi"
        taken.set()
        with pytest.raises(AnswerBroken):
            await response.next()
        response.release()


# Kept connections


async def test_a_connection_is_used_again(make_client: MakeClient) -> None:
    async with RawServer(polite) as server:
        client = make_client()
        assert [await whole(await client.post(server.port)) for _ in range(3)] == [b"0.1", b"0.2", b"0.3"]


async def test_the_connection_released_last_is_taken_first(make_client: MakeClient) -> None:
    async with RawServer(polite) as server:
        client = make_client()
        first, second = await client.post(server.port), await client.post(server.port)
        await whole(second)
        await whole(first)
        assert await whole(await client.post(server.port)) == b"0.2"


async def test_connections_of_one_origin_are_not_used_for_another(make_client: MakeClient) -> None:
    async with RawServer(polite) as one, RawServer(polite) as other:
        client = make_client()
        await whole(await client.post(one.port))
        assert await whole(await client.post(other.port)) == b"0.1"


@pytest.mark.parametrize(
    "data",
    [
        OK + b"connection: close\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        OK + b"content-length: 2\r\n\r\nhi and more",
        OK + b"\r\nhi",
    ],
)
async def test_a_connection_that_must_not_be_used_again_is_closed(make_client: MakeClient, data: bytes) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(data)
        if peer.received and b"length" in data:
            await peer.closed()

    async with RawServer(script) as server:
        client = make_client()
        for _ in range(2):
            assert await whole(await client.post(server.port)) == b"hi"
    assert len(server.peers) == 2


async def test_an_answer_released_before_its_end_takes_its_connection_with_it(make_client: MakeClient) -> None:
    hung_up = asyncio.Event()

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(OK + b"content-length: 5\r\n\r\nhi")
        await peer.closed()
        hung_up.set()

    async with RawServer(script) as server:
        response = await make_client().post(server.port)
        response.release()
        response.release()
        await asyncio.wait_for(hung_up.wait(), PATIENCE)


async def test_an_idle_connection_is_closed_after_its_time(make_client: MakeClient) -> None:
    hung_up = asyncio.Event()

    async def script(peer: RawPeer) -> None:
        await polite(peer)
        hung_up.set()

    async with RawServer(script) as server:
        client = make_client(idle_seconds=1)
        for _ in range(2):
            await whole(await client.post(server.port))
        with takes(0.9):
            await asyncio.wait_for(hung_up.wait(), PATIENCE)
        assert await whole(await client.post(server.port)) == b"1.1"


async def test_no_more_idle_connections_are_kept_than_the_cap(make_client: MakeClient) -> None:
    hung_up: asyncio.Queue[int] = asyncio.Queue()

    async def script(peer: RawPeer) -> None:
        await polite(peer)
        hung_up.put_nowait(peer.number)

    async with RawServer(script) as server:
        client = make_client(max_idle_per_origin=1)
        first, second = await client.post(server.port), await client.post(server.port)
        await whole(first)
        await whole(second)
        assert await asyncio.wait_for(hung_up.get(), PATIENCE) == 0  # The oldest one goes.
        assert await whole(await client.post(server.port)) == b"1.2"


@pytest.mark.parametrize("surplus", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"])
async def test_a_kept_connection_that_closes_or_talks_out_of_turn_is_dropped(
    make_client: MakeClient, surplus: bytes
) -> None:
    released, hung_up = asyncio.Event(), asyncio.Event()

    async def script(peer: RawPeer) -> None:
        if peer.number:
            await polite(peer)
            return
        await peer.read_request()
        await peer.answer()
        await released.wait()
        if surplus:
            await peer.write(surplus)
        else:
            peer.finish()
        await peer.closed()
        hung_up.set()

    async with RawServer(script) as server:
        client = make_client()
        await whole(await client.post(server.port))
        released.set()
        await asyncio.wait_for(hung_up.wait(), PATIENCE)
        # An iterator cannot be sent twice: this works only if the dead connection is not tried.
        assert await whole(await client.post(server.port, pieces(b"x"), chunked=True)) == b"1.1"


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_a_kept_connection_that_turns_out_dead_is_replaced_and_the_request_sent_once_more(
    make_client: MakeClient, end: str, size: int
) -> None:
    async def script(peer: RawPeer) -> None:
        if peer.number:
            await polite(peer)
            return
        await peer.read_request()
        await peer.answer()
        await peer.read(1)
        getattr(peer, end)()

    async with RawServer(script) as server:
        client = make_client()
        await whole(await client.post(server.port))
        assert await whole(await client.post(server.port, b"x" * size)) == b"1.1"
    assert server.peers[1].requests[0][1] == b"x" * size


async def test_the_second_try_goes_over_a_fresh_connection_and_is_the_last(make_client: MakeClient) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        if peer.number < 2:
            await peer.answer()
            await peer.read_request()

    async with RawServer(script) as server:
        client = make_client()
        first, second = await client.post(server.port), await client.post(server.port)
        await whole(first)
        await whole(second)
        with pytest.raises(UpstreamUnreachable) as caught:
            await client.post(server.port)
        assert caught.value.reached
    assert len(server.peers) == 3


async def test_a_second_try_that_does_not_connect_still_says_that_the_provider_was_reached(
    make_client: MakeClient,
) -> None:
    found = [["127.0.0.1"], []]

    async def resolver(host: str, port: int) -> list[str]:
        if addresses := found.pop(0):
            return addresses
        raise socket.gaierror(socket.EAI_NONAME, "gone")

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.answer()
        await peer.read_request()

    async with RawServer(script) as server:
        client = make_client(resolver=resolver)
        await whole(await client.post(server.port))
        with pytest.raises(UpstreamUnreachable) as caught:
            await client.post(server.port)
    assert caught.value.reached


@pytest.mark.parametrize("case", ["fresh", "answered", "iterator"])
async def test_a_request_is_not_sent_twice_if_it_may_have_been_worked_on(make_client: MakeClient, case: str) -> None:
    async def script(peer: RawPeer) -> None:
        if case != "fresh":
            await peer.read_request()
            await peer.answer()
        await peer.read_request()
        await peer.write(b"HTTP/1.1 2" if case == "answered" else b"")

    async with RawServer(script) as server:
        client = make_client()
        if case != "fresh":
            await whole(await client.post(server.port))
        body = pieces(b"x") if case == "iterator" else b"x"
        with pytest.raises(UpstreamUnreachable) as caught:
            await client.post(server.port, body, chunked=case == "iterator")
        assert caught.value.reached
    assert len(server.peers) == 1


# Connecting


async def test_a_connection_sends_at_once_and_notices_a_dead_peer(make_client: MakeClient) -> None:
    async with RawServer(polite) as server:
        response = await make_client().post(server.port)
        assert response._connection is not None
        assert response._connection._transport is not None
        sock = response._connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        response.release()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1"])
async def test_no_spelling_of_a_private_address_gets_around_the_policy(make_client: MakeClient, host: str) -> None:
    async with RawServer(polite) as server:
        with pytest.raises(UpstreamUnreachable) as caught:
            await make_client(policy=AddressPolicy([]), host=host).post(server.port)
    assert not caught.value.reached
    assert caught.value.message == (
        "AI provider is unreachable: its address is private or reserved; "
        "the operator can allow it in AIWM_PRIVATE_UPSTREAMS"
    )
    assert server.peers == []


async def test_a_name_the_operator_allowed_is_looked_up_and_connected_to(make_client: MakeClient) -> None:
    async with RawServer(polite) as server:
        client = make_client(policy=AddressPolicy(["localhost"]), host="localhost")
        assert await whole(await client.post(server.port)) == b"0.1"


async def test_only_permitted_addresses_are_tried(make_client: MakeClient) -> None:
    with socket.create_server(("127.0.0.2", 0)) as forbidden:
        forbidden.setblocking(False)
        async with RawServer(polite) as server:
            resolver = resolving_to("169.254.169.254", "127.0.0.2", "::ffff:127.0.0.2", "127.0.0.1")
            client = make_client(resolver=resolver, host="provider.example")
            assert await whole(await client.post(server.port)) == b"0.1"
            only_forbidden = make_client(resolver=resolving_to("127.0.0.2"), host="provider.example")
            with pytest.raises(UpstreamUnreachable, match="AIWM_PRIVATE_UPSTREAMS"):
                await only_forbidden.post(forbidden.getsockname()[1])
        with pytest.raises(BlockingIOError):
            forbidden.accept()


async def test_the_addresses_are_tried_in_turn(make_client: MakeClient) -> None:
    async with RawServer(polite) as server:
        # Nobody listens on the first two.
        client = make_client(
            policy=AddressPolicy(["127.0.0.0/8", "::1"]), resolver=resolving_to("::1", "127.0.0.2", "127.0.0.1")
        )
        assert await whole(await client.post(server.port)) == b"0.1"


async def test_an_address_that_does_not_react_does_not_use_up_the_time_of_the_next_one(
    make_client: MakeClient,
) -> None:
    async with RawServer(polite) as server:
        with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
            # A full backlog: Linux drops what else wants to connect.
            deaf.bind(("127.0.0.2", server.port))
            deaf.listen(0)
            for filler in (first, second):
                filler.setblocking(False)
                filler.connect_ex(deaf.getsockname())
            client = make_client(policy=AddressPolicy(["127.0.0.0/8"]), resolver=resolving_to("127.0.0.2", "127.0.0.1"))
            with takes(0.7):
                assert await whole(await client.post(server.port, connect=1.5)) == b"0.1"
            with takes(0.15), pytest.raises(UpstreamTimeout) as caught:
                await make_client(policy=AddressPolicy(["127.0.0.0/8"]), host="127.0.0.2").post(
                    server.port, connect=0.2
                )
            assert not caught.value.reached


async def test_a_refused_connection_is_an_unreachable_provider(make_client: MakeClient) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # Bound, so that nobody else listens there.
        with pytest.raises(UpstreamUnreachable) as caught:
            await make_client().post(bound.getsockname()[1])
    assert not caught.value.reached
    assert caught.value.message == "AI provider is unreachable"
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_a_name_that_cannot_be_looked_up_is_an_unreachable_provider(make_client: MakeClient) -> None:
    async def resolver(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for client in (make_client(resolver=resolver), make_client(host="a..b"), make_client(host="x" * 300)):
        with pytest.raises(UpstreamUnreachable) as caught:
            await client.post(80)
        assert not caught.value.reached
        assert caught.value.message == "AI provider is unreachable"


async def test_the_time_to_connect_covers_the_look_up(make_client: MakeClient) -> None:
    async def resolver(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    with takes(0.15), pytest.raises(UpstreamTimeout) as caught:
        await make_client(resolver=resolver).post(80, connect=0.2)
    assert not caught.value.reached
    assert caught.value.message == "Request to AI provider timed out"


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert("provider.example", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls_is_spoken_with_the_name_of_the_host(
    make_client: MakeClient, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    names = []
    server_tls.sni_callback = lambda _sock, name, _context: names.append(name)
    body = b"x" * 1_000_000

    async def script(peer: RawPeer) -> None:
        while request := await peer.read_request():
            await peer.answer(request[1])

    async with RawServer(script, tls=server_tls) as server:
        for host in ("provider.example", "provider.example."):
            client = make_client(scheme="https", host=host, tls=client_tls, resolver=resolving_to("127.0.0.1"))
            assert await whole(await client.post(server.port, body)) == body
            assert await whole(await client.post(server.port, b"again")) == b"again"
        by_address = make_client(scheme="https", tls=client_tls)
        assert await whole(await by_address.post(server.port, b"hi")) == b"hi"
    assert len(server.peers) == 3
    assert names == ["provider.example", "provider.example", None]


async def test_by_default_certificates_are_verified_with_the_authorities_of_the_system(
    make_client: MakeClient,
    server_tls: ssl.SSLContext,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with RawServer(polite, tls=server_tls) as server:
        with pytest.raises(UpstreamUnreachable) as caught:
            await make_client(scheme="https").post(server.port)
        assert not caught.value.reached
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert await whole(await make_client(scheme="https").post(server.port)) == b"0.1"
        assert server.peers[0].extra("ssl_object").selected_alpn_protocol() == "http/1.1"


async def test_a_certificate_for_another_name_is_refused(
    make_client: MakeClient, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with RawServer(polite, tls=server_tls) as server:
        client = make_client(scheme="https", host="other.example", tls=client_tls, resolver=resolving_to("127.0.0.1"))
        with pytest.raises(UpstreamUnreachable) as caught:
            await client.post(server.port)
        assert not caught.value.reached


async def test_a_server_that_speaks_no_tls_is_an_unreachable_provider(
    make_client: MakeClient, client_tls: ssl.SSLContext
) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.read()
        await peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with RawServer(script) as server:
        with pytest.raises(UpstreamUnreachable) as caught:
            await make_client(scheme="https", tls=client_tls).post(server.port)
        assert not caught.value.reached


async def test_the_time_to_connect_covers_the_tls_handshake(
    make_client: MakeClient, client_tls: ssl.SSLContext
) -> None:
    hung_up = asyncio.Event()

    async def script(peer: RawPeer) -> None:
        await peer.closed()
        hung_up.set()

    async with RawServer(script) as server:
        with takes(0.15), pytest.raises(UpstreamTimeout) as caught:
            await make_client(scheme="https", tls=client_tls).post(server.port, connect=0.2)
        assert not caught.value.reached
        await asyncio.wait_for(hung_up.wait(), PATIENCE)


async def test_an_answer_over_tls_that_the_end_ends_is_whole_only_if_the_end_is_signed(
    make_client: MakeClient, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(OK + b"\r\nhi")
        if peer.number:
            peer.cut()

    async with RawServer(script, tls=server_tls) as server:
        client = make_client(scheme="https", tls=client_tls)
        assert await whole(await client.post(server.port)) == b"hi"
        response = await client.post(server.port)
        assert await response.next() == b"hi"
        with pytest.raises(AnswerBroken):
            await response.next()
        response.release()


async def test_a_kept_tls_connection_that_turns_out_dead_is_replaced(
    make_client: MakeClient, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async def script(peer: RawPeer) -> None:
        if peer.number:
            await polite(peer)
            return
        await peer.read_request()
        await peer.answer()
        await peer.read_request()

    async with RawServer(script, tls=server_tls) as server:
        client = make_client(scheme="https", tls=client_tls)
        await whole(await client.post(server.port))
        assert await whole(await client.post(server.port, b"x")) == b"1.1"


# Time


async def test_a_provider_that_does_not_begin_to_answer_is_timed_out(make_client: MakeClient) -> None:
    async with RawServer(stays(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")) as server:
        client = make_client()
        with takes(0.19), pytest.raises(UpstreamTimeout) as caught:
            await client.post(server.port, first_byte=0.2)
        assert caught.value.reached
    assert len(server.peers) == 1


async def test_the_timers_of_one_request_do_not_end_the_next_one(make_client: MakeClient) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.answer()
        await peer.read_request()
        await asyncio.sleep(1)
        await peer.answer(b"late")
        await peer.closed()

    async with RawServer(script) as server:
        client = make_client(idle_seconds=0.7)
        await whole(await client.post(server.port, first_byte=0.7, idle=0.7))
        assert await whole(await client.post(server.port)) == b"late"
    assert len(server.peers) == 1


async def test_a_provider_that_falls_silent_in_its_answer_is_timed_out(make_client: MakeClient) -> None:
    async with RawServer(stays(OK + b"content-length: 5\r\n\r\nhi")) as server:
        response = await make_client().post(server.port, idle=0.2)
        assert await response.next() == b"hi"
        with takes(0.15), pytest.raises(AnswerBroken) as caught:
            await response.next()
        assert caught.value.timed_out
        response.release()


async def test_the_idle_time_counts_from_the_last_piece(make_client: MakeClient) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(OK + b"content-length: 5\r\n\r\n")
        for _ in range(5):
            await asyncio.sleep(0.5)
            await peer.write(b"x")
        await peer.closed()

    async with RawServer(script) as server:
        assert await whole(await make_client().post(server.port, first_byte=2, idle=2)) == b"xxxxx"


async def test_a_slow_client_holds_the_provider_back_and_is_not_taken_for_a_silent_provider(
    make_client: MakeClient,
) -> None:
    size, sent = 64 * 1024 * 1024, 0

    async def script(peer: RawPeer) -> None:
        nonlocal sent
        await peer.read_request()
        await peer.write(OK + b"content-length: %d\r\n\r\n" % size)
        while sent < size:
            await peer.write(b"x" * 65536)
            sent += 65536
        await peer.closed()

    async with RawServer(script) as server:
        response = await make_client().post(server.port, idle=0.7)
        await asyncio.sleep(1)
        assert sent < size / 2
        assert len(await whole(response)) == size


@pytest.mark.parametrize("ends", ["plain", "signed", "unsigned"])
@pytest.mark.parametrize("excess", [20_000, 100_000, 300_000, 3_000_000])
async def test_a_slow_client_gets_all_that_came_before_the_provider_closed(
    make_client: MakeClient,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    ends: str,
    excess: int,
) -> None:
    body = bytes(range(256)) * ((HIGH_WATER + excess) // 256)
    head = OK + b"connection: close\r\n" + (b"" if ends == "signed" else b"content-length: %d\r\n" % len(body))

    def serve() -> None:
        # Asyncio's TLS waits for an answer to its close_notify; this is a server that closes at once, as most do.
        accepted, _ = listening.accept()
        sock = accepted if ends == "plain" else server_tls.wrap_socket(accepted, server_side=True)
        sock.recv(65536)
        sock.sendall(head + b"\r\n" + body)
        if isinstance(sock, ssl.SSLSocket) and ends == "signed":
            sock.setblocking(False)
            with contextlib.suppress(ssl.SSLWantReadError):
                sock.unwrap()
        sock.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.get_running_loop().run_in_executor(None, serve)
        client = make_client(scheme="http" if ends == "plain" else "https", tls=client_tls)
        response = await client.post(listening.getsockname()[1])
        # The end, if it fits into the kernel's buffers, is there before the first piece is taken.
        await asyncio.wait([serving], timeout=0.2)
        assert await whole(response) == body
        await serving


# Uploads in pieces


async def test_an_upload_is_framed_in_chunks_if_asked_and_otherwise_goes_out_as_it_is(
    make_client: MakeClient,
) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        if b"chunked" not in peer.received:
            while not peer.received.endswith(b"world"):
                await peer.read()
        await peer.answer()
        await peer.closed()

    async with RawServer(script) as server:
        client = make_client()
        await whole(await client.post(server.port, pieces(b"hello, ", b"", b"world" * 5), chunked=True))
        other = make_client()
        await whole(await other.post(server.port, pieces(b"hello, ", b"", b"world")))
    assert server.peers[0].requests[0][1] == b"7\r\nhello, \r\n19\r\n%b\r\n0\r\n\r\n" % (b"world" * 5)
    assert server.peers[1].received.endswith(b"\r\n\r\nhello, world")


async def test_a_connection_is_used_again_after_an_upload(make_client: MakeClient) -> None:
    async with RawServer(polite) as server:
        client = make_client()
        for number in (1, 2, 3):
            body = pieces(b"x" * 100_000, b"y")
            assert await whole(await client.post(server.port, body, chunked=True)) == b"0.%d" % number


async def test_an_early_refusal_is_returned_and_ends_the_upload(make_client: MakeClient) -> None:
    stopped, hung_up = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def script(peer: RawPeer) -> None:
        while not peer.received.endswith(b"x\r\n"):
            await peer.read()
        await peer.answer(b"too large", status=b"413 Content Too Large")
        await peer.closed()
        hung_up.set()

    async with RawServer(script) as server:
        response = await make_client().post(server.port, endless(), chunked=True)
        assert response.status == 413
        assert await response.next() == b"too large"
        assert await response.next() == b""
        await asyncio.wait_for(stopped.wait(), PATIENCE)
        assert not hung_up.is_set()
        response.release()
        await asyncio.wait_for(hung_up.wait(), PATIENCE)


async def test_an_early_refusal_ends_an_upload_that_the_provider_does_not_read(make_client: MakeClient) -> None:
    stopped = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            stopped.set()

    async def script(peer: RawPeer) -> None:
        await peer.read(100)
        await peer.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 5\r\n\r\n")
        await stopped.wait()
        await peer.write(b"large")
        await peer.closed()

    async with RawServer(script) as server:
        response = await make_client().post(server.port, endless(), chunked=True)
        assert response.status == 413
        assert await whole(response) == b"large"


async def test_an_answer_that_begins_during_the_upload_does_not_end_it(make_client: MakeClient) -> None:
    begun = asyncio.Event()

    async def patient() -> AsyncIterator[bytes]:
        yield b"first"
        await begun.wait()
        yield b"second"

    async def script(peer: RawPeer) -> None:
        while not peer.received.endswith(b"first\r\n"):
            await peer.read()
        await peer.write(OK + b"content-length: 4\r\n\r\n")
        while not peer.received.endswith(b"second\r\n0\r\n\r\n"):
            await peer.read()
        await peer.write(b"both")
        await peer.closed()

    async with RawServer(script) as server:
        response = await make_client().post(server.port, patient(), chunked=True)
        assert response.status == 200
        begun.set()
        assert await whole(response) == b"both"


class ClientBrokeOffError(Exception):
    pass


@pytest.mark.parametrize("answering", [False, True])
async def test_what_the_iterator_raises_comes_out_and_the_provider_gets_no_clean_end(
    make_client: MakeClient, answering: bool
) -> None:
    begun, hung_up = asyncio.Event(), asyncio.Event()

    async def breaking() -> AsyncIterator[bytes]:
        yield b"x"
        await begun.wait()
        raise ClientBrokeOffError

    async def script(peer: RawPeer) -> None:
        while not peer.received.endswith(b"x\r\n"):
            await peer.read()
        if answering:
            await peer.write(OK + b"content-length: 5\r\n\r\nhi")
        else:
            begun.set()
        await peer.closed()
        hung_up.set()

    async with RawServer(script) as server:
        if answering:
            response = await make_client().post(server.port, breaking(), chunked=True)
            assert await response.next() == b"hi"
            begun.set()
            with pytest.raises(ClientBrokeOffError):
                await response.next()
            response.release()
        else:
            with pytest.raises(ClientBrokeOffError):
                await make_client().post(server.port, breaking(), chunked=True)
        await asyncio.wait_for(hung_up.wait(), PATIENCE)
    assert server.peers[0].received.endswith(b"\r\n1\r\nx\r\n")


async def test_a_provider_that_does_not_read_holds_the_upload_back_and_is_timed_out(
    make_client: MakeClient,
) -> None:
    made = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += 65536
            yield b"x" * 65536

    never = asyncio.Event()
    async with RawServer(lambda _: never.wait()) as server:
        with takes(0.25), pytest.raises(UpstreamTimeout) as caught:
            await make_client().post(server.port, endless(), chunked=True, first_byte=0.3)
    assert caught.value.reached
    assert made < 32 * 1024 * 1024


@pytest.mark.parametrize("kind", ["bytes", "iterator"])
async def test_the_time_to_answer_counts_from_the_last_byte_of_the_upload_that_moved(
    make_client: MakeClient, kind: str
) -> None:
    size = 24 * 1024 * 1024

    async def slow_script(peer: RawPeer) -> None:
        read = 0
        while read < size:
            read += len(await peer.read())
            if read < size / 2:  # What the kernel takes in is out of the client's sight: the rest goes fast.
                await asyncio.sleep(0.012)
        await peer.answer()
        await peer.closed()

    async def quick_script(peer: RawPeer) -> None:
        while not peer.received.endswith(b"xxxxx"):
            await peer.read()
        await peer.answer()
        await peer.closed()

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(5):
            await asyncio.sleep(0.5)
            yield b"x"

    async with RawServer(slow_script if kind == "bytes" else quick_script) as server:
        body = b"x" * size if kind == "bytes" else slow()
        assert await whole(await make_client().post(server.port, body, first_byte=2)) == b"ok"


# The end


async def test_closing_closes_idle_and_busy_connections_and_ends_the_waiting(make_client: MakeClient) -> None:
    hung_up: asyncio.Queue[int] = asyncio.Queue()
    was_asked = asyncio.Event()

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        if peer.number == 0:
            await peer.answer()
        elif peer.number == 1:
            await peer.write(OK + b"content-length: 5\r\n\r\nhi")
        else:
            was_asked.set()
        await peer.closed()
        hung_up.put_nowait(peer.number)

    async with RawServer(script) as server:
        client = make_client()
        first, answering = await client.post(server.port), await client.post(server.port)
        asked = asyncio.create_task(client.post(server.port))
        await was_asked.wait()
        await whole(first)
        assert await answering.next() == b"hi"
        reading = asyncio.create_task(answering.next())
        await asyncio.sleep(0)
        await client.upstream.aclose()
        await client.upstream.aclose()
        with pytest.raises(AnswerBroken):
            await reading
        with pytest.raises(UpstreamUnreachable):
            await asked
        answering.release()
        assert {await asyncio.wait_for(hung_up.get(), PATIENCE) for _ in range(3)} == {0, 1, 2}
        with pytest.raises(UpstreamUnreachable) as caught:
            await client.post(server.port)
        assert not caught.value.reached
