"""Where an upstream request goes, and how long each part of it may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Origin(NamedTuple):
    """What connections are kept for. `host` is a name or a bare address, without brackets."""

    scheme: str
    """http or https."""
    host: str
    port: int
    ours: bool = False
    """An engine that AIWM itself has started: no caller wrote this address, so no policy judges it."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `connect` covers name look-up, TCP and TLS together."""

    connect: float
    first_byte: float
    """From the last byte of the request having been handed over to the head of the answer."""
    idle: float
    """Between two pieces of the body."""
