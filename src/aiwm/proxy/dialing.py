"""Opening a connection to a provider: look the name up, keep to the permitted addresses, connect, TLS.

The address that is judged is the very one that is connected to: the name is looked up once, here, and never again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from aiwm.errors import UpstreamTimeout, UpstreamUnreachable
from aiwm.wire.addresses import AddressPolicy
from aiwm.wire.origins import Origin

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to numeric addresses, best first; raises OSError when there are none."""

_P = TypeVar("_P", bound=asyncio.Protocol)

_NOT_PERMITTED = (
    "AI provider is unreachable: its address is private or reserved; "
    "the operator can allow it in AIWM_PRIVATE_UPSTREAMS"
)


async def resolve(host: str, port: int) -> list[str]:
    """What the system's resolver says: /etc/hosts, DNS, and every spelling of a number that it takes."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class Dialer:
    __slots__ = ("_policy", "_resolve", "_tls")

    def __init__(self, policy: AddressPolicy, tls: ssl.SSLContext | None, resolver: Resolver) -> None:
        self._policy = policy
        self._tls = tls
        self._resolve = resolver

    async def dial(self, origin: Origin, seconds: float, protocol: Callable[[], _P]) -> _P:
        """A connected protocol, TLS included. Raises UpstreamTimeout or UpstreamUnreachable, with nothing left open."""
        try:
            deadline = asyncio.get_running_loop().time() + seconds
            async with asyncio.timeout_at(deadline):
                return await self._dial(origin, deadline, protocol)
        except TimeoutError as exc:  # The kernel's own connect timeout too.
            raise UpstreamTimeout from exc
        except (OSError, ValueError) as exc:  # ValueError: a name that cannot be looked up or be in a certificate.
            raise UpstreamUnreachable from exc

    async def _dial(self, origin: Origin, deadline: float, protocol: Callable[[], _P]) -> _P:
        resolved = dict.fromkeys(await self._resolve(origin.host, origin.port))
        addresses = [
            address for address in resolved if origin.ours or self._policy.permits(origin.host, address, origin.port)
        ]
        if not addresses:
            raise UpstreamUnreachable(_NOT_PERMITTED)
        *others, last = addresses
        for address in others:
            # Half of the time left: an address that does not react must not use up that of the next one.
            half = (deadline - asyncio.get_running_loop().time()) / 2
            with contextlib.suppress(OSError):
                async with asyncio.timeout(half):
                    return await self._connect(origin, address, protocol)
        return await self._connect(origin, last, protocol)

    async def _connect(self, origin: Origin, address: str, protocol: Callable[[], _P]) -> _P:
        loop = asyncio.get_running_loop()
        if origin.scheme != "https":
            plain, connected = await loop.create_connection(protocol, address, origin.port)
            _keep_alive(plain)
            return connected
        raw, _ = await loop.create_connection(asyncio.Protocol, address, origin.port)
        try:
            _keep_alive(raw)
            connected = protocol()
            connected.connection_made(await self._wrapped(raw, connected, origin.host))
        except BaseException:
            raw.abort()
            raise
        return connected

    async def _wrapped(self, raw: asyncio.Transport, protocol: asyncio.Protocol, host: str) -> asyncio.Transport:
        """TLS as a step of its own: uvloop's create_connection, cancelled at the wrong moment, goes on with it."""
        if self._tls is None:
            self._tls = _verifying_context()
        # Certificates are written without the dot that ends an absolute name.
        name = host.rstrip(".")
        tls = await asyncio.get_running_loop().start_tls(raw, protocol, self._tls, server_hostname=name)
        if tls is None or tls.is_closing():
            raise ConnectionResetError
        return tls


def _keep_alive(transport: asyncio.Transport) -> None:
    if transport.is_closing():
        raise ConnectionResetError
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _verifying_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
