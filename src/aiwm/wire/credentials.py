"""Which of the caller's headers says who is calling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_BEARER = b"bearer "


def caller_token(headers: Sequence[tuple[bytes, bytes]], first: Mapping[bytes, bytes]) -> bytes | None:
    """The caller's JWT or API key: `Authorization: Bearer`, else the header in which an official SDK sends its key.

    `first` has the first header of each name. A header that is there twice says nothing: two readers could disagree on
    which of them counts.
    """
    found = first
    if len(first) != len(headers):
        twice = {name for name in _CREDENTIALS if sum(each == name for each, _ in headers) > 1}
        found = {name: b"" if name in twice else value for name, value in first.items()}
    authorization = found.get(b"authorization", b"")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip() or None
    token = found.get(b"x-api-key") or found.get(b"x-goog-api-key") or found.get(b"api-key") or b""
    return token.strip() or None


_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"})
