"""Load of our own, where wrk can't: streams, and answers that are each checked to be whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self, cast

from httptools import HttpParserError, HttpResponseParser

from bench import exchanges

_DONE = b"data: [DONE]"
_OPENED_AT_ONCE = 100


class Lost(Exception):
    """An answer that did not come, or not whole."""


@dataclass(slots=True)
class Answer:
    status: int = 0
    streamed: bool = False
    pieces: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


@dataclass(slots=True)
class Tally:
    """What the answers said, taken together."""

    answers: int = 0
    events: int = 0
    tokens: int = 0
    lost: list[str] = field(default_factory=list)

    def count(self, answer: Answer, whole: Collection[bytes] | None) -> None:
        """Raises Lost if the answer is not one of `whole`, or (None: any text may be answered) has not its form."""
        body = answer.body
        if answer.status != 200:
            raise Lost(f"status {answer.status}: {body[:200]!r}")
        if whole is not None and body not in whole:
            raise Lost(f"{len(body)} bytes that are not what the provider sent, ending {body[-60:]!r}")
        last = body
        if answer.streamed:
            *events, last, done, rest = [b"", b"", *body.split(b"\n\n")]
            if done != _DONE or rest:
                raise Lost(f"a stream without its end: {body[-60:]!r}")
            self.events += len(events) - 2
            last = last.removeprefix(b"data: ")
        self.tokens += json.loads(last)["usage"]["total_tokens"]
        self.answers += 1


class Caller(asyncio.Protocol):
    """One kept connection; one request after another."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._answer = Answer()
        self._ended: asyncio.Future[Answer] | None = None
        self._begun: asyncio.Future[None] | None = None

    @classmethod
    async def connected(cls, port: int) -> Self:
        _, caller = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return caller

    async def ask(self, request: bytes) -> Answer:
        return await self.asked(request)

    def asked(self, request: bytes) -> asyncio.Future[Answer]:
        """Sends the request; whoever leaves before the answer is whole calls `close` or `abort`."""
        self._answer = Answer()
        self._ended = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            raise Lost("the connection was closed between two requests")
        self._transport.write(request)
        return self._ended

    def begun(self) -> asyncio.Future[None]:
        """Done when the first bytes of the body are there."""
        self._begun = asyncio.get_running_loop().create_future()
        if self.has_begun:
            self._begun.set_result(None)
        return self._begun

    @property
    def has_begun(self) -> bool:
        """Whether anything of the body is there."""
        return bool(self._answer.pieces)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        """At once, as when its machine goes."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it.

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection broke: {exc}")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._fail(f"not HTTP: {error}")

    def _fail(self, reason: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(Lost(reason))

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._answer.streamed = value.startswith(b"text/event-stream")

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        self._answer.pieces.append(piece)
        if self._begun is not None and not self._begun.done():
            self._begun.set_result(None)

    def on_message_complete(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(self._answer)


async def ask_all(
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int,
    whole: Collection[bytes] | None,
    spread: float = 0,
    seconds: float,
) -> Tally:
    """Sends every request on one of the connections, which begin within `spread` seconds. What is not answered after
    `seconds` is lost."""
    tally = Tally()
    waiting = iter(requests)
    starts = [spread * number / connections for number in range(connections)]
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(_caller(port, waiting, whole, tally, start) for start in starts))
    except TimeoutError:
        missing = len(requests) - tally.answers - len(tally.lost)
        tally.lost += [f"no answer within {seconds:.0f} s"] * missing
    return tally


async def _caller(
    port: int, requests: Iterable[bytes], whole: Collection[bytes] | None, tally: Tally, start: float
) -> None:
    await asyncio.sleep(start)
    caller = await Caller.connected(port)
    try:
        for request in requests:
            try:
                tally.count(await caller.ask(request), whole)
            except (Lost, ValueError, KeyError, TypeError) as error:
                tally.lost.append(str(error) or repr(error))
                caller.close()
                caller = await Caller.connected(port)
    finally:
        caller.close()


@contextlib.asynccontextmanager
async def open_streams(port: int, request: bytes, number: int) -> AsyncIterator[None]:
    """So many at once, each with its first event."""
    callers: list[Caller] = []
    answers: list[asyncio.Future[Answer]] = []
    try:
        for first in range(0, number, _OPENED_AT_ONCE):
            more = [await Caller.connected(port) for _ in range(min(_OPENED_AT_ONCE, number - first))]
            callers += more
            answers += await asyncio.gather(*(_begun(caller, request) for caller in more))
        yield
    finally:
        for answer in answers:
            answer.cancel()
        for caller in callers:
            caller.close()


async def _begun(caller: Caller, request: bytes) -> asyncio.Future[Answer]:
    ended = caller.asked(request)
    await asyncio.wait((caller.begun(), ended), return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        raise Lost(f"a stream that was to stay open has ended with status {ended.result().status}")
    return ended


def whole_answers(events: int) -> frozenset[bytes]:
    """All that the stand-in ever answers to chats and to streams of so many events."""
    variants = range(exchanges.VARIANTS)
    chats = {exchanges.chat_answer(variant) for variant in variants}
    return frozenset(chats | {b"".join(exchanges.stream_answer(events, variant)) for variant in variants})
