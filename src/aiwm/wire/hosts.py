"""Under which names callers may know this program.

A page of a stranger's can make a browser on this machine call it under a name of the stranger's own, whose address was
changed to this machine's a moment ago; the browser takes the answers for the page's. An address, and `localhost`, is
nobody's to change.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache

from aiwm.errors import Misdirected

ANY = "*"
_LONGEST = 300
_HOST = re.compile(rb"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._~-]+))(?::[0-9]*)?")


class Hosts:
    """`names` are in lower case."""

    def __init__(self, names: Collection[str]) -> None:
        self._any = ANY in names
        self._names = frozenset(names)
        self._known = lru_cache(maxsize=256)(self._look)

    def require(self, host: bytes) -> None:
        """Raises Misdirected. `host` is the header's value, its port included."""
        if not self._any and (len(host) > _LONGEST or not self._known(host)):
            shown = host.decode("latin-1")[:_LONGEST]
            raise Misdirected(
                f'AIWM is not known as "{shown}" here: call it by its address, or by a name that its operator has put '
                "into AIWM_ALLOWED_HOSTS"
            )

    def _look(self, host: bytes) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        if match["v6"] is not None:
            return _is_address(match["v6"].decode())
        name = match["name"].decode().lower().removesuffix(".")
        return name in self._names or name == "localhost" or name.endswith(".localhost") or _is_address(name)


def is_host_name(text: str) -> bool:
    """Whether it could stand in a Host header, without a port."""
    match = _HOST.fullmatch(text.encode())
    return match is not None and match["name"] == text.encode()


def is_loopback(host: str) -> bool:
    """Whether what listens there is reached from this machine only."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
