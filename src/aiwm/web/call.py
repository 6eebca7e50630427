"""One request and the answer to it, as the connection that it came on hands it to an application.

It is what both planes are given: the data plane works on it directly, the control plane through `web.asgi`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Protocol

from aiwm.errors import BodyTooLarge, ClientGone
from aiwm.logs import Outcome
from aiwm.web.head import Head
from aiwm.wire.headers import Header, firsts

_HIGH_WATER = 256 * 1024
"""Bytes of a request's body that may wait to be taken before the caller is held back."""

STATUS_LINES = {status: b"HTTP/1.1 %d \r\n" % status for status in range(100, 600)} | {
    int(status): b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}


class Wire(Protocol):
    """The connection, as a call sees it."""

    held_back: bool
    """Whether the caller takes its answer more slowly than it is written."""

    def write(self, data: bytes) -> None: ...

    async def drained(self) -> None:
        """Waits until the caller has taken what was written, or is gone."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def ended(self, *, keep: bool) -> None:
        """The answer is whole; `keep` says whether the connection may carry another call."""


class Call:
    """What its head says is in `head`; of that, what is asked for most is here, too."""

    # Most of it stays as it is here for most calls: one is made for each request.

    task: asyncio.Task[None] | None = None
    """What works on it, and on what comes after it on the same connection."""
    gone = False
    """Whether the caller has closed the connection before the answer was whole."""
    on_gone: Callable[[], object] | None = None
    """Called at that moment."""
    status = 0
    """Of the answer; 0 until it begins."""
    answered = False
    """Whether the answer is whole, as far as we are concerned: after it, hanging up is what callers do."""

    # What is known of the request, for its line in the log: whoever learns something writes it here.
    request_id = ""
    """Ours, and new for each request."""
    correlation_id = ""
    """The caller's own, when it sent one that can be logged and sent back; else the request's id."""
    user_id: str | None = None
    org_id: str | None = None
    api_key_id: str | None = None
    """The key that was shown, by its id; None for a token."""
    acting_for: str | None = None
    """The organization a universe.owner acts in with X-Organization-Id, when it is not its own."""
    deployment_id: str | None = None
    outcome: Outcome | None = None
    """Of a call that went to a provider."""
    failure: str | None = None
    """Why there is no whole answer, if there is none."""

    _version = "1.1"
    _expects_continue = False
    _size = 0
    _whole = False
    _unwanted = False
    _waiter: asyncio.Future[None] | None = None
    _head: bytes | None = None
    _chunked = False
    _left = -1

    def __init__(
        self,
        wire: Wire,
        head: Head,
        *,
        length: int | None = None,
        version: str = "1.1",
        keep: bool = True,
        expects_continue: bool = False,
        client: tuple[str, int] | None = None,
    ) -> None:
        self.client = client
        """Address and port of who called, as the connection has them."""
        self.head = head
        self.method = head.method
        self.path = head.path
        self.first = head.first
        self.length = length
        """Of the body, when the caller says it beforehand: its Content-Length."""
        self._wire = wire
        self._keep = keep
        self._pieces: list[bytes] = []
        if version != "1.1":
            self._version = version
        if expects_continue:
            self._expects_continue = True

    # The request's body, as the application takes it.

    async def body(self, *, max_bytes: int) -> bytes:
        """The whole body. Raises BodyTooLarge, or ClientGone if it never comes to its end."""
        if self._whole and len(self._pieces) == 1 and self._size <= max_bytes:
            return self._pieces[0]
        pieces: list[bytes] = []
        size = 0
        async for piece in self.pieces(max_bytes=max_bytes):
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    async def stream(self, *, max_bytes: int) -> bytes | AsyncIterator[bytes]:
        """The body at once if all of it is here, else an iterator over what comes."""
        if self._whole:
            return await self.body(max_bytes=max_bytes)
        return self.pieces(max_bytes=max_bytes)

    async def pieces(self, *, max_bytes: int) -> AsyncIterator[bytes]:
        """The body as it comes. Raises BodyTooLarge, or ClientGone if it never comes to its end."""
        size = 0
        while True:
            piece, whole = await self.take()
            size += len(piece)
            if size > max_bytes:
                raise BodyTooLarge(f"The request body is too large: at most {max_bytes} bytes are passed on")
            if piece:
                yield piece
            if whole:
                return

    async def take(self) -> tuple[bytes, bool]:
        """What of the body has come and was not taken yet, waiting for some if need be; and whether it was the last.

        Raises ClientGone.
        """
        while not (self._pieces or self._whole):
            if self.gone:
                raise ClientGone
            self._wait_for_more()
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                self._waiter = None
        pieces, self._pieces = self._pieces, []
        self._size = 0
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), self._whole

    def discard(self) -> None:
        """Nobody wants the rest of the body: what still comes of it is thrown away."""
        if not self._whole:
            self._unwanted = True
            self._pieces.clear()
            self._wire.resume_reading()

    def _wait_for_more(self) -> None:
        if self._expects_continue:
            self._expects_continue = False
            self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._wire.resume_reading()

    # The answer.

    @property
    def held_back(self) -> bool:
        """Whether the caller takes the answer more slowly than it is written: then wait until it has `drained`."""
        return self._wire.held_back

    async def drained(self) -> None:
        await self._wire.drained()

    def start(self, status: int, headers: Sequence[Header]) -> None:
        """The head of the answer. It goes out with the first piece of the body, or at `flush`.

        A body without `content-length` among the headers is sent in chunks.
        """
        first, framing = firsts(headers), b""
        length = first.get(b"content-length")
        self._left = -1 if length is None else int(length)
        if self._expects_continue and not self._whole:
            self._keep = False  # A caller who was not asked for its body may send it or leave it out.
        if self.method == b"HEAD" or status in _WITHOUT_BODY:
            self._left = 0
        elif length is None:
            if self._version == "1.1":
                self._chunked, framing = True, b"transfer-encoding: chunked\r\n"
            else:
                self._keep = False  # Only the end of the connection ends it.
        if b"close" in first.get(b"connection", b"").lower():
            self._keep = False
        elif not self._keep:
            framing += b"connection: close\r\n"
        lines = [b"%b: %b\r\n" % header for header in headers]
        lines.append(b"x-correlation-id: %b\r\n" % self.correlation_id.encode("latin-1"))
        block = b"".join(lines)
        if block.count(b"\n") != len(lines) or block.count(b"\r") != len(lines) or 0 in block:
            raise ValueError("a header of the answer has a line break or a NUL in it")
        self.status = status
        self._head = b"%b%b%b\r\n" % (STATUS_LINES[status], block, framing)

    @property
    def begun(self) -> bool:
        """Whether any of the answer has gone out: there can be no other one."""
        return self.status != 0 and self._head is None

    def flush(self) -> None:
        """Sends the head if it waits for the first piece."""
        if self._head is not None and not self.gone:
            head, self._head = self._head, None
            self._wire.write(head)

    def write(self, piece: bytes, *, last: bool = False) -> None:
        """A piece of the body. To a caller who is gone nothing is written."""
        if self.gone:
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
            if last:
                data += b"0\r\n\r\n"
        else:
            data = self._counted(piece, last=last)
        if self._head is not None:
            data = self._head + data
            self._head = None
        if last:
            self.answered = True
        if data:
            self._wire.write(data)
        if last:
            self._wire.ended(keep=self._keep)

    def answer(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """A whole answer."""
        self.start(status, headers)
        self.write(body, last=True)

    def _counted(self, piece: bytes, *, last: bool) -> bytes:
        if self._left < 0:
            return piece
        if self.method == b"HEAD" or self.status in _WITHOUT_BODY:
            return b""
        self._left -= len(piece)
        if self._left < 0 or (last and self._left):
            raise ValueError("the answer is not as long as its content-length says")
        return piece

    # What the connection tells.

    def receive(self, piece: bytes) -> None:
        """A piece of the body has come."""
        if self._unwanted or self.answered:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > _HIGH_WATER:
            self._wire.pause_reading()
        self._wake()

    def fill(self, body: bytes) -> None:
        """All of the body has come, before anybody waits for it."""
        if body:
            self._pieces.append(body)
            self._size = len(body)
        self._whole = True

    def received(self) -> None:
        """The body is whole."""
        self._whole = True
        self._wake()

    @property
    def whole(self) -> bool:
        return self._whole

    @property
    def waiting(self) -> int:
        """Bytes of the body that have come and were not taken yet."""
        return self._size

    def leave(self) -> None:
        """The connection is closed."""
        if self.answered or self.gone:
            return
        self.gone = True
        self._wake()
        if self.on_gone is not None:
            self.on_gone()

    def close_after(self) -> None:
        """The connection is to be closed when the answer is whole."""
        self._keep = False

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


_WITHOUT_BODY = frozenset({204, 304})

Application = Callable[[Call], Coroutine[Any, Any, None]]
"""Answers a call. An answer that it leaves without an end is broken off: the connection is closed."""
