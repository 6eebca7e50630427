"""Which headers pass, in both directions. Names are lower-case, as ASGI has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter

from aiwm.errors import Invalid
from aiwm.wire.masking import Secrets, masked_in, quotes

Header = tuple[bytes, bytes]

_value: Callable[[Header], bytes] = itemgetter(1)

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_NOT_FOR_PROVIDERS = _HOP_BY_HOP | {
    # The connection to the provider has its own.
    b"content-length",
    b"expect",
    b"host",
    # The caller is known to us, not to the provider.
    b"api-key",
    b"authorization",
    b"cookie",
    b"x-api-key",
    b"x-goog-api-key",
    # Where the caller sits is nobody else's business.
    b"forwarded",
    b"via",
    b"x-real-ip",
    # Spoken to us.
    b"x-correlation-id",
    b"x-organization-id",
}
_FORWARDED = b"x-forwarded-"
_SAY_NOTHING = frozenset({b"keep-alive", b"close"})
"""What Connection says mostly: that is no name of a header."""

_NOT_FOR_CLIENTS = _HOP_BY_HOP | {
    # Spoken of the provider's own origin, they would be believed of ours.
    b"alt-svc",
    b"set-cookie",
    b"strict-transport-security",
    # Ours: a provider that is another AIWM sends its own.
    b"x-aiwm-error",
    b"x-correlation-id",
}


Firsts = Mapping[bytes, bytes]
"""The value of the first header of each name."""


def firsts(headers: Sequence[Header]) -> dict[bytes, bytes]:
    return dict(reversed(headers))


def find(headers: Sequence[Header], name: bytes) -> bytes | None:
    """The value of the first header of that name."""
    for key, value in headers:
        if key == name:
            return value
    return None


def request_lines(headers: Sequence[Header], first: Firsts, *, replaced: frozenset[bytes]) -> bytes:
    """The caller's headers as lines for the provider; without those in `replaced`, which the target sets itself."""
    dropped = _without(replaced)
    if b"connection" in first:
        dropped = _dropped(headers, first, dropped)
    lines = [b"%b: %b\r\n" % header for header in headers if header[0] not in dropped]
    block = b"".join(lines)
    if _FORWARDED in block:
        lines = [line for line in lines if not line.startswith(_FORWARDED)]
        block = b"".join(lines)
    if block.count(b"\r") != len(lines) or block.count(b"\n") != len(lines) or 0 in block:
        raise Invalid("A header of the request has a line break or a NUL in it; send it without")
    return block


def answer_headers(headers: Sequence[Header], first: Firsts, *, secrets: Secrets) -> list[Header]:
    """The provider's headers for the client, with the provider's key and other secrets masked wherever quoted."""
    dropped = _NOT_FOR_CLIENTS
    if b"connection" in first:
        dropped = _dropped(headers, first, dropped)
    kept = [header for header in headers if header[0] not in dropped]
    if not secrets or not quotes(b"\n".join(map(_value, kept)), secrets):
        return kept
    return [(name, masked_in(value, secrets)) for name, value in kept]


@lru_cache(maxsize=256)
def _without(replaced: frozenset[bytes]) -> frozenset[bytes]:
    return _NOT_FOR_PROVIDERS | replaced


def _dropped(headers: Sequence[Header], first: Firsts, always: frozenset[bytes]) -> frozenset[bytes]:
    """`always`, and what the sender itself calls hop-by-hop: the names its Connection headers list."""
    if len(first) == len(headers) and first[b"connection"] in _SAY_NOTHING:
        return always  # It is the only one of its name.
    for name, value in headers:
        if name == b"connection":
            always |= {token.strip() for token in value.lower().split(b",")}
    return always
