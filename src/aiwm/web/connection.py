"""One connection from a caller, and the calls on it: HTTP/1.1 below ASGI.

The parser's callbacks build a `Call`; it is handed to the application when its head is here, which for most is when
all of it is here. One call is worked on at a time: the next one of a caller who does not wait for answers stays in
line, and so do its bytes. In between, a connection is in one of these states, each with the time it may last:

    resting     between two calls; kept for the next one
    head        the first byte of a request has come, the end of its head has not
    body        its body is awaited, and nothing of it comes
    answering   the application works: it has timers of its own
    stuck       the caller does not take its answer
    parting     we have said all we say; what the caller still sends is read and thrown away until it has heard us

A request that is not HTTP, or whose framing two readers could read differently, is answered with 400 and the
connection closed: what comes behind it could be anything.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

from aiwm.domain.ids import new_id
from aiwm.errors import AiwmError, Invalid, RequestTimeout
from aiwm.web.call import STATUS_LINES, Application, Call
from aiwm.web.errors import render
from aiwm.web.head import Head, Heads, Known
from aiwm.web.outbox import Outbox
from aiwm.wire.headers import Header

MAX_HEAD_BYTES = 64 * 1024
"""Of one request, its target included."""
_HEADER_BYTES = 32
"""What each header counts for besides its letters, as in HTTP/2: many empty ones are large, too."""

_CLOCK_STEP = 0.002  # uvloop counts in whole milliseconds, so a timer may fire a little before its time.
_NEVER = float("inf")
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds that a caller may let pass."""

    rest: float = 75
    """Longer than callers keep idle connections (60 s is usual): who sends the next request should close first."""
    head: float = 30
    body: float = 60
    stuck: float = 300
    parting: float = 3


