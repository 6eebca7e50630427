"""What an answer that ended early has probably cost, from the characters that were seen.

The rule is one for every dialect: the provider's last numbers, and for the text that came after them a token for each
four characters; where it gave no numbers, the same for all of the text and for the texts of the request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import orjson
from msgspec.structs import replace

from aiwm.domain.usage import Usage
from aiwm.metering.reading import Reading
from aiwm.providers.base import TextSteps, UsageFields

CHARS_PER_TOKEN = 4

_HELD = 16 << 10
"""Bytes of a stream that are held unread. Nearly every answer comes to its end, and then they need not be read."""

_LARGEST_REQUEST = 4 << 20
"""Bytes of a request's body that are worth the time to read them; a larger one is mostly no text."""

_ANY = [b'"']
_MEDIA_KEYS = frozenset({"data", "file_data", "image_data", "b64_json"})
_MEDIA_URL = "data:"


class Splitter(Protocol):
    def feed(self, chunk: bytes) -> Sequence[bytes]: ...

    def finish(self) -> Sequence[bytes]: ...


class Estimate:
    """Sees the pieces of one stream. `made_of` makes what splits it into events."""

    __slots__ = ("_chars", "_fields", "_held", "_made_of", "_size", "_splitter")

    def __init__(self, fields: UsageFields, made_of: Callable[[Sequence[bytes]], Splitter]) -> None:
        self._fields = fields
        self._made_of = made_of
        self._held: list[bytes] = []
        self._size = 0
        self._chars = 0
        self._splitter: Splitter | None = None

    def feed(self, chunk: bytes) -> None:
        self._held.append(chunk)
        self._size += len(chunk)
        if self._size > _HELD:
            self._read()

    def feed_numbers(self, chunk: bytes) -> None:
        """A piece in which the provider's numbers stand: they include all that came before them."""
        self._held = [chunk]
        self._size = len(chunk)
        self._chars = 0
        self._splitter = None

    def chars(self) -> int:
        """Of the text that came after the provider's last numbers."""
        self._read()
        return self._chars

    def _read(self) -> None:
        fields = self._fields
        if self._splitter is None:
            self._splitter = self._made_of(_ANY)
        for event in self._splitter.feed(b"".join(self._held)):
            try:
                said = orjson.loads(event)
            except orjson.JSONDecodeError:
                continue
            if isinstance(said, dict):
                self._chars = 0 if _has_numbers(said, fields) else self._chars + _text_chars(said, fields.text_steps)
        self._held = []
        self._size = 0


def estimated(reading: Reading, output_chars: int, body: bytes) -> tuple[Usage, str] | None:
    """The numbers and how they were made; None if the provider's are all there is to say."""
    if not reading.found:
        input_chars = request_chars(body)
        usage = Usage(input_tokens=_tokens(input_chars), output_tokens=_tokens(output_chars))
        return usage, _said({"outputChars": output_chars, "inputChars": input_chars})
    if not output_chars:
        return None
    usage = reading.usage
    more = replace(usage, output_tokens=usage.output_tokens + _tokens(output_chars))
    return more, _said({"outputChars": output_chars}, reading.raw)


def request_chars(body: bytes) -> int:
    """Of all texts in a request's JSON body; images, sound and files in it are no text."""
    try:
        return 0 if len(body) > _LARGEST_REQUEST else _string_chars(orjson.loads(body))
    except (orjson.JSONDecodeError, RecursionError):
        return 0


def _string_chars(value: Any) -> int:
    if isinstance(value, str):
        return 0 if value.startswith(_MEDIA_URL) else len(value)
    if isinstance(value, dict):
        return sum([_string_chars(each) for key, each in value.items() if key not in _MEDIA_KEYS])
    return sum(map(_string_chars, value)) if isinstance(value, list) else 0


def _has_numbers(said: dict[str, Any], fields: UsageFields) -> bool:
    for root in fields.roots:
        value: Any = said
        for name in root:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, dict) and (root or not value.keys().isdisjoint(fields.top)):
            return True
    return False


def _text_chars(value: Any, steps: TextSteps) -> int:
    chars = 0
    for name, inner in steps.items():
        if name == "*":
            if isinstance(value, list) and inner is not None:
                chars += sum([_text_chars(each, inner) for each in value])
        elif isinstance(value, dict) and (found := value.get(name)):
            if inner is not None:
                chars += _text_chars(found, inner)
            elif isinstance(found, str):
                chars += len(found)
            elif isinstance(found, dict):
                chars += len(orjson.dumps(found))
    return chars


def _tokens(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)


def _said(made_of: dict[str, int], raw: str | None = None) -> str:
    """The raw usage of an estimate: the provider's own, if any, and how the rest was made."""
    how = orjson.dumps({"estimated": {**made_of, "charsPerToken": CHARS_PER_TOKEN}}).decode()
    return how if raw is None or raw == "{}" else f"{raw[:-1]},{how[1:]}"
