"""Listeners on the ports: bound before anything else is made, so that a port that is taken leaves no trace."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator, Mapping

from aiwm.errors import StartError

BACKLOG = 2048


@contextlib.contextmanager
def bound(addresses: Mapping[str, tuple[str, int, str]]) -> Iterator[Mapping[str, socket.socket]]:
    """All listeners or none: each (host, port, setting), by name. Closed at the end."""
    with contextlib.ExitStack() as opened:
        yield {name: opened.enter_context(bind(*address)) for name, address in addresses.items()}


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises StartError naming the setting to change."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
    except OSError as error:
        raise StartError(f"{host} is not an address of this machine ({error.strerror}): set AIWM_HOST") from error
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # At once: two programs may both bind an address that neither listens on yet.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StartError(
                f"port {port} on {host} is taken: stop the program that has it, or set {setting}"
            ) from error
        raise StartError(
            f"can't listen on port {port} of {host} ({error.strerror}): set {setting} or AIWM_HOST"
        ) from error
    listener.set_inheritable(False)
    return listener


def another_on(listener: socket.socket) -> socket.socket:
    """One more on the same port, for another process: the kernel spreads connections over those that listen.

    It gets none before it listens. The port stays ours alone: whoever else wants it has to bind it like the first.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    another = socket.socket(listener.family, listener.type)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        another.setsockopt(socket.SOL_SOCKET, option, 1)
    another.bind(listener.getsockname())
    return another
