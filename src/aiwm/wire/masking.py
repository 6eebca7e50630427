"""A provider's key never reaches the client, even where the provider quotes it; nor do other secrets sent beside it.

A secret stands in an answer as it is, or inside a JSON string with some of its characters escaped. Which characters
depends on who wrote the JSON, so each habit of the usual JSON writers is one spelling of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache

Secrets = tuple[bytes, ...]
"""All that is to be masked, as it travels; none of them empty."""

_KEPT = 4
_KEPT_FROM = 16
_SHOWN_FROM = 12


class KeyMask:
    """Masks secrets in a byte stream, however the stream is cut.

    Each occurrence is replaced by a mask of the same length. Only bytes that may be the beginning of a secret
    are held back, until the next bytes decide.
    """

    __slots__ = ("_held", "_masks", "_pattern")

    def __init__(self, secrets: Secrets) -> None:
        self._masks = _masks(secrets)
        self._pattern = re.compile(b"|".join(map(re.escape, self._masks)))
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What may go out now."""
        if not self._masks:
            return chunk
        data = self._held + chunk
        masked: list[bytes] = []
        sent = 0
        while True:
            undecided = self._undecided(data, sent)
            # A match that begins later might overlap the occurrence that is still undecided.
            match = self._pattern.search(data, sent)
            if match is None or match.start() >= undecided:
                break
            masked += (data[sent : match.start()], self._masks[match[0]])
            sent = match.end()
        self._held = data[undecided:]
        return b"".join((*masked, data[sent:undecided]))

    def finish(self) -> bytes:
        """What was held back. A secret that is not complete is none."""
        held, self._held = self._held, b""
        return self._pattern.sub(lambda match: self._masks[match[0]], held) if held else held

    def _undecided(self, data: bytes, start: int) -> int:
        """Where the first occurrence begins that only more bytes can complete; the end if there is none."""
        first = len(data)
        for spelling in self._masks:
            at = data.find(spelling[:1], max(start, len(data) - len(spelling) + 1))
            while 0 <= at < first:
                if spelling.startswith(data[at:]):
                    first = at
                    break
                at = data.find(spelling[:1], at + 1)
        return first


def quotes(text: bytes, secrets: Secrets) -> bool:
    """Whether one of the secrets stands in `text`, in any spelling."""
    return any([spelling in text for spelling in _masks(secrets)])  # noqa: C419 - a list is half the price here


def masked_in(value: bytes, secrets: Secrets) -> bytes:
    """`value`, which is complete, without the secrets."""
    for spelling, mask in _masks(secrets).items():
        value = value.replace(spelling, mask)
    return value


def masked(text: str) -> str:
    """A secret as people are shown it: `sk-p…9xQ2`. A short one shows nothing of itself, not even its length."""
    return f"{text[:_KEPT]}…{text[-_KEPT:]}" if len(text) >= _SHOWN_FROM else "…"


# --- spellings -------------------------------------------------------------------------------------------------


def _json(char: str) -> str:
    return json.dumps(char)[1:-1]


def _unicode_escaped(chars: str, form: str) -> Callable[[str], str]:
    return lambda char: form.format(ord(char)) if char in chars else _json(char)


_WRITERS: Sequence[Callable[[str], str]] = (
    str,
    _json,
    lambda char: char if ord(char) > 0x7F else _json(char),  # JSON.stringify, ensure_ascii=False
    lambda char: "\\/" if char == "/" else _json(char),  # PHP
    _unicode_escaped("<>&", "\\u{:04x}"),  # Go
    _unicode_escaped("<>&='", "\\u{:04x}"),  # Gson
    _unicode_escaped("\"&'+<>`", "\\u{:04X}"),  # .NET
)


_PLAIN = frozenset(char for char in map(chr, range(0x80)) if all(write(char) == char for write in _WRITERS))
"""What every writer leaves as it is: most keys are made of nothing else."""


@lru_cache(maxsize=16_384)
def _masks(secrets: Secrets) -> dict[bytes, bytes]:
    """The mask for each way to spell a secret, the longest first: one may be the beginning of another."""
    spelled = {spelling: mask for secret in secrets for spelling, mask in _spelled(secret).items()}
    return dict(sorted(spelled.items(), key=lambda each: -len(each[0])))


def _spelled(secret: bytes) -> dict[bytes, bytes]:
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return {secret: _mask([secret[at : at + 1] for at in range(len(secret))])}
    if _PLAIN.issuperset(text):
        return {secret: _mask([char.encode() for char in text])}
    spelled = ([write(char).encode() for char in text] for write in _WRITERS)
    return {b"".join(chars): _mask(chars) for chars in spelled}


def _mask(chars: Sequence[bytes]) -> bytes:
    """Stars, and of a long secret both ends; an escape is kept or starred whole, so that JSON stays JSON."""
    length = sum(map(len, chars))
    if length < _KEPT_FROM:
        return b"*" * length
    head, tail = _fitting(chars), b"".join(reversed(_fitting(chars[::-1])))
    return b"".join(head) + b"*" * (length - sum(map(len, head)) - len(tail)) + tail


def _fitting(chars: Sequence[bytes]) -> list[bytes]:
    """As many whole characters as fit into the bytes that are kept."""
    kept: list[bytes] = []
    room = _KEPT
    for char in chars:
        room -= len(char)
        if room < 0:
            break
        kept.append(char)
    return kept
