"""Load at a constant rate, whatever the answers do: each request is due at its own moment, and its time counts from
then. A subject that stands still for a second is charged with all that would have been answered meanwhile.

No event loop: those wake up by the millisecond, and what is measured here is tenths of one. `select` sleeps by the
microsecond, and the few connections that a rate needs cost it nothing.
"""

from __future__ import annotations

import contextlib
import gc
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_MOST_CONNECTIONS = 900
"""`select` knows 1,024 files."""
_AT_FIRST = 4
_PATIENCE = 10.0
_HEAD_END = b"\r\n\r\n"


class Overrun(Exception):
    """The subject falls so far behind that nothing can be said."""


@dataclass(slots=True)
class Times:
    """Seconds from when a request was due, in the order of the answers."""

    first: list[float] = field(default_factory=list)
    """To the first byte of the body."""
    whole: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Exchange:
    due: float
    answer: bytes = b""
    has_begun: bool = False
    """The body has."""


def steady(port: int, request: bytes, *, rate: float, seconds: float) -> Times:
    """Asks so many times a second. Raises Overrun."""
    times = Times()
    busy: dict[socket.socket, _Exchange] = {}
    idle = [_connected(port) for _ in range(_AT_FIRST)]
    try:
        with _undisturbed():
            _run(port, request, rate, int(rate * seconds), times, busy, idle)
    finally:
        for connection in (*busy, *idle):
            connection.close()
    return times


def _run(
    port: int,
    request: bytes,
    rate: float,
    number: int,
    times: Times,
    busy: dict[socket.socket, _Exchange],
    idle: list[socket.socket],
) -> None:
    clock = time.perf_counter
    began = clock() + 0.01
    sent = 0
    while sent < number or busy:
        due = began + sent / rate
        now = clock()
        if sent < number and now >= due:
            connection = idle.pop() if idle else _connected(port)
            try:
                connection.sendall(request)
                busy[connection] = _Exchange(due)
            except OSError as error:
                times.lost.append(f"the connection broke: {error}")
                connection.close()
            sent += 1
            if len(busy) > _MOST_CONNECTIONS:
                raise Overrun(f"can't keep up with {rate:,} a second: {_MOST_CONNECTIONS} requests wait")
            continue
        wait = due - now if sent < number else _PATIENCE
        readable, _, _ = select.select(list(busy), (), (), wait)
        now = clock()
        if not readable and sent == number:
            times.lost += [f"no answer within {_PATIENCE:g} s"] * len(busy)
            return
        for connection in readable:
            if _read(connection, busy[connection], times, now):
                del busy[connection]
                idle.append(connection)
            elif connection.fileno() < 0:
                del busy[connection]


def _read(connection: socket.socket, exchange: _Exchange, times: Times, now: float) -> bool:
    """Whether the answer is whole. A connection that breaks, or an answer that is not 200, is closed and lost."""
    try:
        data = connection.recv(1 << 18)
    except OSError as error:
        data, exchange.answer = b"", b"%r" % error
    exchange.answer += data
    head, end, body = exchange.answer.partition(_HEAD_END)
    if not data or (end and not head.startswith(b"HTTP/1.1 200")):
        times.lost.append(f"an answer that is none: {exchange.answer[:200]!r}")
        connection.close()
        return False
    if body and not exchange.has_begun:
        exchange.has_begun = True
        times.first.append(now - exchange.due)
    if not end or not is_whole(head, body):
        return False
    times.whole.append(now - exchange.due)
    return True


def is_whole(head: bytes, body: bytes) -> bool:
    """Whether an answer with that head has all of its body."""
    _, found, length = head.lower().partition(b"\r\ncontent-length:")
    if found:
        return len(body) >= int(length.partition(b"\r\n")[0])
    return body.endswith(b"\r\n0\r\n\r\n") or body == b"0\r\n\r\n"


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Timers to the microsecond (Linux lets them be 50 us late to save wake-ups), and no pause for the collector."""
    slack = Path("/proc/self/timerslack_ns")
    before = slack.read_text()
    slack.write_text("1")
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        slack.write_text(before)
