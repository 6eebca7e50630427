"""A caller leaves after none, one, half and all but one of the events: by dialect, and by what the deployment does.

With `onDisconnect: cancel` the provider sees the call end, with `drain` it is listened to until its last byte. The row
says `client-gone` either way; its numbers are the provider's where they came, else made by docs/metering.md's rule.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from callers import Door, framed, request
from fakes import RawPeer, RawServer
from gateway import Gateway
from patience import PATIENCE, eventually

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

RECORDED = Path(__file__).parents[2] / "recorded"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with Gateway(tmp_path_factory.mktemp("aiwm"), AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as gateway:
        door = Door(gateway)
        yield door
        assert door.complaints() == []


@dataclass(frozen=True, slots=True)
class Dialect:
    provider: str
    base: str
    path: str
    body: dict[str, Any]
    """Its texts have 20 characters, the model's name among them: 5 tokens."""
    recorded: str
    rows: dict[str, tuple[str, int, int]]
    """(source, input, output) after none, one, half and all but one of the events, and after all of them."""

    @property
    def events(self) -> list[bytes]:
        stream = (RECORDED / self.recorded).read_bytes()
        blank = b"\r\n\r\n" if b"\r" in stream else b"\n\n"
        return [event + blank for event in stream.split(blank) if event]


MESSAGES = [{"role": "user", "content": "123456789"}]

DIALECTS = {
    # Not asked for usage by the caller, so asked by AIWM: the event before the last has it.
    "chat": Dialect(
        "openai",
        "/v1",
        "v1/chat/completions",
        {"model": "gpt-4o1", "messages": MESSAGES, "stream": True},
        "openai/chat.sse",
        {
            "none": ("estimated", 5, 0),
            "one": ("estimated", 5, 0),  # It says the role.
            "half": ("estimated", 5, 9),  # `Say "usage": {"prompt_tokens": 1}`
            "all but one": ("provider", 2006, 300),
            "all": ("provider", 2006, 300),
        },
    ),
    "responses": Dialect(
        "openai",
        "/v1",
        "v1/responses",
        {"model": "gpt-4o1", "input": [{"role": "user", "content": "123456789"}], "stream": True},
        "openai/responses.sse",
        {
            "none": ("estimated", 5, 0),
            "one": ("estimated", 5, 0),
            "half": ("estimated", 5, 1),  # `1,`
            "all but one": ("estimated", 5, 2),  # `1, 2, 3.`
            "all": ("provider", 328, 52),
        },
    ),
    "messages": Dialect(
        "anthropic",
        "",
        "v1/messages",
        {"model": "claude1", "messages": MESSAGES, "stream": True},
        "anthropic/messages.sse",
        {
            "none": ("estimated", 5, 0),
            "one": ("provider", 2260, 2),
            "half": ("estimated", 2260, 4),  # `Hello`, after the numbers that it begins with.
            "all but one": ("provider", 2260, 393),
            "all": ("provider", 2260, 393),
        },
    ),
    "generate": Dialect(
        "google",
        "",
        "v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "1234567890123456"}]}]},
        "google/generate.sse",
        {
            "none": ("estimated", 5, 0),
            "one": ("provider", 1208, 80),  # Every event has the numbers up to it.
            "half": ("provider", 1208, 80),
            "all but one": ("provider", 1208, 120),
            "all": ("provider", 1225, 175),
        },
    ),
}
MOMENTS = ("none", "one", "half", "all but one")


class Provider:
    """Says so many events, waits until it is told to go on, and says the rest to whoever still listens."""

    def __init__(self, events: list[bytes], said: int) -> None:
        self._events = events
        self._said = said
        self.ready = asyncio.Event()
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, peer: RawPeer) -> None:
        await peer.read_request()
        if self._said:
            await peer.write(HEAD + self._chunks(self._events[: self._said]))
        self.ready.set()
        leaving = asyncio.create_task(peer.closed())
        going_on = asyncio.create_task(self.go_on.wait())
        await asyncio.wait([leaving, going_on], return_when=asyncio.FIRST_COMPLETED)
        if not leaving.done():
            await peer.write((b"" if self._said else HEAD) + self._chunks(self._events[self._said :]) + LAST_CHUNK)
        await leaving
        self.left.set()

    @staticmethod
    def _chunks(events: list[bytes]) -> bytes:
        return framed(events).removesuffix(LAST_CHUNK)


