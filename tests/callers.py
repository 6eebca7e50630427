"""A caller who looks closely: what it sends goes out as written, what it gets is kept as it came.

An HTTP library would mend, merge and hide the very things the tests of the data plane are about.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from msgspec.structs import asdict

import planted
from aiwm.store.database import Database
from aiwm.store.ledger import LedgerStore
from fakes import RawPeer
from gateway import Caller, Gateway
from patience import PATIENCE, eventually

Header = tuple[str, str]
Body = bytes | Sequence[bytes]
"""Bytes go with a content-length; a sequence goes in chunks, one for each piece."""


@dataclass(slots=True)
class Seen:
    """One answer. `whole` says that it came to its end as its own framing announced it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    whole: bool = False
    pieces: list[bytes] = field(default_factory=list)

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def one(self, name: bytes) -> bytes | None:
        found = self.all(name)
        assert len(found) <= 1, found
        return found[0] if found else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Line:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int, *, limit: int = 1 << 20) -> Self:
        """Twice as many bytes as `limit` are taken in before somebody reads them."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=limit))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def gone(self) -> None:
        """When it was closed or reset, that was only said to the loop: afterwards it is done."""
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def head(self) -> Seen:
        """The head of the next answer; raises ConnectionError when there is none."""
        try:
            async with asyncio.timeout(PATIENCE):
                text = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as exc:
            raise ConnectionResetError(f"no answer, only {exc.partial!r}") from exc
        status, *lines = text[:-4].split(b"\r\n")
        if status.split()[1] == b"100":
            return await self.head()
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        return Seen(int(status.split()[1]), headers)

    async def body(self, seen: Seen, *, of_head: bool = False) -> Seen:
        """Reads the body that the head announced; a broken one leaves `whole` False."""
        try:
            async with asyncio.timeout(PATIENCE):
                if of_head or seen.status in {204, 304}:
                    pass
                elif seen.one(b"transfer-encoding") == b"chunked":
                    while piece := await self._chunk():
                        seen.pieces.append(piece)
                else:
                    await self._counted(seen, int(seen.one(b"content-length") or b"-1"))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        else:
            seen.whole = True
        seen.body = b"".join(seen.pieces)
        planted.saw("an answer of inference", b"%r %b" % (seen.headers, seen.body))
        return seen

    async def chunk(self) -> bytes:
        """The next chunk of a chunked answer, b"" for the last."""
        async with asyncio.timeout(PATIENCE):
            return await self._chunk()

    async def some(self) -> bytes:
        """Whatever has come, framing and all."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read(65536)

    async def closed(self) -> bytes:
        """What still comes until the gateway closes."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.read()

    async def _counted(self, seen: Seen, left: int) -> None:
        assert left >= 0, f"a body without framing: {seen.headers}"
        while left:
            piece = await self._reader.read(min(left, 65536))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            seen.pieces.append(piece)
            left -= len(piece)

    async def _chunk(self) -> bytes:
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        data = await self._reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]


def request(
    method: str, path: str, headers: Sequence[Header] = (), body: Body = b"", *, host: str = "gateway.localhost"
) -> bytes:
    """A request as bytes. An empty body of a GET has no framing at all."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers)]
    if not isinstance(body, bytes):
        lines.append("transfer-encoding: chunked")
    elif body or method in {"POST", "PUT", "PATCH"}:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + framed(body)


def framed(body: Body) -> bytes:
    if isinstance(body, bytes):
        return body
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*body, b""])


def unchunked(body: bytes) -> bytes:
    """What a chunked request held that a RawPeer has read."""
    pieces, rest = [], body
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        pieces.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return b"".join(pieces)


def fields(head: bytes) -> list[tuple[str, str]]:
    """Names and values of a request that a RawPeer has read, in their order."""
    lines = head.decode("latin-1").split("\r\n")[1:-2]
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]


