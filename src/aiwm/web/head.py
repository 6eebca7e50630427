"""What the head of a request says, and heads that were read before.

Callers repeat themselves: program, token and path stay the same from request to request, and only the length of the
body differs. So a head that comes again is found by its bytes, all but the digits of its Content-Length, and not read
again; nor is what was made of it made again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from aiwm.wire.headers import Header, firsts

_MOST = 16_384
_MOST_BYTES = 16 * 1024 * 1024
"""Of all heads that are remembered: strangers can send as many as they like."""
_LONGEST = 8 * 1024
_END = b"\r\n\r\n"
_NAME = b"ength: "  # However Content-Length is spelled otherwise: in most programs with capitals, in others without.
_BEFORE = b"\r\ncontent-l"
_DIGITS = 10


class Head:
    """Names of headers are in lower case; order and duplicates are the caller's. It never changes, but for `plan`."""

    __slots__ = ("_length_at", "first", "method", "others", "path", "plan", "query")

    def __init__(self, method: bytes, path: bytes, query: bytes, headers: list[Header]) -> None:
        self.method = method
        self.path = path
        """As the caller spelled it, up to the question mark."""
        self.query = query
        self.others = [header for header in headers if header[0] != b"content-length"]
        """All headers but Content-Length: a head that comes again may have another."""
        self.first = firsts(self.others)
        """The value of the first of them of each name."""
        self.plan: Any = None
        """What the application has made of it, for when it comes again."""
        self._length_at = next((at for at, (name, _) in enumerate(headers) if name == b"content-length"), -1)

    def headers(self, length: int | None) -> list[Header]:
        """All of them, with the Content-Length of this time."""
        headers = list(self.others)
        if length is not None:
            headers.insert(self._length_at, (b"content-length", b"%d" % length))
        return headers

    def count(self, name: bytes) -> int:
        """How many of the other headers have that name."""
        return sum(each == name for each, _ in self.others)


class Known(NamedTuple):
    """A head that is remembered."""

    before: bytes
    """Its bytes up to the digits of its Content-Length."""
    after: bytes
    """Those behind them."""
    head: Head


class Heads:
    """Those remembered: the ones that came twice, lest what never comes again drives them out."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], Head] = {}
        self._bytes = 0
        self._once: dict[int, None] = {}

    def find(self, data: bytes, last: Known | None = None) -> tuple[Known, int, int] | None:
        """A known head that `data` begins with, its Content-Length, and where the body begins.

        `last` is the one that it most likely is: to see that costs less than to look for it.
        """
        if last is not None and data.startswith(last.before):
            cut = len(last.before)
            stop = data.find(b"\r", cut)
            if data.startswith(last.after, stop):
                return _measured(last, data[cut:stop], stop)
        cut = data.find(_NAME) + len(_NAME)
        stop = data.find(b"\r", cut)
        before, after = data[:cut], data[stop : data.find(_END, stop) + len(_END)]
        # Before the digits there may be an end of a head that has no length; but no such head is remembered.
        head = self._known.get((before, after))
        return None if head is None else _measured(Known(before, after, head), data[cut:stop], stop)

    def learn(self, data: bytes, head: Head) -> None:
        """`data` ends in a head with one Content-Length, which was read and says `head`."""
        cut = data.find(_NAME) + len(_NAME)
        stop = data.find(b"\r", cut)
        plain = data[cut - len(_NAME) - len(_BEFORE) : cut - len(_NAME)].lower() == _BEFORE
        # With anything else before it, or another request's bytes behind it, there would be another end of a head.
        if not plain or data.find(_END) != len(data) - len(_END) or len(data) > _LONGEST:
            return
        key = data[:cut], data[stop:]
        if (once := hash(key)) not in self._once:
            if len(self._once) >= _MOST:
                del self._once[next(iter(self._once))]
            self._once[once] = None
        elif key not in self._known:
            while len(self._known) >= _MOST or self._bytes + len(data) > _MOST_BYTES:
                before, after = next(iter(self._known))
                del self._known[before, after]
                self._bytes -= len(before) + len(after)
            self._known[key] = head
            self._bytes += len(data) - (stop - cut)


def _measured(known: Known, digits: bytes, stop: int) -> tuple[Known, int, int] | None:
    """`stop` is where the digits end."""
    if len(digits) > _DIGITS or not digits.isdigit():
        return None
    return known, int(digits), stop + len(known.after)