class Crowd:
    """All connections of a server, the tasks that answer their calls, the answers, and the heads that they repeat."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.heads = Heads()
        self.outbox = Outbox()
        self._emptied: asyncio.Future[None] | None = None

    async def emptied(self) -> None:
        """Waits until no call is being answered and no connection is open."""
        while self.connections or self.tasks:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    def check(self) -> None:
        """Called when something has left."""
        if self._emptied is not None and not (self.connections or self.tasks or self._emptied.done()):
            self._emptied.set_result(None)


class Connection(asyncio.Protocol):
    """`door` gives the application for a port, the one that the connection came in on."""

    __slots__ = (
        "_app",
        "_awaited",
        "_between",
        "_call",
        "_client",
        "_crowd",
        "_deadline",
        "_door",
        "_drained",
        "_expects_continue",
        "_headers",
        "_heading",
        "_known",
        "_line",
        "_loop",
        "_met_last",
        "_muted",
        "_new",
        "_parser",
        "_parting",
        "_patience",
        "_reading",
        "_room",
        "_stopping",
        "_task",
        "_timer",
        "_timer_at",
        "_transport",
        "_unsent",
        "_url",
        "_waiter",
        "held_back",
    )

    def __init__(self, door: Callable[[int], Application], crowd: Crowd, patience: Patience) -> None:
        self._door = door
        self._crowd = crowd
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._parser = _parser(self)
        self._transport: asyncio.Transport | None = None
        self._app: Application | None = None
        self._client: tuple[str, int] | None = None
        self._url = b""
        self._headers: list[Header] = []
        self._room = MAX_HEAD_BYTES
        self._expects_continue = False
        self._heading = False
        """Whether a head has begun that no time was set for yet."""
        self._muted = False
        self._between = True
        """Whether the parser waits for the first byte of a request."""
        self._met_last: Call | None = None
        """The call that the parser has just met, if its head may be remembered."""
        self._known: Known | None = None
        """The last head that was known."""
        self._awaited = 0
        """Bytes that are to come of a body which the parser does not see."""
        self._new: Call | None = None
        """The call whose body is being read."""
        self._call: Call | None = None
        """The call that is being answered."""
        self._line: deque[Call] = deque()
        self._task: asyncio.Task[None] | None = None
        """What answers the calls."""
        self._waiter: asyncio.Future[None] | None = None
        """What it waits for while there is none."""
        self._reading = True
        self._stopping = False
        self._parting = False
        self.held_back = False
        self._unsent = 0
        """What waited to be taken when a caller who is held back was last looked at."""
        self._drained: asyncio.Future[None] | None = None
        self._deadline = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER

    # The transport's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._app = self._door(transport.get_extra_info("sockname")[1])
        peer = transport.get_extra_info("peername")
        self._client = (str(peer[0]), int(peer[1])) if peer else None
        self._crowd.connections.add(self)
        self._expect(self._patience.head)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._crowd.connections.discard(self)
        self._crowd.check()
        if self._timer is not None:
            self._timer.cancel()
        self.resume_writing()
        self._leave()
        self._go_on()

    def data_received(self, data: bytes) -> None:
        if self._parting:
            return
        if self._awaited or self._between:
            data = self._passed_by(data)
        if data and not self._parsed(data):
            return
        if self._call is None and self._line:
            self._begin(self._line.popleft())
        elif self._new is not None and not self._new.whole:
            self._expect(self._patience.body)
        elif self._heading and self._call is None:
            # From its first byte on, however many pieces it comes in.
            self._heading = False
            self._expect(self._patience.head)

    def _passed_by(self, data: bytes) -> bytes:
        """Takes requests whose heads are known past the parser; what is left of the data is for the parser."""
        while data:
            if self._awaited:
                piece, data = data[: self._awaited], data[self._awaited :]
                self._awaited -= len(piece)
                self.on_body(piece)
                if not self._awaited:
                    self._received()
            else:
                found = self._crowd.heads.find(data, self._known)
                if found is None:
                    break
                self._known, length, start = found
                call = Call(self, self._known.head, length=length, keep=not self._stopping, client=self._client)
                self._met(call)
                end = start + length
                if len(data) < end:
                    self._awaited, data = length, data[start:]
                else:
                    self._new = None
                    call.fill(data[start:end])
                    data = data[end:]
        return data

    def _parsed(self, data: bytes) -> bool:
        """Feeds the parser. What is no request is refused."""
        between = self._between
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._not_upgraded(data[upgrade.args[0] :])
            return False
        except httptools.HttpParserError as error:
            told = error.__context__
            self._refuse(
                told
                if isinstance(told, AiwmError)
                else Invalid(f"This is no HTTP/1.1 request, or its head is larger than {MAX_HEAD_BYTES} bytes")
            )
            return False
        met, self._met_last = self._met_last, None
        if between and met is not None:
            self._crowd.heads.learn(data[: len(data) - met.waiting], met.head)
        return True

    def pause_writing(self) -> None:
        self.held_back = True
        self._unsent = 0
        self._expect(self._patience.stuck)

    def resume_writing(self) -> None:
        self.held_back = False
        self._deadline = _NEVER
        if self._parting:
            self._expect(self._patience.parting)
        elif self._new is not None:
            self._expect(self._patience.body)
        elif self._call is None:
            self._expect(self._patience.rest)
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # The parser's callbacks. What they raise comes out of feed_data as an HttpParserError.

    def on_message_begin(self) -> None:
        self._between = False
        if self._muted:
            return
        self._url = b""
        self._headers = []
        self._room = MAX_HEAD_BYTES
        self._expects_continue = False
        self._heading = True

    def on_url(self, url: bytes) -> None:
        if self._muted:
            return
        self._take(len(url))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._muted:
            return
        self._take(len(name) + len(value) + _HEADER_BYTES)
        if not self._url:
            return  # Behind the body: a trailer, and nobody's header.
        name = name.lower()
        self._headers.append((name, value))
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True

    def on_headers_complete(self) -> None:
        if self._muted:
            return
        parser = self._parser
        path, query, authority = _target(self._url)
        version = parser.get_http_version()
        length = next((int(value) for name, value in self._headers if name == b"content-length"), None)
        keeps = parser.should_keep_alive() and version != "1.0"
        head = Head(parser.get_method(), path, query, self._headers)
        _require_plain(head, version, authority)
        call = Call(
            self,
            head,
            length=length,
            version=version,
            keep=keeps and not self._stopping,
            expects_continue=self._expects_continue,
            client=self._client,
        )
        self._url = b""
        self._heading = False
        if length is not None and keeps and b"expect" not in head.first and b"upgrade" not in head.first:
            self._met_last = call
        self._met(call)

    def _met(self, call: Call) -> None:
        self._new = call
        self._line.append(call)
        if self._call is not None:
            self.pause_reading()  # Until the answer before it is whole.

    def on_body(self, piece: bytes) -> None:
        if self._new is not None:
            self._new.receive(piece)

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return  # The parser takes the body for the new protocol: `_not_upgraded` reads it.
        self._between = True
        self._received()

    def _received(self) -> None:
        call, self._new = self._new, None
        if call is not None:
            call.received()
            if call is self._call:
                self._deadline = _NEVER

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise ValueError("the head of the request is too large")

    def _not_upgraded(self, rest: bytes) -> None:
        """To upgrade is an offer, and it is not taken up: what follows is the request's body, and then the next one.

        curl and Java's client make that offer with each request. The parser knows no way back, so a new one is told
        how long the body is.
        """
        framing = [header for header in self._headers if header[0] in _FRAMING]
        self._parser = _parser(self)
        self._muted = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % each for each in framing))
        self._muted = False
        self.data_received(rest)

    # Calls.

    def _begin(self, call: Call) -> None:
        self._call = call
        self._deadline = _NEVER
        if not call.whole:
            self._expect(self._patience.body)
        if self._task is None:
            self._task = self._loop.create_task(self._work())
        else:
            self._go_on()
        self._crowd.tasks.add(self._task)

    async def _work(self) -> None:
        """Answers the calls, one after the other: to make a task for each takes some microseconds."""
        app, task, call = self._app, self._task, self._call
        assert app is not None and task is not None  # noqa: S101, PT018 - there is no call before `connection_made`
        try:
            while call is not None:
                call.task = task
                await app(call)
                if not call.answered:
                    return
                if self._call is None:
                    self._crowd.tasks.discard(task)
                    self._crowd.check()
                    await self._next()
                call = self._call
        finally:
            self._task = None
            self._crowd.tasks.discard(task)
            self._crowd.check()
            if not (call is None or call.answered or self._parting) and self._transport is not None:
                # The only signal left that this is no end.
                self._close(self._transport)

    async def _next(self) -> None:
        """Waits for another call, or for the end of the connection."""
        if self._transport is not None:
            self._waiter = self._loop.create_future()
            await self._waiter

    def _go_on(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def ended(self, *, keep: bool) -> None:
        self._call = None
        transport = self._transport
        if transport is None:
            return
        if not keep or self._stopping:
            if self._new is None:
                self._close(transport)
            else:
                self._part(transport)
            return
        self.resume_reading()
        if self._line:
            self._begin(self._line.popleft())
        elif not self.held_back:
            self._expect(self._patience.rest if self._new is None else self._patience.body)

    def stop(self) -> None:
        """Close as soon as no call is being answered."""
        self._stopping = True
        if self._call is not None:
            self._call.close_after()
        elif self._transport is not None:
            self._close(self._transport)

    def abort(self) -> None:
        """Close at once, whatever is being answered."""
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, error: AiwmError) -> None:
        """Answered where there is no call for an application to answer, and closed."""
        transport = self._transport
        if transport is None:
            return
        if self._call is None or not self._call.status:
            # Otherwise an answer is on its way: bytes of another would become part of it.
            status, headers, body = render(error, path="", correlation_id=new_id())
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            self.write(b"%bconnection: close\r\n%b\r\n%b" % (STATUS_LINES[status], lines, body))
        self._leave()
        self._part(transport)

    def _part(self, transport: asyncio.Transport) -> None:
        """Close when the caller has had the time to read what it was told.

        A connection that is closed while bytes of the caller are on their way is reset, and with that the answer may
        be lost: to one who sends a body that nobody wants, just when it is told so.
        """
        if transport.is_closing():
            return
        self._parting = True
        self.resume_reading()
        self._crowd.outbox.flush()
        transport.write_eof()
        self._expect(self._patience.parting)

    def _close(self, transport: asyncio.Transport) -> None:
        """When what was written has been sent."""
        self._crowd.outbox.flush()
        transport.close()

    def _leave(self) -> None:
        self._line.clear()
        for call in (self._call, self._new):
            if call is not None:
                call.leave()

    # What a call asks for.

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._crowd.outbox.write(self._transport, data)

    async def drained(self) -> None:
        while self.held_back:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def pause_reading(self) -> None:
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    # Time. There is one timer for a connection's life: it is not cancelled when a deadline moves away, it looks when
    # it fires and is set again. Only a deadline that comes closer sets it anew, so most calls do not touch it.

    def _expect(self, seconds: float) -> None:
        """Something has to happen within `seconds` from now."""
        self._deadline = self._loop.time() + seconds
        if self._deadline < self._timer_at:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self._loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, _NEVER
        if self._transport is None or self._deadline == _NEVER:
            return
        if self._loop.time() + _CLOCK_STEP < self._deadline:
            self._arm()
        elif self.held_back:
            # Slow is not stuck.
            before, self._unsent = self._unsent, self._transport.get_write_buffer_size()
            if before != self._unsent:
                self._expect(self._patience.stuck)
            else:
                self._transport.abort()
        elif self._parting:
            self._close(self._transport)
        elif self._new is not None and not self._reading:
            self._expect(self._patience.body)  # It is we who hold the caller back.
        elif self._url or (self._new is not None and not self._new.answered):
            self._refuse(RequestTimeout("The request did not come to its end in time; send it again"))
        else:
            self._close(self._transport)


def _parser(connection: Connection) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(connection)
    # What a caller sends behind its last request is not read; it is no reason not to answer the request.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _target(url: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Path and query, as they were spelled, and whom a target that is a whole URL is for. Raises Invalid."""
    authority = None
    if url[:1] != b"/":
        match = _WHOLE_URL.match(url)
        if match is None:
            raise Invalid("The target of the request must be a path, or an http URL without a user name")
        authority, url = match[1], url[match.end() :]
        if url[:1] != b"/":
            url = b"/" + url
    if b"#" in url:
        raise Invalid("The target of the request must not have a fragment (#)")
    path, _, query = url.partition(b"?")
    if not path.isascii():
        raise ValueError("a target has no characters beyond ASCII")
    return path, query, authority


_WHOLE_URL = re.compile(rb"https?://([^/?#@]+)(?![^/?#])", re.IGNORECASE)
_MANY_HOSTS = "The request must have one Host header, and a target that is a whole URL must name the same host"


def _require_plain(head: Head, version: str, authority: bytes | None) -> None:
    """Raises Invalid for a request that two readers could take for two different ones."""
    first = head.first
    host = first.get(b"host")
    if version != "1.1":
        if version != "1.0" or b"transfer-encoding" in first:
            raise ValueError("no version that we speak, or a way to send a body that it does not have")
    elif host is None:
        raise Invalid(_MANY_HOSTS)
    if head.count(b"host") > 1:
        raise Invalid(_MANY_HOSTS)
    if authority is not None and (host is None or authority.lower() != host.lower()):
        raise Invalid(_MANY_HOSTS)
    coding = first.get(b"transfer-encoding")
    if coding is not None and coding.lower() != b"chunked":
        raise Invalid("The body may be sent in chunks (Transfer-Encoding: chunked) and in no other coding")
