"""The bench's load at a constant rate, against a server that is slow on purpose."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.figures import percentile
from bench.steady import steady

_REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@contextmanager
def _answering(status: bytes, waits: Sequence[float] = ()) -> Iterator[int]:
    """Its port. It answers one request after another, whoever asks, the first ones after those waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, status, list(waits)))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, status: bytes, waits: list[float]) -> None:
    connections: list[socket.socket] = []
    while True:
        ready, _, _ = select.select([listener, *connections], (), ())
        for each in ready:
            if each is listener:
                try:
                    connections.append(listener.accept()[0])
                except OSError:
                    for connection in connections:
                        connection.close()
                    return
            elif each.recv(1 << 16):
                time.sleep(waits.pop(0) if waits else 0)
                each.sendall(b"HTTP/1.1 %b\r\ncontent-length: 2\r\n\r\nhi" % status)
            else:
                connections.remove(each)
                each.close()


def test_who_stands_still_is_charged_with_all_that_was_due_meanwhile() -> None:
    with _answering(b"200 OK", [0.3]) as port:
        times = steady(port, _REQUEST, rate=100, seconds=0.6)
    assert times.lost == []
    assert len(times.whole) == len(times.first) == 60
    # Thirty were due while the first was waited for: their wait is on average half of it.
    assert sum(seconds > 0.1 for seconds in times.whole) >= 20
    assert percentile(times.whole, 100) >= 0.3


def test_an_answer_that_is_no_success_is_lost() -> None:
    with _answering(b"503 No") as port:
        times = steady(port, _REQUEST, rate=100, seconds=0.05)
    assert len(times.lost) == 5
    assert "503" in times.lost[0]
    assert times.whole == []