class Door:
    """A gateway, and somebody who is logged in there."""

    def __init__(self, gateway: Gateway, caller: Caller | None = None) -> None:
        self.gateway = gateway
        self.caller = caller or gateway.login()

    @property
    def bearer(self) -> Header:
        return ("authorization", f"Bearer {self.caller.token}")

    def deploy(
        self,
        port: int,
        provider: str = "openai",
        base: str = "/v1",
        *,
        scheme: str = "http",
        host: str = "127.0.0.1",
        config: Mapping[str, str] | None = None,
        **more: Any,
    ) -> str:
        return self.gateway.deploy(
            self.caller, provider, f"{scheme}://{host}:{port}{base}", config=config or {"apiKey": "sk-key"}, **more
        )

    async def line(self, *, limit: int = 1 << 20) -> Line:
        return await Line.open(self.gateway.port, limit=limit)

    def refusal(self, seen: Seen, deployment: str, path: str) -> tuple[int, str, str]:
        """Status, phrase and message of an error of ours, whose form is checked."""
        shown = seen.json
        assert set(shown) == {"statusCode", "message", "error", "timestamp", "path", "correlationId"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", shown["timestamp"])
        assert (shown["statusCode"], shown["path"]) == (seen.status, self.path(deployment, path))
        assert shown["correlationId"].encode() == seen.one(b"x-correlation-id")
        assert seen.one(b"x-aiwm-error") == b"gateway"
        assert seen.one(b"content-type") == b"application/json; charset=utf-8"
        return seen.status, shown["error"], shown["message"]

    @staticmethod
    def path(deployment: str, path: str) -> str:
        return f"/deployments/{deployment}/inference/{path}"

    async def call(
        self,
        deployment: str,
        path: str = "anything",
        *,
        method: str = "POST",
        headers: Sequence[Header] = (),
        body: Body = b"",
        credential: Header | None = None,
    ) -> Seen:
        """One request on a connection of its own, and its answer to the last byte that comes."""
        data = request(method, self.path(deployment, path), [credential or self.bearer, *headers], body)
        async with await self.line() as line:
            sending = asyncio.create_task(_sent(line, data))
            try:
                return await line.body(await line.head(), of_head=method == "HEAD")
            finally:
                sending.cancel()

    def deployment(self, deployment: str) -> dict[str, Any]:
        answer = self.caller.http.get(f"/deployments/{deployment}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def rows(self, deployment: str) -> list[dict[str, Any]]:
        """The ledger of a deployment. What has been answered is in it."""
        await asyncio.to_thread(self.deployment, deployment)
        return await self.ledger(deployment)

    async def ledger(self, deployment: str) -> list[dict[str, Any]]:
        """What is in the database at this moment."""
        database = Database(f"sqlite+aiosqlite:///{self.gateway.folder / 'aiwm.db'}")
        try:
            found = await LedgerStore(database).of_deployment(self.caller.user["orgId"], deployment)
        finally:
            await database.aclose()
        return [{**asdict(row), **asdict(row.usage)} for row in found]

    async def row(self, deployment: str) -> dict[str, Any]:
        """The one row that there must be, at once."""
        (row,) = await self.rows(deployment)
        return row

    async def only_row(self, deployment: str) -> dict[str, Any]:
        """The one row that there must be, as soon as the gateway has seen that its request has ended."""
        (row,) = await eventually(lambda: self.rows(deployment))
        return row

    def descriptors(self) -> int:
        """How many files and sockets the processes that serve have open."""
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.gateway.pids)

    async def until_descriptors(self, most: int) -> None:
        async def few() -> bool:
            return self.descriptors() <= most

        await eventually(few)

    def forget_peak_memory(self) -> None:
        for pid in self.gateway.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_memory(self) -> int:
        """The most bytes of memory that each process ever had, since `forget_peak_memory`, taken together."""
        lines = [line for pid in self.gateway.pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    def complaints(self, since: int = 0) -> list[str]:
        """Lines of the log that tell of something unexpected."""
        lines = self.gateway.log[since:].splitlines()
        return [line for line in lines if '"level":"info"' not in line]


async def _sent(line: Line, data: bytes) -> None:
    try:
        await line.send(data)
    except ConnectionError:
        return  # The gateway need not read what it has refused.


Script = Callable[[RawPeer], Awaitable[None]]


def answering(data: bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok") -> Script:
    """A provider that answers each request of a connection with these bytes."""

    async def script(peer: RawPeer) -> None:
        while await peer.read_request():
            await peer.write(data)

    return script


def answering_once(*pieces: bytes) -> Script:
    """A provider that answers one request with these bytes, each written by itself, and then closes."""

    async def script(peer: RawPeer) -> None:
        await peer.read_request()
        for piece in pieces:
            await peer.write(piece)
            await asyncio.sleep(0)

    return script