async def seen(door: Door) -> None:
    """Whatever was sent to the gateway before has reached it: it reads all connections in one turn."""
    assert (await asyncio.to_thread(door.caller.http.get, "/healthz")).status_code == 200


async def leave(door: Door, dialect: Dialect, moment: str, policy: str) -> tuple[Provider, RawPeer, dict[str, Any]]:
    events = dialect.events
    said = {"none": 0, "one": 1, "half": len(events) // 2, "all but one": len(events) - 1}[moment]
    provider = Provider(events, said)
    body = json.dumps(dialect.body).encode()
    async with RawServer(provider) as server:
        deployment = door.deploy(server.port, dialect.provider, dialect.base, onDisconnect=policy)
        async with await door.line() as line:
            await line.send(request("POST", door.path(deployment, dialect.path), [door.bearer], body))
            await asyncio.wait_for(provider.ready.wait(), PATIENCE)
            if said:
                assert (await line.head()).status == 200
            await seen(door)
            line.reset()
            await line.gone()
            await seen(door)
            if policy == "drain":
                assert not provider.left.is_set()
                provider.go_on.set()
            else:
                await asyncio.wait_for(provider.left.wait(), PATIENCE)
            row = await door.only_row(deployment)
        (peer,) = server.peers
    return provider, peer, row


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", DIALECTS)
async def test_a_cancelled_call_has_the_numbers_that_were_seen(door: Door, name: str, moment: str) -> None:
    dialect = DIALECTS[name]
    provider, _, row = await leave(door, dialect, moment, "cancel")
    assert provider.left.is_set()
    assert (row["end"], row["status"]) == ("client-gone", None if moment == "none" else 200)
    assert (row["source"], row["input_tokens"], row["output_tokens"]) == dialect.rows[moment]
    raw = json.loads(row["raw_usage"])
    assert ("estimated" in raw) is (row["source"] == "estimated")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", DIALECTS)
async def test_a_drained_call_has_the_providers_numbers(door: Door, name: str, moment: str) -> None:
    dialect = DIALECTS[name]
    _, _, row = await leave(door, dialect, moment, "drain")
    assert (row["end"], row["status"]) == ("client-gone", 200)
    assert (row["source"], row["input_tokens"], row["output_tokens"]) == dialect.rows["all"]


# -- what bounds a call that nobody waits for


CALL = DIALECTS["chat"]


async def test_a_drained_call_ends_when_nothing_comes_any_more(door: Door) -> None:
    async def fall_silent(peer: RawPeer) -> None:
        await peer.read_request()
        ready.set()
        await go_on.wait()
        await peer.write(HEAD + framed(CALL.events[:2]).removesuffix(LAST_CHUNK))
        await peer.closed()
        left.set()

    ready, go_on, left = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with RawServer(fall_silent) as server:
        deployment = door.deploy(server.port, onDisconnect="drain", config={"apiKey": "sk-key", "idle-timeout": "0.3"})
        async with await door.line() as line:
            body = json.dumps(CALL.body).encode()
            await line.send(request("POST", door.path(deployment, CALL.path), [door.bearer], body))
            await asyncio.wait_for(ready.wait(), PATIENCE)
            line.reset()
            await line.gone()
            await seen(door)
            go_on.set()
            await asyncio.wait_for(left.wait(), PATIENCE)
            row = await door.only_row(deployment)
    assert (row["end"], row["source"], row["output_tokens"]) == ("client-gone", "estimated", 1)


async def test_a_drained_call_ends_with_its_provider(door: Door) -> None:
    async def break_off(peer: RawPeer) -> None:
        await peer.read_request()
        await peer.write(HEAD + framed(CALL.events[:2]).removesuffix(LAST_CHUNK))
        ready.set()
        await go_on.wait()

    ready, go_on = asyncio.Event(), asyncio.Event()
    async with RawServer(break_off) as server:
        deployment = door.deploy(server.port, onDisconnect="drain")
        async with await door.line() as line:
            body = json.dumps(CALL.body).encode()
            await line.send(request("POST", door.path(deployment, CALL.path), [door.bearer], body))
            await asyncio.wait_for(ready.wait(), PATIENCE)
            await line.head()
            line.close()
            await line.gone()
            await seen(door)
            go_on.set()
            row = await door.only_row(deployment)
    assert (row["end"], row["source"], row["output_tokens"]) == ("client-gone", "estimated", 1)


async def test_a_request_that_is_not_whole_is_not_drained(door: Door) -> None:
    async with RawServer(RawPeer.closed) as server:
        deployment = door.deploy(server.port, onDisconnect="drain")
        async with await door.line() as line:
            head = request("POST", door.path(deployment, "v1/files"), [door.bearer], []).removesuffix(LAST_CHUNK)
            await line.send(head + b"5\r\nfirst\r\n")
            await eventually(lambda: begun(server))
            line.reset()
            row = await door.only_row(deployment)
        assert not server.peers[0].received.endswith(LAST_CHUNK)
    assert (row["end"], row["status"], row["source"]) == ("client-gone", None, "none")


async def begun(server: RawServer) -> bool:
    return bool(server.peers)


async def test_a_drained_call_has_as_long_as_any_other_when_the_program_stops(tmp_path: Path) -> None:
    provider = Provider(CALL.events, 2)
    with Gateway(tmp_path, AIWM_PRIVATE_UPSTREAMS="127.0.0.1", AIWM_DRAIN_SECONDS="30") as gateway:
        door = Door(gateway)
        async with RawServer(provider) as server:
            deployment = door.deploy(server.port, onDisconnect="drain")
            async with await door.line() as line:
                body = json.dumps(CALL.body).encode()
                await line.send(request("POST", door.path(deployment, CALL.path), [door.bearer], body))
                await line.head()
                line.reset()
                await line.gone()
                await seen(door)
            stopped = asyncio.create_task(asyncio.to_thread(gateway.stop))
            await eventually(lambda: refuses_connections(door))
            assert not stopped.done()
            provider.go_on.set()
            assert await asyncio.wait_for(stopped, PATIENCE) == 0
        (row,) = await door.ledger(deployment)
    assert (row["end"], row["source"], row["output_tokens"]) == ("client-gone", "provider", 300)


async def test_a_drained_call_that_does_not_end_is_cut_when_the_program_stops(tmp_path: Path) -> None:
    provider = Provider(CALL.events, 2)
    with Gateway(tmp_path, AIWM_PRIVATE_UPSTREAMS="127.0.0.1", AIWM_DRAIN_SECONDS="1") as gateway:
        door = Door(gateway)
        async with RawServer(provider) as server:
            deployment = door.deploy(server.port, onDisconnect="drain")
            async with await door.line() as line:
                body = json.dumps(CALL.body).encode()
                await line.send(request("POST", door.path(deployment, CALL.path), [door.bearer], body))
                await line.head()
                line.reset()
                await line.gone()
                await seen(door)
            assert await asyncio.wait_for(asyncio.to_thread(gateway.stop), PATIENCE) == 0
            await asyncio.wait_for(provider.left.wait(), PATIENCE)
        (row,) = await door.ledger(deployment)
    assert (row["end"], row["source"], row["output_tokens"]) == ("client-gone", "estimated", 1)


async def refuses_connections(door: Door) -> bool:
    try:
        (await door.line()).close()
    except ConnectionError:
        return True
    return False
