"""Watches a stream of server-sent events and picks the few that matter. It never writes.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_BOM = b"\xef\xbb\xbf"
_LINE_ENDS = b"\r\n"
_DATA = b"data: "

# A line feed or a lone carriage return ends a line, and the next character ends an empty one. Where that is the
# carriage return of a CRLF, its line feed may come later: at the beginning of an event it says nothing.
_BLANK_LINE = re.compile(rb"\n\n|[\n\r]\r\n?")
_BLANK_LINES = (b"\n\n", b"\n\r", b"\r\r")
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n")

# What may follow the text of an event before we know that it has ended.
_SLACK = len(b"\r\n")


class EventSplitter:
    """Yields the data of each event in which one of the markers (`contains`; none stands in `data: `) occurs.

    Remembers no more than `max_event` bytes of an event; `oversize` counts the events that were longer.
    """

    __slots__ = ("_contains", "_dropping", "_idle", "_max", "_pending", "_start", "oversize")

    def __init__(self, contains: Sequence[bytes], max_event: int = 1 << 20) -> None:
        self._contains = tuple(contains)
        self._max = max_event
        self._start: bytes | None = b""  # As long as it may be the beginning of a byte order mark.
        self._idle = False  # At the beginning of an event.
        self._pending = bytearray()
        self._dropping = False
        self.oversize = 0

    def feed(self, chunk: bytes) -> Sequence[bytes]:
        """The data of the events that `chunk` completes."""
        if self._idle and chunk.endswith(_EVENT_ENDS) and len(chunk) <= self._max:
            # Most chunks are whole events of no interest: they cost a search and nothing else. Backwards, CPython
            # searches a short text in half the time.
            for marker in self._contains:
                if chunk.rfind(marker) >= 0:
                    if chunk.startswith(_DATA) and chunk.find(b"\n") == len(chunk) - 2 and b"\r" not in chunk:
                        return (chunk[len(_DATA) : -2],)  # One event of one line.
                    return self._picked(chunk)
            return ()
        if self._start is not None:
            chunk = self._without_bom(chunk)
        last = self._pending[-1:]
        blank = _last_blank_line(last + chunk)
        if blank < 0:
            self._remember(chunk)
            return ()
        end = blank + len(b"\n\n") - len(last)
        return self._matching(self._taken(chunk[:end], chunk[end:]))

    def finish(self) -> Sequence[bytes]:
        """The data of an event that no blank line ended."""
        dropping = self._dropping
        text = self._taken(b"", b"")
        return () if dropping else self._matching(text)

    def _without_bom(self, chunk: bytes) -> bytes:
        start = (self._start or b"") + chunk
        if len(start) < len(_BOM) and _BOM.startswith(start):
            self._start = start
            return b""
        self._start = None
        self._idle = True
        return start.removeprefix(_BOM)

    def _remember(self, chunk: bytes) -> None:
        if self._idle:
            chunk = chunk.lstrip(_LINE_ENDS)
        if not chunk:
            return
        self._idle = False
        self._pending += chunk
        if len(self._pending) > self._max + _SLACK:
            self.oversize += not self._dropping
            self._dropping = True
        if self._dropping:
            del self._pending[:-1]

    def _taken(self, end: bytes, rest: bytes) -> bytes:
        """All that is remembered up to `end`; then remembers `rest`."""
        complete = bytes(self._pending) + end
        if self._dropping:
            complete = _BLANK_LINE.split(complete, maxsplit=1)[-1]
        self._pending.clear()
        self._dropping = False
        self._idle = True
        self._remember(rest)
        return complete

    def _matching(self, complete: bytes) -> Sequence[bytes]:
        return self._picked(complete) if len(complete) > self._max or self._matches(complete) else ()

    def _picked(self, complete: bytes) -> Sequence[bytes]:
        found: list[bytes] = []
        for event in _BLANK_LINE.split(complete) if b"\r" in complete else complete.split(b"\n\n"):
            if len(event) > self._max and len(event.strip(_LINE_ENDS)) > self._max:
                self.oversize += 1
            elif self._matches(event):
                if event.startswith(_DATA) and b"\n" not in event and b"\r" not in event:
                    found.append(event[len(_DATA) :])
                elif self._matches(data := data_of(event)):
                    found.append(data)
        return found

    def _matches(self, text: bytes) -> bool:
        for marker in self._contains:  # noqa: SIM110 - a generator costs more than the search
            if text.rfind(marker) >= 0:
                return True
        return False


def _last_blank_line(text: bytearray) -> int:
    return max(text.rfind(end) for end in _BLANK_LINES)


def data_of(event: bytes) -> bytes:
    """What the event's data lines say, without the one space that may follow the colon."""
    if event.startswith(_DATA) and b"\n" not in event and b"\r" not in event:
        return event[len(_DATA) :]
    # For bytes, `splitlines` knows no other line ends than these three: CRLF, LF and CR.
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:") or line == b"data"]
    return b"\n".join([line[1:] if line.startswith(b" ") else line for line in lines])
