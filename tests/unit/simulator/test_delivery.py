from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard

from aiwm.simulator import delivery
from aiwm.simulator.delivery import BrokenOff, Message
from aiwm.simulator.dialect import Answer
from aiwm.simulator.switches import NONE, Switches
from patience import PATIENCE

STREAM = (b"one ", b"two ", b"three")
DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "br": brotli.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


class Line:
    """A server's side of the connection."""

    def __init__(self, *, leaves_after: int | None = None) -> None:
        self.sent: list[Message] = []
        self.slept: list[float] = []
        self._gone = asyncio.Event()
        self._leaves_after = leaves_after

    async def receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if len(self.sent) == self._leaves_after:
            self._gone.set()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        # Time enough for every other task.
        for _ in range(10):
            await asyncio.sleep(0)

    async def deliver(self, switches: Switches, *, streaming: bool = True) -> None:
        answer = Answer(STREAM, streaming=streaming)
        await delivery.deliver(answer, [], switches, receive=self.receive, send=self.send, sleep=self.sleep)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent[1:]]


async def test_without_switches_the_last_chunk_ends_the_answer() -> None:
    line = Line()
    await line.deliver(NONE)
    assert line.bodies == list(STREAM)
    assert [message.get("more_body", False) for message in line.sent[1:]] == [True, True, False]
    assert b"content-length" not in line.headers


@pytest.mark.parametrize("switches", [NONE, Switches(piece=5), Switches(encoding="gzip")])
async def test_the_length_is_told_if_it_is_known(switches: Switches) -> None:
    line = Line()
    await line.deliver(switches, streaming=False)
    assert line.headers[b"content-length"] == str(sum(map(len, line.bodies))).encode()


async def test_delays_come_before_the_start_and_between_chunks() -> None:
    line = Line()
    await line.deliver(Switches(delay=2, chunk_delay=3))
    assert line.slept == [2, 3, 3]
    assert line.bodies == [*STREAM, b""]


@pytest.mark.parametrize("size", [1, 2, 5, 13, 100])
async def test_pieces_go_across_the_chunks(size: int) -> None:
    line = Line()
    await line.deliver(Switches(piece=size))
    *pieces, last, end = line.bodies
    assert all(len(piece) == size for piece in pieces)
    assert b"".join([*pieces, last]) == b"".join(STREAM)
    assert end == b""


@pytest.mark.parametrize("cut", [0, 1, 3])
async def test_a_cut_breaks_off_after_as_many_chunks(cut: int) -> None:
    line = Line()
    with pytest.raises(BrokenOff):
        await line.deliver(Switches(cut=cut))
    assert line.bodies == list(STREAM[:cut])
    assert all(message["more_body"] for message in line.sent[1:])


async def test_a_cut_beyond_the_end_is_none() -> None:
    line = Line()
    await line.deliver(Switches(cut=4))
    assert line.bodies == [*STREAM, b""]


@pytest.mark.parametrize("encoding", DECODERS)
async def test_every_encoding_can_be_undone(encoding: str) -> None:
    line = Line()
    await line.deliver(Switches(encoding=encoding))
    assert DECODERS[encoding](b"".join(line.bodies)) == b"".join(STREAM)
    assert line.headers[b"content-encoding"] == encoding.encode()


async def test_a_compressed_chunk_can_be_read_before_the_next_one() -> None:
    chunks = list(delivery.body(Answer(STREAM, streaming=True), Switches(encoding="gzip")))
    reader = zlib.decompressobj(31)
    assert [reader.decompress(chunk) for chunk in chunks] == [*STREAM, b""]


@pytest.mark.parametrize("switches", [Switches(hang=True), Switches(delay=1), Switches(hang=True, delay=1)])
async def test_one_who_left_before_the_answer_gets_none(switches: Switches) -> None:
    line = Line()
    work = asyncio.ensure_future(line.deliver(switches))
    line._gone.set()
    await asyncio.wait_for(work, PATIENCE)
    assert len(line.sent) < 4


async def test_one_who_leaves_in_the_middle_stops_the_work() -> None:
    line = Line(leaves_after=2)
    await line.deliver(Switches(chunk_delay=1))
    assert line.bodies == [b"one "]


async def test_nothing_is_left_running_when_the_server_gives_up() -> None:
    line = Line()
    work = asyncio.ensure_future(line.deliver(Switches(hang=True)))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_server_that_raises_for_one_who_left_is_understood() -> None:
    async def send(message: Message) -> None:
        raise BrokenPipeError

    line = Line()
    answer = Answer(STREAM, streaming=True)
    for switches in (NONE, Switches(chunk_delay=1)):
        await delivery.deliver(answer, [], switches, receive=line.receive, send=send, sleep=line.sleep)
