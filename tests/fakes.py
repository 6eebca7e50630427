"""Stand-ins that tests of several rooms share: small, scripted, recording."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Self


class RawPeer:
    """One accepted connection: what a script reads from and writes to. `received` is every byte read so far."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.number = number
        """0 for the first connection to the server, and so on."""
        self.received = bytearray()
        self.requests: list[tuple[bytes, bytes]] = []
        """Head and body of each request read with `read_request`."""
        self._reader, self._writer = reader, writer

    async def read(self, limit: int = 65536) -> bytes:
        """Some bytes; b"" once the client has closed."""
        data = await self._reader.read(limit)
        self.received += data
        return data

    async def read_request(self) -> tuple[bytes, bytes] | None:
        """One request, its head and its body as they came (a chunked one with its framing); None at the end."""
        head = await self.read_head()
        if not head:
            return None
        body = await self.read_body(head)
        self.requests.append((head, body))
        return head, body

    async def read_head(self) -> bytes:
        """Of the next request; b"" at the end."""
        return await self._until(b"\r\n\r\n")

    async def read_body(self, head: bytes) -> bytes:
        """What follows the head, a chunked body with its framing."""
        fields = dict(line.split(b":", 1) for line in head.lower().split(b"\r\n")[1:] if line)
        body = b""
        if b"transfer-encoding" in fields:
            size = -1
            while size:
                line = await self._until(b"\r\n")
                size = int(line, 16)
                body += line + await self._exactly(size + 2)
        elif b"content-length" in fields:
            body = await self._exactly(int(fields[b"content-length"]))
        return body

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, body: bytes = b"ok", *, status: bytes = b"200 OK", headers: bytes = b"") -> None:
        """A whole answer; `headers` are complete lines."""
        await self.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), headers, body))

    def extra(self, name: str) -> Any:
        """What the transport knows: "peername", "ssl_object"."""
        return self._writer.get_extra_info(name)

    async def closed(self) -> None:
        """Wait until the client has closed or reset the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.read():
                pass

    def close(self) -> None:
        """A clean end: what was written first, then FIN."""
        self._writer.close()

    def finish(self) -> None:
        """FIN, but still reading; not with TLS."""
        self._writer.write_eof()

    def cut(self) -> None:
        """FIN, and under TLS without the close_notify that makes an end trustworthy."""
        self._writer.transport.abort()

    def reset(self) -> None:
        """An abrupt end: RST."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def _exactly(self, size: int) -> bytes:
        data = await self._reader.readexactly(size)
        self.received += data
        return data

    async def _until(self, end: bytes) -> bytes:
        try:
            data = await self._reader.readuntil(end)
        except asyncio.IncompleteReadError as exc:
            data = exc.partial
        self.received += data
        return data


class RawServer:
    """A TCP server on 127.0.0.1 that runs `script` for each connection and closes the connection after it.

        async def script(peer: RawPeer) -> None:
            await peer.read_request()
            await peer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nhi")
            await peer.closed()

        async with RawServer(script) as server:
            ...  # server.port, server.peers

    With `tls` it speaks TLS. What a script raises comes out of the `async with`, except that the client hung up.
    """

    def __init__(self, script: Callable[[RawPeer], Awaitable[None]], *, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.peers: list[RawPeer] = []
        self._script, self._tls = script, tls
        self._running: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._server.wait_closed()
        if self._failures and kind is None:
            raise self._failures[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        peer = RawPeer(reader, writer, len(self.peers))
        self.peers.append(peer)
        try:
            await self._script(peer)
        except ConnectionError:
            pass
        except asyncio.CancelledError:
            writer.transport.abort()  # The test is over. Not raised: asyncio.streams would log it.
        except Exception as exc:  # noqa: BLE001 - reported when the server is left
            self._failures.append(exc)
        finally:
            self._running.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()


class Wire:
    """A caller's connection that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.ends: list[bool] = []
        self.held_back = False
        self.reading = True

    def write(self, data: bytes) -> None:
        self.written += data

    async def drained(self) -> None:
        assert not self.held_back

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def ended(self, *, keep: bool) -> None:
        self.ends.append(keep)
