"""An Upstream to a server on this machine, with requests and timeouts already made, for tests of the client itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from aiwm.proxy.upstream import Upstream, UpstreamResponse
from aiwm.wire.origins import Origin, Timeouts
from patience import PATIENCE


class Client:
    def __init__(self, upstream: Upstream, *, scheme: str = "http", host: str = "127.0.0.1") -> None:
        self.upstream, self._scheme, self._host = upstream, scheme, host

    async def post(
        self,
        port: int,
        body: bytes | AsyncIterator[bytes] = b"",
        *,
        connect: float = PATIENCE,
        first_byte: float = PATIENCE,
        idle: float = PATIENCE,
        chunked: bool = False,
    ) -> UpstreamResponse:
        framing = b"content-length: %d" % len(body) if isinstance(body, bytes) else b"x-framed-by: the caller"
        head = b"POST /v1 HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % (b"transfer-encoding: chunked" if chunked else framing)
        timeouts = Timeouts(connect=connect, first_byte=first_byte, idle=idle)
        origin = Origin(self._scheme, self._host, port)
        return await self.upstream.send(origin, head, body, timeouts=timeouts, chunked=chunked)

    async def head(self, port: int) -> UpstreamResponse:
        timeouts = Timeouts(connect=PATIENCE, first_byte=PATIENCE, idle=PATIENCE)
        origin = Origin(self._scheme, self._host, port)
        return await self.upstream.send(
            origin, b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n", b"", timeouts=timeouts, is_head=True
        )


class MakeClient(Protocol):
    """`options` are those of Upstream."""

    def __call__(self, *, scheme: str = "http", host: str = "127.0.0.1", **options: Any) -> Client: ...


async def whole(response: UpstreamResponse) -> bytes:
    """The rest of the body, and the connection given back."""
    try:
        pieces = []
        while piece := await response.next():
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        response.release()
