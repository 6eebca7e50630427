"""What an answer that ended early has probably cost, from the characters that were seen.

The rule is one for every dialect: the provider's last numbers, and for the text that came after them a token for each
four characters; where it gave no numbers, the same for all of the text and for the texts of the request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import msgspec
import orjson
from msgspec.structs import replace

from aiwm.domain.usage import Usage
from aiwm.metering.reading import Reading
from aiwm.providers.base import UsageFields

CHARS_PER_TOKEN = 4

_HELD = 32 << 10
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

    __slots__ = ("_chars", "_held", "_made_of", "_reader", "_size", "_splitter")

    def __init__(self, fields: UsageFields, made_of: Callable[[Sequence[bytes]], Splitter]) -> None:
        self._reader = _reader(fields)
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
        if self._splitter is None:
            self._splitter = self._made_of(_ANY)
        for event in self._splitter.feed(b"".join(self._held)):
            chars = self._reader.chars(event)
            self._chars = 0 if chars < 0 else self._chars + chars
        self._held = []
        self._size = 0


class _Step(msgspec.Struct):
    """Where a key leads: to numbers, to a text, to the keys of an object or of a list's objects."""

    numbers: bool = False
    text: bool = False
    many: bool = False
    steps: dict[str, _Step] = {}

    def lay(self, path: Sequence[str], *, numbers: bool) -> None:
        if not path:
            self.numbers, self.text = numbers, not numbers
        elif path[0] == "*":
            self.many = True
            self.lay(path[1:], numbers=numbers)
        else:
            self.steps.setdefault(path[0], _Step()).lay(path[1:], numbers=numbers)

    @property
    def form(self) -> Any:
        """What an event is decoded into: only the keys that lead anywhere; the others cost next to nothing."""
        if self.numbers or self.text:
            return Any
        keys = [(key, step.form if step.form is Any else step.form | None, None) for key, step in self.steps.items()]
        form = msgspec.defstruct("Event", keys, gc=False)
        return list[form] if self.many else form  # type: ignore[valid-type]


@lru_cache(maxsize=256)
def _reader(fields: UsageFields) -> _Reader:
    return _Reader(fields)


class _Reader:
    """Reads of an event what is on the way to a text or to numbers."""

    def __init__(self, fields: UsageFields) -> None:
        self._top = _Step()
        for path in fields.text:
            self._top.lay(path, numbers=False)
        for path in [*filter(None, fields.roots), *((key,) for key in fields.top)]:
            self._top.lay(path, numbers=True)
        self._decode = msgspec.json.Decoder(self._top.form).decode

    def chars(self, event: bytes) -> int:
        """Of the texts in it; less than 0 if it has numbers."""
        try:
            return _chars(self._decode(event), self._top.steps)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return 0  # No JSON, or not of the form that texts have.


def _chars(said: Any, steps: dict[str, _Step]) -> int:
    chars = 0
    plain = type(said) is dict  # Below a key that leads to a text or further on, nothing is known of the form.
    for key, step in steps.items():
        value = said.get(key) if plain else getattr(said, key)
        if not value:
            continue
        if step.numbers:
            return -1
        if step.text and type(value) is not dict:
            chars += len(value) if type(value) is str else 0
        elif step.text and not step.steps:
            chars += len(orjson.dumps(value))
        elif step.many and not plain:
            chars += sum([_chars(each, step.steps) for each in value])
        elif not step.many and (not plain or type(value) is dict):
            within = _chars(value, step.steps)
            if within < 0:
                return -1
            chars += within
    return chars


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


def _tokens(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)


def _said(made_of: dict[str, int], raw: str | None = None) -> str:
    """The raw usage of an estimate: the provider's own, if any, and how the rest was made."""
    how = orjson.dumps({"estimated": {**made_of, "charsPerToken": CHARS_PER_TOKEN}}).decode()
    return how if raw is None or raw == "{}" else f"{raw[:-1]},{how[1:]}"
