"""The one exception to untouched bytes: an error text that quotes the provider's key, or another of its secrets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from aiwm.errors import AnswerBroken
from aiwm.proxy.upstream import UpstreamResponse
from aiwm.wire.encodings import Decoder, UndecodableBody, decoder
from aiwm.wire.headers import Header, find
from aiwm.wire.masking import KeyMask, Secrets, masked_in

Pieces = Callable[[], Awaitable[bytes]]

_MOST_HELD = 1024 * 1024
"""Bytes of a compressed error that are held to be searched; real ones have a thousandth of that."""


async def masked_error(
    response: UpstreamResponse, headers: Sequence[Header], secrets: Secrets
) -> tuple[list[Header], Pieces]:
    """The headers and pieces of an error answer without the secrets in it. Masks are as long as what they cover."""
    encoding = find(headers, b"content-encoding") or b""
    try:
        decoding = decoder(encoding)
    except UndecodableBody:
        return list(headers), response.next
    if decoding is None:
        return list(headers), _masking(response, response.next, secrets)
    return await _decoded(response, list(headers), decoding, secrets)


def _masking(response: UpstreamResponse, pieces: Pieces, secrets: Secrets) -> Pieces:
    mask = KeyMask(secrets)

    async def masked() -> bytes:
        piece = mask.feed(await pieces())
        return piece + mask.finish() if response.complete else piece

    return masked


async def _decoded(
    response: UpstreamResponse, headers: list[Header], decoding: Decoder, secrets: Secrets
) -> tuple[list[Header], Pieces]:
    """A compressed error has to be read to be searched. It goes out as it came, unless a secret is in it.

    One that is too long to be held is not compressed any more when it goes out: only so can the rest be searched.
    """
    body = await response.next()
    while not response.complete and len(body) <= _MOST_HELD:
        body += await response.next()
    whole = response.complete
    try:
        text = decoding.feed(body)
    except UndecodableBody:
        return headers, _behind(body, response, response.next)
    masked = masked_in(text, secrets)
    if whole and masked == text:
        return headers, _behind(body, response, response.next)
    headers = [item for item in headers if item[0] not in {b"content-encoding", b"content-length", b"etag"}]
    if whole:
        return [*headers, (b"content-length", b"%d" % len(masked))], _behind(masked, response, response.next)
    rest = _decoding(response, decoding)
    return headers, _masking(response, _behind(text, response, rest), secrets)


def _decoding(response: UpstreamResponse, decoding: Decoder) -> Pieces:
    async def decoded() -> bytes:
        try:
            return decoding.feed(await response.next())
        except UndecodableBody as exc:
            raise AnswerBroken from exc

    return decoded


def _behind(held: bytes, response: UpstreamResponse, rest: Pieces) -> Pieces:
    """What is held, then the rest; all of it at once if the rest is here: no piece is asked for after `complete`."""
    first = [held]

    async def pieces() -> bytes:
        piece = first.pop() if first else await rest()
        return piece + await rest() if response.complete else piece

    return pieces
