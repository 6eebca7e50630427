"""Which of the caller's headers says who is calling."""

from __future__ import annotations

from collections.abc import Iterable

_BEARER = b"bearer "


def caller_token(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The caller's JWT or API key: `Authorization: Bearer`, else the header in which an official SDK sends its key.

    A header that is there twice says nothing: two readers could disagree on which of them counts.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _CREDENTIALS:
            found[name] = b"" if name in found else value
    if not found:
        return None
    authorization = found.get(b"authorization", b"")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip() or None
    token = found.get(b"x-api-key") or found.get(b"x-goog-api-key") or found.get(b"api-key") or b""
    return token.strip() or None


_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"})
