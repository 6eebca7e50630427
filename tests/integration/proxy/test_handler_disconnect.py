"""Somebody leaves: the caller at any moment, or we ourselves because we are told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from callers import Door, Line, answering, framed, request
from fakes import RawPeer, RawServer
from gateway import Gateway
from patience import PATIENCE, eventually
from workers import KINDS

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


@pytest.fixture(scope="module", params=KINDS)
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with KINDS[request.param](tmp_path_factory.mktemp("aiwm"), AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as gateway:
        door = Door(gateway)
        yield door
        assert door.complaints() == []


Leave = Callable[[Line], None]
WAYS: dict[str, Leave] = {"closes": Line.close, "resets": Line.reset}

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
CHUNK = framed([EVENT]).removesuffix(b"0\r\n\r\n")
LAST_CHUNK = b"0\r\n\r\n"


class Provider:
    """Does what it is told and then waits until we hang up; `left` says that we did."""

    def __init__(self, act: Callable[[RawPeer], Awaitable[object]]) -> None:
        self._act = act
        self.ready = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, peer: RawPeer) -> None:
        await self._act(peer)
        self.ready.set()
        await peer.closed()
        self.left.set()


async def soon(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), PATIENCE)


# -- before the first byte, in the middle, while uploading


@pytest.mark.parametrize("way", WAYS)
async def test_a_caller_who_leaves_before_the_first_byte_ends_the_call(door: Door, way: str) -> None:
    provider = Provider(RawPeer.read_request)
    async with RawServer(provider) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            await line.send(request("POST", door.path(deployment, "v1/chat/completions"), [door.bearer], b"{}"))
            await soon(provider.ready)
            WAYS[way](line)
            await soon(provider.left)
        row = await door.only_row(deployment)
    assert (row["end"], row["status"], row["source"]) == ("client-gone", None, "estimated")


@pytest.mark.parametrize("way", WAYS)
async def test_a_caller_who_leaves_mid_stream_ends_the_call_and_pays_for_what_was_seen(door: Door, way: str) -> None:
    async def begin(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(HEAD + CHUNK)

    provider = Provider(begin)
    async with RawServer(provider) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            await line.send(request("POST", door.path(deployment, "v1/chat/completions"), [door.bearer], b"{}"))
            await line.head()
            assert await line.chunk() == EVENT
            WAYS[way](line)
            await soon(provider.left)
        row = await door.only_row(deployment)
    assert (row["end"], row["status"]) == ("client-gone", 200)
    assert (row["input_tokens"], row["output_tokens"]) == (3, 4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_caller_who_leaves_while_uploading_ends_the_upload(door: Door, way: str, chunked: bool) -> None:
    async def some(peer: RawPeer) -> None:
        while b"first" not in peer.received:
            assert await peer.read()

    provider = Provider(some)
    async with RawServer(provider) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            headers = [door.bearer] if chunked else [door.bearer, ("content-length", "1000")]
            head = request("POST", door.path(deployment, "v1/files"), headers, []).removesuffix(LAST_CHUNK)
            if not chunked:
                head = head.replace(b"transfer-encoding: chunked\r\n", b"")
            await line.send(head + (b"5\r\nfirst\r\n" if chunked else b"first"))
            await soon(provider.ready)
            WAYS[way](line)
            await soon(provider.left)
        assert not server.peers[0].received.endswith(LAST_CHUNK), "the provider must not take it for whole"
        row = await door.only_row(deployment)
    assert (row["end"], row["status"]) == ("client-gone", None)


async def test_a_caller_who_leaves_before_its_body_is_whole_costs_nothing(door: Door) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port)
        before = door.gateway.log.count(deployment)
        async with await door.line() as line:
            headers = [door.bearer, ("content-length", "1000"), ("x-correlation-id", "half-a-body")]
            head = request("POST", door.path(deployment, "v1/chat/completions"), headers, [])
            await line.send(head.replace(b"transfer-encoding: chunked\r\n", b"").removesuffix(LAST_CHUNK) + b'{"mess')

        async def logged() -> bool:
            return '"half-a-body"' in door.gateway.log

        await eventually(logged)
        assert door.gateway.log.count(deployment) > before
        assert '"status":499' in next(text for text in door.gateway.log.splitlines() if "half-a-body" in text)
        assert await door.rows(deployment) == []
        assert server.peers == []


async def test_a_caller_who_leaves_after_the_provider_has_refused_its_upload_ends_the_call(door: Door) -> None:
    async def refuse(peer: RawPeer) -> None:
        await peer.read()
        await peer.write(b"HTTP/1.1 400 Bad\r\ncontent-length: 100\r\n\r\nthe rest does not come")

    provider = Provider(refuse)
    async with RawServer(provider) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            head = request("POST", door.path(deployment, "v1/files"), [door.bearer], [])
            await line.send(head.removesuffix(LAST_CHUNK) + b"5\r\nfirst\r\n")
            assert (await line.head()).status == 400
            line.close()
            await soon(provider.left)
        assert (await door.only_row(deployment))["end"] == "client-gone"


async def test_a_caller_who_does_not_read_holds_the_provider_back_and_may_then_leave(door: Door) -> None:
    written = 0

    async def flood(peer: RawPeer) -> None:
        nonlocal written
        await peer.read_request()
        await peer.write(HEAD)
        while True:
            await peer.write(framed([b"x" * 65536]).removesuffix(LAST_CHUNK))
            written += 65536

    left = asyncio.Event()

    async def script(peer: RawPeer) -> None:
        try:
            await flood(peer)
        finally:
            left.set()

    async with RawServer(script) as server:
        deployment = door.deploy(server.port)
        door.forget_peak_memory()
        memory = door.peak_memory()
        async with await door.line() as line:
            await line.send(request("POST", door.path(deployment, "v1/chat/completions"), [door.bearer], b"{}"))
            await line.head()
            seen = -1
            while seen != written:  # Until nothing moves any more.
                seen = written
                await asyncio.sleep(0.3)
            assert 0 < written < 64 * 1024 * 1024
            assert door.peak_memory() - memory < 16 * 1024 * 1024
            line.reset()
            await soon(left)
        assert (await door.only_row(deployment))["end"] == "client-gone"


async def test_a_caller_who_leaves_with_the_last_byte_has_got_a_complete_answer(door: Door) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port)
        for _ in range(30):
            async with await door.line() as line:
                await line.send(request("POST", door.path(deployment, "v1/chat/completions"), [door.bearer], b"{}"))
                seen = await line.body(await line.head())
                assert seen.whole
                line.reset()
        rows = await door.rows(deployment)
    assert [row["end"] for row in rows] == ["complete"] * 30


async def test_nothing_is_left_behind_by_those_who_leave(door: Door) -> None:
    asked: defaultdict[bytes, asyncio.Event] = defaultdict(asyncio.Event)

    async def script(peer: RawPeer) -> None:
        while found := await peer.read_request():
            path = found[0].split(b" ")[1]
            if b"/stream" in path:
                await peer.write(HEAD + CHUNK)
            asked[path.rpartition(b"/")[2]].set()

    async def leave(deployment: str, number: int, kind: str, way: Leave) -> None:
        async with await door.line() as line:
            path = door.path(deployment, f"{kind}/{number}")
            await line.send(request("POST", path, [door.bearer], b"{}"))
            await soon(asked[b"%d" % number])
            if kind == "stream":
                await line.head()
            way(line)

    async with RawServer(script) as server:
        deployment = door.deploy(server.port)
        leaving = [(kind, way) for kind in ("silence", "stream") for way in WAYS.values()] * 15
        numbered = [(number, *each) for number, each in enumerate(leaving)]
        await asyncio.gather(*(leave(deployment, *each) for each in numbered[:20]))
        # What is opened only once is open now.
        await eventually(lambda: at_least(door, deployment, 20))
        before = door.descriptors()
        for first in range(20, len(leaving), 20):
            await asyncio.gather(*(leave(deployment, *each) for each in numbered[first : first + 20]))
        rows = await eventually(lambda: at_least(door, deployment, len(leaving)))
        assert len(rows) == len(leaving)
        assert {row["end"] for row in rows} == {"client-gone"}
        # A few are the database's own; forty connections that were left would be many more.
        await door.until_descriptors(before + 12)


async def at_least(door: Door, deployment: str, number: int) -> list[dict[str, object]]:
    rows = await door.rows(deployment)
    return rows if len(rows) >= number else []


# -- told to stop


@pytest.fixture
def stopping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[int], Door]]:
    """A gateway of its own for a test that stops it; the number is its AIWM_DRAIN_SECONDS."""
    started: list[Gateway] = []

    def start(drain_seconds: int) -> Door:
        settings = {"AIWM_PRIVATE_UPSTREAMS": "127.0.0.1", "AIWM_DRAIN_SECONDS": str(drain_seconds)}
        gateway = KINDS[getattr(request, "param", "one process")](tmp_path, **settings)
        started.append(gateway)
        gateway.__enter__()
        return Door(gateway)

    yield start
    for gateway in started:
        gateway.__exit__(None, None, None)


async def refuses_connections(door: Door) -> bool:
    try:
        (await door.line()).close()
    except ConnectionError:
        return True
    return False


def assert_only_the_cut_was_logged(door: Door) -> None:
    (complaint,) = door.complaints()
    assert "requests that did not end in time are broken off" in complaint


async def test_a_stream_that_runs_is_finished_before_the_program_ends(stopping: Callable[[int], Door]) -> None:
    door = stopping(30)
    go_on = asyncio.Event()

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(HEAD + CHUNK)
        await go_on.wait()
        await peer.write(CHUNK + LAST_CHUNK)
        await peer.closed()

    async with RawServer(script) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            await line.send(request("POST", door.path(deployment, "v1/chat/completions"), [door.bearer], b"{}"))
            await line.head()
            await line.chunk()
            stopped = asyncio.create_task(asyncio.to_thread(door.gateway.stop))
            await eventually(lambda: refuses_connections(door))
            assert not stopped.done()
            go_on.set()
            assert [await line.chunk(), await line.chunk()] == [EVENT, b""]
            assert await asyncio.wait_for(stopped, PATIENCE) == 0
    (row,) = await door.ledger(deployment)
    assert (row["end"], row["input_tokens"], row["output_tokens"]) == ("complete", 3, 4)
    assert door.complaints() == []


@pytest.mark.parametrize("stopping", KINDS, indirect=True)
async def test_a_stream_that_does_not_end_is_cut_and_booked(stopping: Callable[[int], Door]) -> None:
    door = stopping(1)

    async def begin(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(HEAD + CHUNK)

    provider = Provider(begin)
    async with RawServer(provider) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            await line.send(request("POST", door.path(deployment, "v1/chat/completions"), [door.bearer], b"{}"))
            seen = await line.head()
            code = asyncio.create_task(asyncio.to_thread(door.gateway.stop))
            await line.body(seen)
            assert (seen.body, seen.whole) == (EVENT, False)
            assert await asyncio.wait_for(code, PATIENCE) == 0
            await soon(provider.left)
    (row,) = await door.ledger(deployment)
    assert (row["end"], row["input_tokens"], row["output_tokens"]) == ("gateway-died", 3, 4)
    assert_only_the_cut_was_logged(door)


async def test_a_request_without_an_answer_yet_is_told_that_the_program_ends(stopping: Callable[[int], Door]) -> None:
    door = stopping(1)
    provider = Provider(RawPeer.read_request)
    async with RawServer(provider) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            await line.send(request("POST", door.path(deployment, "v1/chat/completions"), [door.bearer], b"{}"))
            await soon(provider.ready)
            code = asyncio.create_task(asyncio.to_thread(door.gateway.stop))
            seen = await line.body(await line.head())
            status, phrase, _ = door.refusal(seen, deployment, "v1/chat/completions")
            assert (status, phrase) == (503, "Service Unavailable")
            assert await asyncio.wait_for(code, PATIENCE) == 0
            await soon(provider.left)
    (row,) = await door.ledger(deployment)
    assert (row["end"], row["status"]) == ("gateway-died", None)
    assert_only_the_cut_was_logged(door)


@pytest.mark.parametrize("stopping", KINDS, indirect=True)
async def test_a_second_signal_ends_the_program_at_once(stopping: Callable[[int], Door]) -> None:
    door = stopping(60)
    provider = Provider(RawPeer.read_request)
    async with RawServer(provider) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            await line.send(request("POST", door.path(deployment, "v1/chat/completions"), [door.bearer], b"{}"))
            await soon(provider.ready)
            assert door.gateway.process is not None
            door.gateway.process.send_signal(signal.SIGTERM)
            await eventually(lambda: refuses_connections(door))
            assert await asyncio.wait_for(asyncio.to_thread(door.gateway.stop, signal.SIGINT), PATIENCE) == 0
    (row,) = await door.ledger(deployment)
    assert row["end"] == "gateway-died"
