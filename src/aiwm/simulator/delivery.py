"""How an answer reaches the client: whole or in pieces, late, compressed, broken off, or never.

An answer without switches is sent at once, by nothing but a loop. As soon as there is something to wait for, the
client's leaving is listened for, and ends the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import brotli  # type: ignore[import-untyped]  # it has no annotations
import zstandard

from aiwm.simulator.dialect import Answer, Headers
from aiwm.simulator.switches import NONE, Switches

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Sleep = Callable[[float], Awaitable[object]]


class BrokenOff(Exception):
    """Raised on purpose, by `cut`, when the answer has begun: the server has no way left but to close the connection
    without the end of the body. (The server closes the connection then.)"""


_Encoder = tuple[Callable[[bytes], bytes], Callable[[], bytes]]
"""What makes of a chunk something the client can read at once; and what ends it all."""


async def deliver(
    answer: Answer, headers: Headers, switches: Switches, *, receive: Receive, send: Send, sleep: Sleep
) -> None:
    """Send the answer as the switches say; returns early if the client leaves. Raises BrokenOff for `cut`."""
    # Some servers' send raises OSError when the client has left (ASGI 2.4); ours does nothing then.
    with contextlib.suppress(OSError):
        if switches is NONE:
            await _at_once(answer, headers, send)
        elif switches.hang:
            await gone(receive)
        else:
            await _unless_gone(_slowly(answer, headers, switches, send, sleep), receive)


async def gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def body(answer: Answer, switches: Switches) -> Iterable[bytes]:
    """The chunks as they go out: compressed, then cut into pieces. A list, if the length must be known first."""
    chunks = answer.chunks
    if switches.encoding is not None:
        chunks = _compressed(chunks, switches.encoding)
        chunks = chunks if answer.streaming else (b"".join(chunks),)
    if switches.piece is not None:
        chunks = _pieces(chunks, switches.piece)
    return chunks if answer.streaming else list(chunks)


async def _at_once(answer: Answer, headers: Headers, send: Send) -> None:
    await send(_start(answer, headers, answer.chunks, NONE))
    last = b""
    for chunk in answer.chunks:
        if last:
            await send({"type": "http.response.body", "body": last, "more_body": True})
        last = chunk
    await send({"type": "http.response.body", "body": last})


async def _slowly(answer: Answer, headers: Headers, switches: Switches, send: Send, sleep: Sleep) -> None:
    chunks = body(answer, switches)
    if switches.delay:
        await sleep(switches.delay)
    await send(_start(answer, headers, chunks, switches))
    sent = 0
    for chunk in chunks:
        if sent == switches.cut:
            break
        # Between chunks even a wait of nothing lets the listener for the client's leaving have its turn.
        if sent:
            await sleep(switches.chunk_delay)
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        sent += 1
    if sent == switches.cut:
        raise BrokenOff(f"the connection is broken off after {sent} chunks, as the caller asked")
    await send({"type": "http.response.body", "body": b""})


async def _unless_gone(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    tasks = (asyncio.ensure_future(work), asyncio.ensure_future(gone(receive)))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


def _start(answer: Answer, headers: Headers, chunks: Iterable[bytes], switches: Switches) -> Message:
    headers = [*headers, *answer.headers, (b"content-type", answer.content_type)]
    if switches.encoding is not None:
        headers.append((b"content-encoding", switches.encoding.encode()))
    if not answer.streaming:
        headers.append((b"content-length", str(sum(map(len, chunks))).encode()))
    return {"type": "http.response.start", "status": answer.status, "headers": headers}


def _pieces(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    kept = bytearray()
    for chunk in chunks:
        kept += chunk
        while len(kept) >= size:
            yield bytes(kept[:size])
            del kept[:size]
    if kept:
        yield bytes(kept)


def _compressed(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    encode, end = _ENCODERS[encoding]()
    for chunk in chunks:
        yield encode(chunk)
    yield end()


def _zlib(window: int) -> Callable[[], _Encoder]:
    def encoder() -> _Encoder:
        compressor = zlib.compressobj(wbits=window)
        return lambda chunk: compressor.compress(chunk) + compressor.flush(zlib.Z_SYNC_FLUSH), compressor.flush

    return encoder


def _brotli() -> _Encoder:
    # Quality 11, the default, is for files that are compressed once.
    compressor = brotli.Compressor(quality=4)
    return lambda chunk: compressor.process(chunk) + compressor.flush(), compressor.finish


def _zstd() -> _Encoder:
    compressor = zstandard.ZstdCompressor().compressobj()
    return (
        lambda chunk: compressor.compress(chunk) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK),
        compressor.flush,
    )


_ENCODERS: Mapping[str, Callable[[], _Encoder]] = {
    "gzip": _zlib(31),
    # HTTP's "deflate" is the zlib format (RFC 9110, 8.4.1.2).
    "deflate": _zlib(15),
    "br": _brotli,
    "zstd": _zstd,
}
