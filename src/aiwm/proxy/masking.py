"""The one exception to untouched bytes: an error text that quotes the provider's key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from aiwm.proxy.upstream import UpstreamResponse
from aiwm.wire.encodings import UndecodableBody, decoder
from aiwm.wire.headers import Header, find
from aiwm.wire.masking import KeyMask, masked_in

Pieces = Callable[[], Awaitable[bytes]]

_MOST_DECODED = 1024 * 1024
"""Bytes of a compressed error that are held to be searched; real ones have a thousandth of that."""


async def masked_error(
    response: UpstreamResponse, headers: Sequence[Header], secret: bytes
) -> tuple[list[Header], Pieces]:
    """The headers and pieces of an error answer without the key in it. Masks are as long as what they cover."""
    encoding = find(headers, b"content-encoding")
    if encoding is None or encoding == b"identity":
        return list(headers), _masking(response, secret)
    return await _decoded(response, list(headers), encoding, secret)


def _masking(response: UpstreamResponse, secret: bytes) -> Pieces:
    mask = KeyMask(secret)

    async def pieces() -> bytes:
        masked = mask.feed(await response.next())
        return masked + mask.finish() if response.complete else masked

    return pieces


async def _decoded(
    response: UpstreamResponse, headers: list[Header], encoding: bytes, secret: bytes
) -> tuple[list[Header], Pieces]:
    """A compressed error has to be read to be searched. It goes out as it came unless the key is in it."""
    body = await response.next()
    while not response.complete and len(body) <= _MOST_DECODED:
        body += await response.next()
    held = [body]

    async def pieces() -> bytes:
        return held.pop() if held else await response.next()

    try:
        decoding = decoder(encoding)
        text = body if decoding is None else decoding.feed(body) + decoding.finish()
    except UndecodableBody:
        return headers, pieces
    masked = masked_in(text, secret)
    if masked != text:
        held[0] = masked
        headers = [item for item in headers if item[0] not in {b"content-encoding", b"content-length", b"etag"}]
        headers.append((b"content-length", b"%d" % len(masked)))
    return headers, pieces
