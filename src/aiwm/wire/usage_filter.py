"""Takes out of a stream of server-sent events what is in it only because we asked for its usage.

A provider that speaks OpenAI's API and is asked sends one event more, without choices and with the usage, and puts
`"usage":null` on all others. A caller who did not ask must see neither; every other byte stays as it was.
"""

from __future__ import annotations

import re
from itertools import pairwise

import msgspec

from aiwm.wire.sse import data_of

_LINE_ENDS = b"\r\n"
# As in `wire.sse`: the line feed of a CRLF may come later, and says nothing then.
_BLANK_LINE = re.compile(rb"\n\n|[\n\r]\r\n?")
_BLANK_LINES = (b"\n\n", b"\n\r", b"\r\r")

_DATA = b"data: "
_OBJECT = b"data: {"
_LINE_FEED = 0x0A
_USAGE = b'"usage"'
_NULL = re.compile(rb'"usage"[ \t]*:[ \t]*null')
_PLAIN_NULL = b',"usage":null'
# What follows it if it is a member of the event itself: members that nest nothing, and the last brace.
_PLAIN_REST = re.compile(rb'(?:,"[a-z_]+":(?:"[^"\\]*"|null))*\}\n\n')
_SPACES = b" \t"


class UsageFilter:
    """An event passes as soon as its end is here; no more than `max_event` bytes of one are ever held back.

    A longer event passes as it is. What is held when a stream breaks off is not an event, and goes nowhere.
    """

    __slots__ = ("_held", "_last", "_max", "_swallowing", "_withheld")

    def __init__(self, max_event: int = 1 << 20) -> None:
        self._max = max_event
        self._held = bytearray()
        self._last: bytes | None = None  # Of an event that is too long and passes: the last byte of it.
        self._swallowing = False  # The line feed that may still belong to the event that was taken out.
        self._withheld = b""

    def feed(self, chunk: bytes) -> bytes:
        """What may go out now."""
        if not chunk:
            return b""
        if self._swallowing:
            self._swallowing = False
            chunk = chunk.removeprefix(b"\n")
        if self._last is not None:
            return self._pass(self._last, chunk)
        if not self._held and chunk.endswith(b"\n\n") and b"\r" not in chunk and len(chunk) <= self._max:
            plain = _without_plain_nulls(chunk)
            if plain is not None:
                return plain
        return self._take(chunk)

    def finish(self) -> bytes:
        """The rest of a stream that came to its end."""
        rest = bytes(self._held)
        self._held.clear()
        return self._filtered(rest)

    def withheld(self) -> bytes:
        """The events that were taken out since it was last asked, for whoever wants their numbers.

        Each has a blank line before it: it stays an event of its own, whatever it is read behind.
        """
        withheld, self._withheld = self._withheld, b""
        return withheld

    def _take(self, chunk: bytes) -> bytes:
        held = self._held
        seen = max(len(held) - 1, 0)
        held += chunk
        # Backwards: the last blank line ends all the events that are complete.
        blank = max([held.rfind(line, seen) for line in _BLANK_LINES])
        end = 0 if blank < 0 else blank + 2
        if end and held[end - 1 : end + 1] == _LINE_ENDS:
            end += 1
        complete = bytes(held[:end])
        del held[:end]
        out = [self._filtered(event) for event in _events(complete)]
        if held:
            self._swallowing = False
            start = len(held) - len(held.lstrip(_LINE_ENDS))  # Line ends before an event belong to none.
            out.append(bytes(held[:start]))
            del held[:start]
        if len(held) > self._max:
            self._last = bytes(held[-1:])
            out.append(bytes(held))
            held.clear()
        return b"".join(out)

    def _pass(self, last: bytes, chunk: bytes) -> bytes:
        """More of an event that is too long."""
        end = _BLANK_LINE.search(last + chunk)
        if end is None:
            self._last = chunk[-1:]
            return chunk
        self._last = None
        at = end.end() - len(last)
        return chunk[:at] + self.feed(chunk[at:])

    def _filtered(self, event: bytes) -> bytes:
        """An event without what the caller did not ask for."""
        self._swallowing = False
        if event.find(_USAGE) < 0:
            return event
        lines = event.lstrip(_LINE_ENDS)
        # The line feed of a last CRLF may come after the event was judged: it never counts.
        said = None if len(lines) - lines.endswith(_LINE_ENDS) > self._max else _said(lines)
        if said is None or isinstance(said.usage, msgspec.UnsetType):
            return event
        usage = bytes(said.usage)
        if usage == b"null":
            return event[: len(event) - len(lines)] + _without_null(lines)
        if usage[:1] == b"{" and _is_empty(said.choices):
            self._withheld += b"\n\n" + lines
            self._swallowing = event.endswith(b"\r")
            return event[: len(event) - len(lines)]
        return event


def _events(complete: bytes) -> list[bytes]:
    """Each with the blank line that ends it; the last may be no more than a line end."""
    if b"\r" not in complete:
        *events, rest = complete.split(b"\n\n")
        found = [*[event + b"\n\n" for event in events], rest]
    else:
        ends = [0, *[match.end() for match in _BLANK_LINE.finditer(complete)], len(complete)]
        found = [complete[start:end] for start, end in pairwise(ends)]
    if not found[-1]:
        del found[-1]
    return found


def _without_plain_nulls(events: bytes) -> bytes | None:
    """Whole events, if there is nothing to take out of them but nulls where nearly all providers have them."""
    pieces: list[bytes] = []
    at = 0
    while (found := events.find(_PLAIN_NULL, at)) >= 0:
        end = found + len(_PLAIN_NULL)
        line = events.rfind(b"\n", 0, found) + 1
        if not events.startswith(_OBJECT, line) or _PLAIN_REST.match(events, end) is None:
            return None
        if line > 1 and events[line - 2] != _LINE_FEED:  # Its data began on the line before.
            return None
        pieces.append(events[at:found])
        at = end
    pieces.append(events[at:])
    plain = b"".join(pieces)
    return plain if plain.find(_USAGE) < 0 else None


def _without_null(event: bytes) -> bytes:
    for member in _NULL.finditer(event):
        before, after = event[: member.start()].rstrip(_SPACES), event[member.end() :]
        if before.endswith(b","):
            without = before[:-1] + after
        elif (rest := after.lstrip(_SPACES)).startswith(b","):
            without = event[: member.start()] + rest[1:].lstrip(_SPACES)
        else:
            continue
        # The same text may stand deeper in the event, where it is not ours to take.
        said = _said(without)
        if said is not None and isinstance(said.usage, msgspec.UnsetType):
            return without
    return event


class _Chunk(msgspec.Struct, gc=False):
    choices: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    usage: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Chunk).decode


def _said(event: bytes) -> _Chunk | None:
    try:
        if event.startswith(_DATA):
            return _decode(event[len(_DATA) :])  # Nearly always that line is all, and line ends are space in JSON.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return _decode(data_of(event.rstrip(_LINE_ENDS)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _is_empty(choices: msgspec.Raw | msgspec.UnsetType) -> bool:
    if isinstance(choices, msgspec.UnsetType):
        return False
    text = bytes(choices)
    return text[:1] == b"[" and not text[1:-1].strip()
