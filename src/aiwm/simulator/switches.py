"""What a request asks of the simulator besides an answer: the header `x-simulate`.

    x-simulate: delay=0.5; status=429; quote-key

`MANUAL` is the whole list; it is what a caller is told when a switch is wrong, and what the docs print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

HEADER = b"x-simulate"
STATUSES = (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 529)
ENCODINGS = ("gzip", "deflate", "br", "zstd")
LONGEST = 3600.0
"""Seconds; a longer wait is `hang`."""
MOST = 1_000_000
MOST_CHUNKS = 100_000
"""Streams are prepared in memory when they are to be broken, so their length has a limit."""

MANUAL: Mapping[str, str] = {
    "delay": "delay=SECONDS before the first byte",
    "chunk-delay": "chunk-delay=SECONDS between chunks",
    "status": f"status=N answers with the provider's own error: {', '.join(map(str, STATUSES))}",
    "cut": "cut=N breaks the connection off after N chunks of body",
    "piece": "piece=N sends the body in pieces of N bytes, across all borders; each piece is a chunk then",
    "cached": "cached=N input tokens read from a cache, reported on top of the counted ones",
    "cache-write": "cache-write=N input tokens written to a cache, reported on top of the counted ones",
    "reasoning": "reasoning=N output tokens of reasoning, reported on top of the visible ones",
    "tokens": "tokens=N makes the answer N tokens long; a stream has N chunks of text",
    "encoding": f"encoding=NAME compresses the body: {', '.join(ENCODINGS)}; a stream is flushed at each chunk",
    "quote-key": "quote-key puts the caller's key in full into error messages",
    "hang": "hang never answers",
    "error-mid-stream": "error-mid-stream sends the provider's in-stream error after half the chunks of a stream",
}


class BadSwitch(Exception):
    """The header cannot be obeyed. The text says what is wrong and lists what there is."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"x-simulate: {problem}. Switches, separated by ';': {'. '.join(MANUAL.values())}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """One field for each switch of `MANUAL`."""

    delay: float = 0.0
    chunk_delay: float = 0.0
    status: int | None = None
    cut: int | None = None
    piece: int | None = None
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    tokens: int | None = None
    encoding: str | None = None
    quote_key: bool = False
    hang: bool = False
    error_mid_stream: bool = False


NONE = Switches()


def parse(header: str) -> Switches:
    """The switches of a header's value; raises BadSwitch."""
    found: dict[str, float | int | str | bool] = {}
    for parameter in header.split(";"):
        name, equals, value = (part.strip() for part in parameter.partition("="))
        if name or equals:
            _store(found, name.lower(), value, given=bool(equals))
    return Switches(**found) if found else NONE  # type: ignore[arg-type]  # _VALUES has the types


def _store(found: dict[str, float | int | str | bool], name: str, value: str, *, given: bool) -> None:
    if name not in MANUAL:
        raise BadSwitch(f"there is no switch '{name}'")
    field = name.replace("-", "_")
    if field in found:
        raise BadSwitch(f"'{name}' is given twice")
    if name not in _VALUES:
        if given:
            raise BadSwitch(f"'{name}' takes no value")
        found[field] = True
        return
    try:
        found[field] = _VALUES[name](value)
    except ValueError as exc:
        raise BadSwitch(f"'{name}' cannot be '{value}': {exc}") from exc


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST:
        raise ValueError(f"give seconds from 0 to {LONGEST:.0f}")
    return seconds


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parsed(value: str) -> int:
        # isdecimal() alone would take other scripts' digits, and int() underscores.
        number = int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else -1
        if not least <= number <= most:
            raise ValueError(f"give a whole number from {least} to {most}")
        return number

    return parsed


def _status(value: str) -> int:
    if value not in map(str, STATUSES):
        raise ValueError("it is not one of the statuses below")
    return int(value)


def _encoding(value: str) -> str:
    if value not in ENCODINGS:
        raise ValueError("it is not one of the encodings below")
    return value


_VALUES: Mapping[str, Callable[[str], float | int | str]] = {
    "delay": _seconds,
    "chunk-delay": _seconds,
    "status": _status,
    "cut": _whole(0, MOST),
    "piece": _whole(1, MOST),
    "cached": _whole(0, MOST),
    "cache-write": _whole(0, MOST),
    "reasoning": _whole(0, MOST),
    "tokens": _whole(1, MOST_CHUNKS),
    "encoding": _encoding,
}
