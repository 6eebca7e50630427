"""The client leaves at every place where something is awaited: the provider notices, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme

from aiwm.proxy.upstream import UpstreamResponse
from fakes import RawPeer, RawServer
from patience import PATIENCE
from upstream_client import MakeClient, whole


class Provider:
    """A script with a place to stop at, and what a test wants to know about it."""

    def __init__(self, answer: bytes = b"") -> None:
        self.asked, self.left = asyncio.Event(), asyncio.Event()
        self._answer = answer

    async def __call__(self, peer: RawPeer) -> None:
        if peer.number:
            while await peer.read_request():
                await peer.answer(b"next")
            return
        await peer.read()
        await peer.write(self._answer)
        self.asked.set()
        await peer.closed()
        self.left.set()


async def cancelled(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def left(provider: Provider) -> None:
    await asyncio.wait_for(provider.left.wait(), PATIENCE)


async def test_before_the_name_is_looked_up(make_client: MakeClient) -> None:
    looking = asyncio.Event()

    async def resolver(host: str, port: int) -> list[str]:
        looking.set()
        await asyncio.Event().wait()
        return []

    task = asyncio.create_task(make_client(resolver=resolver).post(80))
    await looking.wait()
    await cancelled(task)


@pytest.mark.parametrize("rounds", range(8))
async def test_at_every_step_of_connecting(make_client: MakeClient, rounds: int) -> None:
    last_came, hung_up = asyncio.Event(), asyncio.Semaphore(0)

    async def script(peer: RawPeer) -> None:
        if await peer.read() == b"last":
            last_came.set()
        await peer.closed()
        hung_up.release()

    async with RawServer(script) as server:
        client = make_client()
        task = asyncio.create_task(client.post(server.port))
        for _ in range(rounds):
            await asyncio.sleep(0)
        await cancelled(task)
        await client.upstream.aclose()
        # Connections are accepted in their order: when this one is, the other one is, if there is one.
        with socket.create_connection(("127.0.0.1", server.port)) as last:
            last.sendall(b"last")
            await last_came.wait()
        for _ in server.peers:
            await asyncio.wait_for(hung_up.acquire(), PATIENCE)


async def test_in_the_tls_handshake(make_client: MakeClient) -> None:
    provider = Provider()
    async with RawServer(provider) as server:
        client = make_client(scheme="https", tls=ssl.create_default_context())
        task = asyncio.create_task(client.post(server.port))
        await provider.asked.wait()
        await cancelled(task)
        await left(provider)


@pytest.mark.parametrize("rounds", range(8))
async def test_at_every_step_of_the_tls_handshake(make_client: MakeClient, rounds: int) -> None:
    authority = trustme.CA()
    server_tls, client_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server_tls)
    authority.configure_trust(client_tls)

    def serve() -> None:
        # In a thread: asyncio's own server side keeps half a handshake to itself until its time is up.
        accepted, _ = listening.accept()
        with accepted, contextlib.suppress(OSError), server_tls.wrap_socket(accepted, server_side=True) as sock:
            while sock.recv(65536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.get_running_loop().run_in_executor(None, serve)
        client = make_client(scheme="https", tls=client_tls)
        task = asyncio.create_task(client.post(listening.getsockname()[1]))
        for _ in range(rounds):
            await asyncio.sleep(0.001)
        await cancelled(task)
        await client.upstream.aclose()
        socket.create_connection(listening.getsockname()).close()  # In case that it had not come as far.
        await asyncio.wait_for(serving, PATIENCE)


async def test_before_the_first_byte(make_client: MakeClient) -> None:
    provider = Provider()
    async with RawServer(provider) as server:
        client = make_client()
        task = asyncio.create_task(client.post(server.port))
        await provider.asked.wait()
        await cancelled(task)
        await left(provider)
        assert await whole(await client.post(server.port)) == b"next"
    assert len(server.peers) == 2


async def test_before_the_first_byte_on_a_kept_connection(make_client: MakeClient) -> None:
    asked, hung_up = asyncio.Event(), asyncio.Event()

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.answer()
        await peer.read_request()
        asked.set()
        await peer.closed()
        hung_up.set()

    async with RawServer(script) as server:
        client = make_client()
        await whole(await client.post(server.port))
        task = asyncio.create_task(client.post(server.port))
        await asked.wait()
        await cancelled(task)
        await asyncio.wait_for(hung_up.wait(), PATIENCE)
    assert len(server.peers) == 1


async def test_when_the_head_has_come_but_nobody_has_seen_it(make_client: MakeClient) -> None:
    provider = Provider(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    async with RawServer(provider) as server:
        client = make_client()
        task = asyncio.create_task(client.post(server.port))
        await provider.asked.wait()
        for _ in range(20):
            if task.done():
                break
            task.cancel()
            await asyncio.sleep(0)
        if not task.cancelled():
            (await task).release()
        await client.upstream.aclose()
        await left(provider)


async def test_in_the_middle_of_the_body(make_client: MakeClient) -> None:
    provider = Provider(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi")
    async with RawServer(provider) as server:
        client = make_client()
        reading = asyncio.Event()

        async def relay() -> None:
            response = await client.post(server.port)
            try:
                assert await response.next() == b"hi"
                reading.set()
                await response.next()
            finally:
                response.release()

        task = asyncio.create_task(relay())
        await reading.wait()
        await asyncio.sleep(0)
        await cancelled(task)
        await left(provider)
        assert await whole(await client.post(server.port)) == b"next"


async def test_between_two_pieces(make_client: MakeClient) -> None:
    provider = Provider(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi")
    async with RawServer(provider) as server:
        client = make_client()
        response = await client.post(server.port)
        assert await response.next() == b"hi"
        response.release()  # What the `finally` of whoever was cancelled does.
        await left(provider)


async def test_a_client_that_leaves_after_the_end_does_not_cost_the_connection(make_client: MakeClient) -> None:
    async def script(peer: RawPeer) -> None:
        while await peer.read_request():
            await peer.answer(b"%d" % len(peer.requests))

    ended = asyncio.Event()
    async with RawServer(script) as server:
        client = make_client()

        async def relay() -> None:
            response: UpstreamResponse = await client.post(server.port)
            try:
                while not response.complete:
                    await response.next()
                ended.set()
                await asyncio.Event().wait()
            finally:
                response.release()

        task = asyncio.create_task(relay())
        await asyncio.wait_for(ended.wait(), PATIENCE)
        await cancelled(task)
        assert await whole(await client.post(server.port)) == b"2"
    assert len(server.peers) == 1


@pytest.mark.parametrize("waiting", ["iterator", "provider"])
@pytest.mark.parametrize("answering", [False, True])
async def test_during_the_upload(make_client: MakeClient, waiting: str, answering: bool) -> None:
    provider = Provider(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi" if answering else b"")
    stopped = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            if waiting == "iterator":
                await asyncio.Event().wait()
            while True:
                yield b"x" * 65536
        finally:
            stopped.set()

    async with RawServer(provider) as server:
        client = make_client()

        async def relay() -> None:
            response = await client.post(server.port, body(), chunked=True)
            try:
                while await response.next():
                    pass
            finally:
                response.release()

        task = asyncio.create_task(relay())
        await provider.asked.wait()
        await cancelled(task)
        await asyncio.wait_for(stopped.wait(), PATIENCE)
        await left(provider)
        assert await whole(await client.post(server.port)) == b"next"


@pytest.mark.parametrize("rounds", range(4))
async def test_at_every_step_of_beginning_an_upload(make_client: MakeClient, rounds: int) -> None:
    provider = Provider()

    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0)

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.answer()
        await provider(peer)

    async with RawServer(script) as server:
        client = make_client()
        await whole(await client.post(server.port))
        task = asyncio.create_task(client.post(server.port, body(), chunked=True))
        for _ in range(rounds):
            await asyncio.sleep(0)
        await cancelled(task)
        await client.upstream.aclose()
        await left(provider)


async def test_the_second_try_can_be_left_too(make_client: MakeClient) -> None:
    asked, hung_up = asyncio.Event(), asyncio.Event()

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        if peer.number == 0:
            await peer.answer()
            await peer.read_request()
            return
        asked.set()
        await peer.closed()
        hung_up.set()

    async with RawServer(script) as server:
        client = make_client()
        await whole(await client.post(server.port))
        task = asyncio.create_task(client.post(server.port))
        await asked.wait()
        await cancelled(task)
        await asyncio.wait_for(hung_up.wait(), PATIENCE)


async def test_while_the_upstream_is_closing(make_client: MakeClient) -> None:
    provider = Provider()
    async with RawServer(provider) as server:
        client = make_client()
        task = asyncio.create_task(client.post(server.port))
        await provider.asked.wait()
        closing = asyncio.create_task(client.upstream.aclose())
        task.cancel()
        await closing
        with pytest.raises(asyncio.CancelledError):
            await task
        await left(provider)
