"""Watches a JSON answer that is one document, however large, and finds what stands near its end. It never writes.

The document is an object, or the array of objects that Gemini streams. It may be cut short at any byte, and what is
left must still give the last value that arrived whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache

# How many values that began and did not end are worth trying; they can only be nested in one another.
_UNFINISHED = 32


class JsonWatcher:
    """Remembers the body up to `limit` bytes; of a longer one its last `window` bytes and the values found before.

    `contains` are the keys whose values may be asked for, with their quotes.
    """

    __slots__ = ("_body", "_found", "_keys", "_limit", "_only", "_whole", "_window")

    def __init__(self, contains: Sequence[bytes], limit: int = 1 << 20, window: int = 64 << 10) -> None:
        self._keys = contains
        self._limit = limit
        self._window = window
        self._only: bytes | None = None
        """The body as long as it is in one piece, which is not copied."""
        self._body = bytearray()
        self._whole = True
        self._found: dict[bytes, bytes] = {}

    def feed(self, chunk: bytes) -> None:
        if not self._body and self._only is None and len(chunk) <= self._limit:
            self._only = chunk
            return
        self._gather()
        self._body += chunk
        if len(self._body) > self._limit + (0 if self._whole else self._window):
            self._shrink()

    def document(self) -> bytes | None:
        """The whole body; None if it is longer than `limit`."""
        if self._only is not None:
            return self._only
        return bytes(self._body) if self._whole else None

    def last(self, key: bytes) -> bytes | None:
        """The last object that is the value of `key`, at any depth, and arrived whole."""
        self._gather()
        return _last_object(key, self._body) or self._found.get(key)

    def _gather(self) -> None:
        if self._only is not None:
            self._body += self._only
            self._only = None

    def _shrink(self) -> None:
        """Keeps of the body only what the next bytes may complete."""
        for key in self._keys:
            if (value := _last_object(key, self._body)) is not None:
                self._found[key] = value
        self._whole = False
        del self._body[: -self._window]


@cache
def _object_of(key: bytes) -> re.Pattern[str]:
    # A quote after `{`, `,` or a space is not escaped, so what it opens is a key and not a part of a text. It is
    # looked at last because a pattern that begins with plain text is searched for much faster.
    name = re.escape(key.decode("latin-1"))
    return re.compile(rf"{name}(?<=[{{,\s]{name})\s*:\s*(?=\{{)")


_read = json.JSONDecoder(strict=False).raw_decode


def _last_object(key: bytes, body: bytearray) -> bytes | None:
    if key not in body:
        return None
    pattern = _object_of(key)
    # As Latin-1 a character is a byte, also where the body was cut in the middle of one.
    text = body.decode("latin-1")
    starts = [match.end() for match in pattern.finditer(text)]
    for start in reversed(starts[-_UNFINISHED:]):
        try:
            _, end = _read(text, start)
        except (ValueError, RecursionError):
            continue
        return bytes(body[start:end])
    return None
