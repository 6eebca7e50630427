"""One connection to a provider, and the answer that it is reading at the moment.

The transport's callbacks do the work; the coroutines write a request and then only wait for what the callbacks
have changed. A connection carries one exchange after another; it is in one of these states:

    idle        no exchange; kept for the next one
    asked       the request is going out or has gone out, the head of the answer has not come
    answering   `status` is known, body pieces arrive
    complete    the whole answer is here, though perhaps not taken yet
    closed      for good, at any moment and for any reason

An exchange that cannot go on ends in `_end`: the failure is left in the answer for whoever waits or comes to ask,
and the connection is closed. Nothing is reported anywhere else, so nothing can be reported twice or to nobody.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from aiwm.errors import AnswerBroken, UpstreamTimeout, UpstreamUnreachable
from aiwm.web.outbox import Outbox
from aiwm.wire.headers import Header
from aiwm.wire.origins import Origin, Timeouts

HIGH_WATER = 256 * 1024
"""Bytes of an answer that may wait for a slow client before the provider is held back."""
HEAD_LIMIT = 64 * 1024
"""Bytes of an answer's head, interim answers (1xx) included."""
FRAMING_LIMIT = 2 * HEAD_LIMIT
"""Bytes after the head without one of the body among them: chunk extensions, trailers."""

_SMALL = 64 * 1024  # Up to here, copying a body behind its head is cheaper than a second write.
_STALE = 2.0
_UPLOAD_TICK = 0.05  # How often the progress of an upload is looked at, as a share of the first-byte time.
_NEVER = float("inf")
_CLOCK_STEP = 0.002  # uvloop counts in whole milliseconds, so a timer may fire a little before its time.


Meanwhile = Callable[[bytes], bool]
"""Takes a piece of an answer and says whether it takes the next one at once."""


