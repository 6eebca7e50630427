"""The caller's side of one request: its body as it comes, and whether it is still there.

Under ASGI only a waiting `receive` tells that the caller has hung up, and `send` tells nothing. So while the provider
is awaited, one task waits for that message and cancels the request's own; `Client` turns it into ClientGone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from starlette.types import Receive

from aiwm.errors import BodyTooLarge, ClientGone


class Client:
    """`async with client.listening():` around everything that waits for the provider."""

    __slots__ = ("_gone", "_listener", "_max_bytes", "_receive", "_task", "answered")

    def __init__(self, receive: Receive, *, max_bytes: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._listener: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._gone = False
        self.answered = False
        """Set before the last byte goes out: after it, hanging up is what callers do."""

    async def body(self) -> bytes:
        """The whole body. Raises BodyTooLarge, or ClientGone if it never comes to its end."""
        first, more = await self._next()
        if not more:
            return self._within(first, len(first))
        pieces, size = [first], len(first)
        while more:
            piece, more = await self._next()
            size += len(piece)
            pieces.append(self._within(piece, size))
        return b"".join(pieces)

    async def stream(self) -> bytes | AsyncIterator[bytes]:
        """The body at once if it came in one piece, else an iterator over its pieces."""
        first, more = await self._next()
        self._within(first, len(first))
        return self._pieces(first) if more else first

    async def _pieces(self, first: bytes) -> AsyncIterator[bytes]:
        yield first
        size, more = len(first), True
        while more:
            piece, more = await self._next()
            size += len(piece)
            yield self._within(piece, size)
        self._listen()

    def body_unwanted(self) -> None:
        """The provider reads no more of the body, or never began to: from now on the caller is only listened to."""
        self._listen()

    async def _next(self) -> tuple[bytes, bool]:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message.get("body", b""), message.get("more_body", False)

    def _within(self, piece: bytes, size: int) -> bytes:
        if size > self._max_bytes:
            raise BodyTooLarge(f"The request body is too large: at most {self._max_bytes} bytes are passed on")
        return piece

    def listening(self, body: bytes | AsyncIterator[bytes]) -> Self:
        """A context in which a caller that hangs up ends the work. An iterator listens by itself while it is read."""
        self._task = asyncio.current_task()
        if isinstance(body, bytes):
            self._listen()
        return self

    def _listen(self) -> None:
        # Not twice, and not for an upload that comes to its end after the request.
        if self._listener is None and self._task is not None:
            self._listener = asyncio.get_running_loop().create_task(self._wait_for_the_end())

    async def _wait_for_the_end(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.answered and self._task is not None:
            self._gone = True
            self._task.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._listener is not None:
            self._listener.cancel()
        if not self._gone or task is None:
            return
        if kind is None:
            # Cancelled at the very end: the cancellation waits at the next await, and must not hit somebody else's.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            task.uncancel()
        elif kind is asyncio.CancelledError and task.uncancel() == 0:
            raise ClientGone from None
