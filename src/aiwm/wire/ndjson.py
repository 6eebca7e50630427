"""Watches a stream of JSON documents, one to a line, and picks the few that matter. It never writes.

https://github.com/ndjson/ndjson-spec
"""

from __future__ import annotations

from collections.abc import Sequence

_BOM = b"\xef\xbb\xbf"


class LineSplitter:
    """Yields each line in which one of the markers (`contains`, without line feeds) occurs.

    Remembers no more than `max_line` bytes of a line; `oversize` counts the lines that were longer.
    """

    __slots__ = ("_contains", "_dropping", "_max", "_pending", "oversize")

    def __init__(self, contains: Sequence[bytes], max_line: int = 1 << 20) -> None:
        self._contains = tuple(contains)
        self._max = max_line
        self._pending = bytearray()
        self._dropping = False
        self.oversize = 0

    def feed(self, chunk: bytes) -> Sequence[bytes]:
        """The lines that `chunk` completes."""
        if not self._pending and not self._dropping and chunk.endswith(b"\n") and len(chunk) <= self._max:
            return self._matching(chunk)
        end = chunk.rfind(b"\n") + 1
        if not end:
            self._remember(chunk)
            return ()
        complete = bytes(self._pending) + chunk[:end]
        if self._dropping:
            complete = complete[complete.index(b"\n") :]
        self._forget()
        self._remember(chunk[end:])
        return self._matching(complete)

    def finish(self) -> Sequence[bytes]:
        """The line that no line feed ended."""
        rest = bytes(self._pending)
        self._forget()
        return self._matching(rest)

    def _remember(self, chunk: bytes) -> None:
        if self._dropping:
            return
        self._pending += chunk
        # The carriage return before the line feed does not count.
        if len(self._pending) > self._max + 1:
            self._forget()
            self._dropping = True
            self.oversize += 1

    def _forget(self) -> None:
        self._pending.clear()
        self._dropping = False

    def _matching(self, complete: bytes) -> Sequence[bytes]:
        if len(complete) <= self._max and not self._matches(complete):
            return ()
        found: list[bytes] = []
        for line in complete.split(b"\n"):
            line = line.removesuffix(b"\r")
            if len(line) > self._max:
                self.oversize += 1
            elif self._matches(line):
                found.append(line.removeprefix(_BOM))
        return found

    def _matches(self, text: bytes) -> bool:
        for marker in self._contains:  # noqa: SIM110 - a generator costs more than the search
            if marker in text:
                return True
        return False