class UpstreamResponse:
    """A provider's answer. Header names are in lower case; order and duplicates are the provider's.

    `complete` says that the whole body has been received, though perhaps not yet taken with `next`.
    Whoever has one calls `release`, once or more often, whatever happened.
    """

    __slots__ = ("_connection", "_failure", "_pieces", "complete", "headers", "status")

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self._pieces: list[bytes] = []
        self._failure: Exception | None = None
        self._connection: Connection | None = connection

    @property
    def ready(self) -> bool:
        """Whether `next` would not wait."""
        return bool(self._pieces) or self.complete or self._failure is not None

    async def next(self, meanwhile: Meanwhile | None = None) -> bytes:
        """What of the body has arrived and was not taken yet, waiting for some if need be; b"" at the end.

        `meanwhile` spares the waiting task being woken for each piece: it is given those that come, but for the last,
        until it wants no more at the moment. Then the answer may be b"", too.

        Raises AnswerBroken, what the iterator raised that the request's body comes from, and what `meanwhile` raised.
        """
        while not self._pieces:
            if self.complete:
                return b""
            if self._failure is not None:
                raise self._failure
            if self._connection is None:
                raise AnswerBroken
            wants_no_more = await self._connection.change(meanwhile)
            if wants_no_more and not self.ready:
                return b""
        pieces, self._pieces = self._pieces, []
        if self._connection is not None:
            self._connection.taken()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release(self) -> None:
        """Give the connection back: kept for the next request if the answer is complete, closed if not."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()


class Owner(Protocol):
    """Whom a connection tells that it may carry another request and, in the end, that it is gone."""

    outbox: Outbox
    """What sends the requests that are small."""

    def keep(self, connection: Connection) -> None: ...
    def gone(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One for each transport. Whoever calls `exchange` waits for its answer before anything else is asked of it."""

    __slots__ = (
        "_answer",
        "_deadline",
        "_drained",
        "_framing",
        "_heard",
        "_is_head",
        "_loop",
        "_meanwhile",
        "_owner",
        "_parser",
        "_paused",
        "_reusable",
        "_sent_at",
        "_take_header",
        "_timeouts",
        "_timer",
        "_timer_at",
        "_transport",
        "_unsent",
        "_untaken",
        "_upload",
        "_uploaded",
        "_waiter",
        "origin",
        "stale",
    )

    def __init__(self, origin: Origin, owner: Owner) -> None:
        self.origin = origin
        self.stale = False
        """Whether the provider had closed the connection, by all signs, before it got the last request."""
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None  # None: not connected yet, or closed.
        self._answer: UpstreamResponse | None = None
        self._take_header: Callable[[Header], object] = _nobodys
        self._timeouts = Timeouts(_NEVER, _NEVER, _NEVER)
        self._is_head = False
        self._heard = False
        self._reusable = False
        self._framing = 0
        self._untaken = 0
        self._paused = False
        self._sent_at = 0.0
        self._upload: asyncio.Task[None] | None = None
        self._uploaded = True
        self._unsent = 0
        self._drained: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._meanwhile: Meanwhile | None = None
        self._deadline = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER

    # What the owner and the answer call.

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(
        self,
        head: bytes,
        body: bytes | AsyncIterator[bytes],
        timeouts: Timeouts,
        *,
        is_head: bool,
        chunked: bool,
    ) -> UpstreamResponse:
        """Send one request and wait for the head of its answer. If this raises, the connection is closed."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise UpstreamUnreachable
        answer = self._answer = UpstreamResponse(self)
        self._take_header = answer.headers.append
        self._timeouts = timeouts
        self._is_head = is_head
        self._heard = self._reusable = False
        self._framing = self._untaken = self._unsent = 0
        self._sent_at = self._expect(timeouts.first_byte)
        if not isinstance(body, bytes):
            transport.write(head)
            self._uploaded = False
            self._upload = self._loop.create_task(self._send_pieces(body, chunked=chunked))
            self._arm(self._sent_at + timeouts.first_byte * _UPLOAD_TICK)
        elif len(body) <= _SMALL:
            self._owner.outbox.write(transport, head + body)
        else:
            transport.writelines((head, body))
            self._unsent = transport.get_write_buffer_size()
            self._arm(self._sent_at + timeouts.first_byte * _UPLOAD_TICK)
        while not answer.status:
            if answer._failure is not None:
                raise answer._failure
            await self.change()
        return answer

    async def change(self, meanwhile: Meanwhile | None = None) -> bool:
        """Wait until there is something new, but for pieces that `meanwhile` takes; True when it wants no more of them.

        Whoever is cancelled here has left, and the connection is closed.
        """
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiter, self._meanwhile = waiter, meanwhile
        try:
            return await waiter
        except BaseException:
            self._abort()
            raise
        finally:
            self._waiter = self._meanwhile = None

    def taken(self) -> None:
        """The pieces of the answer are taken: the provider may go on."""
        self._untaken = 0
        if self._paused and self._resumed() and self._answer is not None and not self._answer.complete:
            self._expect(self._timeouts.idle)

    def release(self) -> None:
        answer, transport = self._answer, self._transport
        if answer is None or transport is None:
            return
        if not (answer.complete and self._reusable and self._uploaded) or transport.get_write_buffer_size():
            self.close()
            return
        self._answer = None
        if self._is_head:
            self._parser = HttpResponseParser(self)  # The old one may still wait for the body that was described.
        self._resumed()
        self._owner.keep(self)

    def rest(self, seconds: float) -> None:
        """Kept for the next request, but not for longer than this."""
        self._expect(seconds)

    def close(self) -> None:
        """Close it, whatever it is doing; whoever waits for the answer is told."""
        self._broken(None)

    def _abort(self) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._stop_upload()
        # Not at once: asyncio's TLS stumbles if this comes out of one of its own callbacks.
        self._loop.call_soon(transport.abort)

    # How an exchange ends before its end.

    def _end(self, failure: Exception) -> None:
        answer = self._answer
        if answer is not None and not answer.complete and answer._failure is None:
            answer._failure = failure
        self._abort()
        self._wake()

    def _broken(self, cause: Exception | None) -> None:
        answer = self._answer
        answering = answer is not None and answer.status
        failure = AnswerBroken() if answering else UpstreamUnreachable(reached=True)
        failure.__cause__ = cause
        self._end(failure)

    def _cut(self, cause: Exception | None) -> None:
        # Within two seconds this is the provider closing a connection that it had been keeping. Later it is one that
        # died over the request: it must not be asked, and billed, twice.
        self.stale = not self._heard and self._loop.time() - self._sent_at < _STALE
        self._broken(cause)

    def _wake(self, *, wants_no_more: bool = False) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(wants_no_more)

    # The upload, when it comes in pieces.

    async def _send_pieces(self, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        try:
            await self._write_pieces(body, chunked=chunked)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it belongs to the one who waits for the answer
            if self._upload is not None:
                self._upload = None
                self._end(exc)
        else:
            self._upload = None
            self._uploaded = True

    async def _write_pieces(self, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        try:
            async for piece in body:
                if not piece:
                    continue  # As a chunk it would be the last one.
                self._write((b"%x\r\n" % len(piece), piece, b"\r\n") if chunked else (piece,))
                if self._drained is not None:
                    await self._drained
        finally:
            if isinstance(body, AsyncGenerator):
                await body.aclose()  # It may have been left in the middle.
        if chunked:
            self._write((b"0\r\n\r\n",))

    def _write(self, parts: tuple[bytes, ...]) -> None:
        if self._transport is not None:
            self._transport.writelines(parts)
            self._upload_moved(self._transport)

    def _upload_moved(self, transport: asyncio.Transport) -> None:
        """The provider has the whole time to answer from the last byte of the request that moved."""
        self._unsent = transport.get_write_buffer_size()
        answer = self._answer
        if answer is not None and not answer.complete and not self._paused:
            self._expect(self._timeouts.idle if answer.status else self._timeouts.first_byte)

    def _stop_upload(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.cancel()

    # Time. There is one timer for a connection's life: it is not cancelled when a deadline moves away, it looks when
    # it fires and is set again. Only a deadline that comes closer sets it anew, so most requests do not touch it.

    def _expect(self, seconds: float) -> float:
        """Something has to happen within `seconds` from now; returns now."""
        now = self._loop.time()
        self._deadline = now + seconds
        if self._deadline < self._timer_at:
            self._arm(self._deadline)
        return now

    def _arm(self, when: float) -> None:
        if when >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, _NEVER
        transport = self._transport
        if transport is None:
            return
        now = self._loop.time()
        uploading = self._upload is not None or self._unsent > 0
        if uploading and self._unsent != transport.get_write_buffer_size():
            self._upload_moved(transport)
        if now + _CLOCK_STEP >= self._deadline:
            self._expire()
        elif uploading:
            self._arm(min(self._deadline, now + self._timeouts.first_byte * _UPLOAD_TICK))
        else:
            self._arm(self._deadline)

    def _expire(self) -> None:
        answer = self._answer
        if answer is None:
            self._abort()  # Kept for long enough.
        elif answer.status:
            self._end(AnswerBroken(timed_out=True))
        else:
            self._end(UpstreamTimeout(reached=True))

    # The transport's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        transport, answer = self._transport, self._answer
        if transport is None:
            return
        if answer is None or answer.complete:
            self._abort()  # Nobody asked for these bytes; they would be taken for the answer to the next request.
            return
        self._heard = True
        try:
            if answer.status:
                self._parser.feed_data(data)
            else:
                self._feed_head(data, answer)
        except (HttpParserError, HttpParserUpgrade) as exc:
            self._broken(exc)
        else:
            self._advance(len(data), answer, transport)

    def eof_received(self) -> None:
        transport, answer = self._transport, self._answer
        if transport is None:
            return
        if answer is not None and answer.status and _until_closed(answer.headers) and _is_signed(transport):
            answer.complete = True
            self._abort()
            self._wake()
        else:
            self._cut(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._cut(exc)
        self._owner.gone(self)

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # Reading.

    def _feed_head(self, data: bytes, answer: UpstreamResponse) -> None:
        room = HEAD_LIMIT - self._framing
        self._framing += len(data)
        self._parser.feed_data(data[:room])
        if len(data) > room:
            if not answer.status:
                raise HttpParserError("the head is too long")
            self._parser.feed_data(data[room:])

    def _advance(self, received: int, answer: UpstreamResponse, transport: asyncio.Transport) -> None:
        if not answer.status:
            return
        if answer.complete:
            self._deadline = _NEVER
            if self._upload is not None:
                self._stop_upload()
        else:
            if answer.status >= 300:
                self._stop_upload()  # A refusal: the provider does not want the rest (RFC 9112, 9.5).
            self._bound(received, answer, transport)
            if self._meanwhile is not None:
                if answer._pieces:
                    self._hand_over(self._meanwhile, answer)
                return
        self._wake()

    def _hand_over(self, meanwhile: Meanwhile, answer: UpstreamResponse) -> None:
        pieces, answer._pieces = answer._pieces, []
        self._untaken = 0
        try:
            goes_on = meanwhile(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        except Exception as error:  # noqa: BLE001 - it belongs to the one who waits
            self._meanwhile = None
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(error)
        else:
            if not goes_on:
                self._meanwhile = None
                self._wake(wants_no_more=True)

    def _bound(self, received: int, answer: UpstreamResponse, transport: asyncio.Transport) -> None:
        """Keep what has to be remembered small, and the time until the next piece limited."""
        self._untaken += received
        self._framing = 0 if answer._pieces else self._framing + received
        if self._framing > FRAMING_LIMIT:
            self._broken(HttpParserError("framing without end"))
        elif self._untaken <= HIGH_WATER:
            self._expect(self._timeouts.idle)
        elif not self._paused:
            self._deadline = _NEVER  # It is the client that keeps everybody waiting.
            self._hold_back(transport)

    # A TLS transport that is paused goes on taking bytes in, up to a limit, and uvloop's throws them away if the
    # connection ends meanwhile. So while we pause, the limit is one byte, and the end stays behind the data. It is
    # raised again only when what was taken in has been handed to us, which happens in the loop's next round.

    def _hold_back(self, transport: asyncio.Transport) -> None:
        self._paused = True
        transport.pause_reading()
        if limit := getattr(transport, "set_read_buffer_limits", None):
            limit(high=1)

    def _resumed(self) -> bool:
        if not self._paused or self._transport is None or self._transport.is_closing():
            return False
        self._paused = False
        self._transport.resume_reading()
        if limit := getattr(self._transport, "set_read_buffer_limits", None):
            self._loop.call_soon(self._take_in, limit)
        return True

    def _take_in(self, limit: Callable[[], None]) -> None:
        if self._transport is not None and not self._paused:
            limit()

    # The parser's callbacks. What they raise comes out of feed_data as an HttpParserError.

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.complete:
            raise HttpParserError("bytes behind the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._take_header((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        answer = self._answer
        if answer is None:
            return
        status = self._parser.get_status_code()
        if status == 101 or not 100 <= status <= 599:
            raise HttpParserError("not an answer to what was asked")
        if status < 200:
            answer.headers.clear()
            return
        answer.status = status
        self._take_header = _nobodys  # What comes behind the body is a trailer.
        self._framing = 0
        if self._is_head:
            answer.complete = True
            self._reusable = self._parser.should_keep_alive()

    def on_body(self, piece: bytes) -> None:
        if self._answer is None or self._is_head:
            raise HttpParserError("a body where there can be none")
        self._answer._pieces.append(piece)

    def on_message_complete(self) -> None:
        if self._answer is not None and self._answer.status:
            self._answer.complete = True
            self._reusable = self._parser.should_keep_alive()  # Only in here: the parser forgets it afterwards.


def _nobodys(_: Header) -> None:
    """A header of no answer."""


def _until_closed(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether only the end of the connection ends this answer (RFC 9112, 6.3)."""
    codings = b",".join(value for name, value in headers if name == b"transfer-encoding")
    if codings:
        return codings.rpartition(b",")[2].strip().lower() != b"chunked"
    return all(name != b"content-length" for name, _ in headers)


def _is_signed(transport: asyncio.Transport) -> bool:
    """Whether the end of the connection is the provider's: under TLS anybody on the way can send a FIN."""
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        tls.unwrap()  # Succeeds at once if the provider's close_notify is here.
    except ssl.SSLError:
        return False
    return True
