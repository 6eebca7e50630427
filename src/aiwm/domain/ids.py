"""Identifiers: 24 hexadecimal digits, made in one place."""

from __future__ import annotations

import itertools
import os
import re
import secrets
import time

from aiwm.errors import Invalid

_ID = re.compile(r"[0-9a-f]{24}")


def new_id() -> str:
    """Eight digits of seconds, then sixteen random ones: sorts by age, cannot be guessed."""
    return f"{int(time.time()) & 0xFFFFFFFF:08x}{secrets.token_hex(8)}"


def _begin() -> None:
    global _process, _count
    _process = secrets.token_hex(4)
    _count = itertools.count(secrets.randbelow(1 << 31))


_process: str
_count: itertools.count[int]
_begin()
# A fork is another process: with the same numbers, its requests would be taken for those of the first.
os.register_at_fork(after_in_child=_begin)


def new_request_id() -> str:
    """The same form for what is made thousands of times a second and need not be hard to guess.

    Seconds, this process, a running number: it sorts by age, which keeps the ledger's index in order.
    """
    return "%08x%s%08x" % (int(time.time()) & 0xFFFFFFFF, _process, next(_count) & 0xFFFFFFFF)  # noqa: UP031 - half the price


def checked_id(text: str, noun: str) -> str:
    """`text`, in lower case, if it has the form of an id; raises Invalid otherwise."""
    lowered = text.lower()
    if not _ID.fullmatch(lowered):
        raise Invalid(f"{noun} ID must be 24 hexadecimal digits")
    return lowered
