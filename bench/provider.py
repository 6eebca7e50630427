"""The stand-in for a provider: `python -m bench.provider PORT`.

It gives prepared answers and does nothing else, so that on the core it shares with the load generator it is never
what limits AIWM or nginx. `?bytes=N` asks for an answer of that length, `?n=N` for the one of that number: it
remembers how often it was asked each, and tells at `/reached`. What `x-simulate` says may stand in the path, too.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import sys
from functools import lru_cache
from typing import cast

import uvloop
from httptools import HttpRequestParser

from bench import exchanges

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nx-request-id: req_bench\r\nopenai-processing-ms: 7\r\n%b\r\n\r\n"
_JSON = b"application/json"
_STREAM_HEAD = _HEAD % (b"text/event-stream; charset=utf-8", b"cache-control: no-cache\r\ntransfer-encoding: chunked")
_SWITCHES = re.compile(rb"tokens=(\d+);chunk-delay=([\d.]+)")
_QUERY = re.compile(rb"\?(n|bytes)=(\d+)")
_variants = itertools.cycle(range(exchanges.VARIANTS))
_reached = bytearray()


class Provider(asyncio.Protocol):
    """One connection; one exchange after another."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._path = self._asked = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it.

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._path = self._asked = b""

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-simulate":
            self._asked = value

    def on_message_complete(self) -> None:
        if self._path == b"/reached":
            self._transport.write(_json(bytes(_reached)))
            return
        name, number = _query(self._path)
        if name == b"bytes":
            self._transport.write(_body(number))
            return
        if name == b"n":
            _count(number)
        else:
            number = next(_variants)
        variant = number % exchanges.VARIANTS
        switches = _switches(self._asked or self._path)
        if switches is not None:
            self._stream(*switches, variant)
        else:
            self._transport.write(_chat(variant))

    def _stream(self, events: int, interval: float, variant: int) -> None:
        # The first event comes with the head, as a provider has it.
        first, *rest = _stream_pieces(events, variant)
        self._transport.write(_STREAM_HEAD + first)
        self._events = iter(rest)
        self._interval = interval
        self._due = self._loop.time()
        self._wait()

    def _wait(self) -> None:
        # From when it was due, not from now: a stream that was late once is not late for ever.
        self._due += self._interval
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        piece = next(self._events, None)
        if piece is not None:
            self._transport.write(piece)
            self._wait()


@lru_cache
def _switches(asked: bytes) -> tuple[int, float] | None:
    """How many events, and the seconds between them."""
    found = _SWITCHES.search(asked)
    return None if found is None else (int(found[1]), float(found[2]))


@lru_cache
def _chat(variant: int) -> bytes:
    return _json(exchanges.chat_answer(variant))


@lru_cache
def _body(length: int) -> bytes:
    return _json(exchanges.body_answer(length))


def _query(path: bytes) -> tuple[bytes, int]:
    found = _QUERY.search(path)
    return (b"", 0) if found is None else (found[1], int(found[2]))


def _count(number: int) -> None:
    if number >= len(_reached):
        _reached.extend(bytes(number + 1 - len(_reached)))
    _reached[number] = min(_reached[number] + 1, 255)


@lru_cache
def _stream_pieces(events: int, variant: int) -> tuple[bytes, ...]:
    *texts, last = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in exchanges.stream_answer(events, variant)]
    return (*texts, last + b"0\r\n\r\n")


def _json(body: bytes) -> bytes:
    return _HEAD % (_JSON, b"content-length: %d" % len(body)) + body


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await loop.create_server(Provider, "127.0.0.1", port, backlog=4096)
    await stopped.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
