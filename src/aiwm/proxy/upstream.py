"""The seam to the network: send a request to a provider, get its answer as it comes.

What a connection does is in `connection`, which are kept is in `pool`, how one is opened in `dialing`.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable

from aiwm.errors import UpstreamError, UpstreamUnreachable
from aiwm.proxy.connection import Connection, UpstreamResponse
from aiwm.proxy.dialing import Dialer, Resolver, resolve
from aiwm.proxy.pool import Pool
from aiwm.wire.addresses import AddressPolicy
from aiwm.wire.origins import Origin, Timeouts

__all__ = ["Upstream", "UpstreamResponse"]


def _nobody_asks() -> None:
    pass


def _announce(on_sent: Callable[[], None], connection: Connection) -> None:
    """`on_sent` may refuse: then nothing goes out."""
    try:
        on_sent()
    except BaseException:
        connection.close()
        raise


class Upstream:
    """`tls` is for https; by default certificates are verified with the system's authorities (SSL_CERT_FILE)."""

    __slots__ = ("_dialer", "_pool")

    def __init__(
        self,
        *,
        policy: AddressPolicy,
        tls: ssl.SSLContext | None = None,
        max_idle_per_origin: int = 256,
        idle_seconds: float = 30.0,
        resolver: Resolver = resolve,
    ) -> None:
        self._dialer = Dialer(policy, tls, resolver)
        self._pool = Pool(max_idle_per_origin=max_idle_per_origin, idle_seconds=idle_seconds)

    async def send(
        self,
        origin: Origin,
        head: bytes,
        body: bytes | AsyncIterator[bytes],
        *,
        timeouts: Timeouts,
        is_head: bool = False,
        chunked: bool = False,
        on_sent: Callable[[], None] = _nobody_asks,
    ) -> UpstreamResponse:
        """The answer, as soon as its head is here. The caller releases it, in a `finally`.

        `head` is complete: request line, headers with host and framing, empty line. With `chunked`, an iterator's
        pieces are sent as chunks; everything else goes out as it is. An iterator is read while the answer is awaited,
        and no further once a refusal (300 and up) or a complete answer is here.

        `on_sent` is called before the first byte goes out: from then on the provider may have got the request. What it
        raises is raised here, and nothing goes out.

        Raises UpstreamUnreachable, UpstreamTimeout, or what the iterator raised. `reached` tells whether the provider
        may have got any of the request.
        """
        kept = self._pool.take(origin)
        if kept is not None:
            _announce(on_sent, kept)
            try:
                return await kept.exchange(head, body, timeouts, is_head=is_head, chunked=chunked)
            except UpstreamUnreachable:
                if not kept.stale or not isinstance(body, bytes):
                    raise
        try:
            fresh = await self._dialer.dial(origin, timeouts.connect, lambda: Connection(origin, self._pool))
            self._pool.add(fresh)
            _announce(on_sent, fresh)
            return await fresh.exchange(head, body, timeouts, is_head=is_head, chunked=chunked)
        except UpstreamError as exc:
            exc.reached = exc.reached or kept is not None
            raise

    async def aclose(self) -> None:
        """Close every connection, whatever it is doing, and wait until the last one is gone."""
        await self._pool.aclose()
