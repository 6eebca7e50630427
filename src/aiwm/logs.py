"""How the program logs: one line an event on standard error, as JSON or for people, with no secret in it."""

from __future__ import annotations

import asyncio
import atexit
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, BinaryIO, Protocol
from urllib.parse import quote, unquote

import msgspec
import orjson
from msgspec.structs import asdict

from aiwm.domain import times

_SECRET_NAME = re.compile(r"password|secret|token$|api_?key|authorization|credential", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"  # a JWT
    r"|\b(?:(?:sk|rk|pk|xai|gsk|aiwm_sk)[-_]|AIza)[-_A-Za-z0-9]{12,}"  # keys as the providers spell them
    r"|(?i:bearer)\s+[^\s\"']+"
)
_SIGNS = ("eyJ", "sk-", "sk_", "rk-", "rk_", "pk-", "pk_", "xai-", "gsk_", "AIza", "earer", "EARER")
_encoded = msgspec.json.Encoder().encode
_STARS = "***"
_GATHER_SECONDS = 0.05
FACTS = "aiwm_facts"
"""The attribute of a record of `logging` that holds what we say by name."""
_COLORS = {"debug": 36, "info": 32, "warning": 33, "error": 31, "critical": 31}


def level_number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


class Log:
    """What a part of the program has to say: events, which are always the same words, and what is different by name."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **facts: Any) -> None:
        self._say(logging.DEBUG, event, facts)

    def info(self, event: str, **facts: Any) -> None:
        self._say(logging.INFO, event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._say(logging.WARNING, event, facts)

    def error(self, event: str, *, exc_info: BaseException | None = None, **facts: Any) -> None:
        self._say(logging.ERROR, event, facts, exc_info)

    def exception(self, event: str, **facts: Any) -> None:
        """An error, with the traceback of the exception that is being handled."""
        self._say(logging.ERROR, event, facts, sys.exception())

    def _say(self, level: int, event: str, facts: dict[str, Any], exc_info: BaseException | None = None) -> None:
        self._logger.log(level, event, exc_info=exc_info, extra={FACTS: facts})


def configure(*, level: str, as_json: bool, worker: int | None = None) -> None:
    """For the whole process: our events and those that libraries send through `logging`.

    With the number of the worker that says it, if there is more than one.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(_json if as_json else _readable, {} if worker is None else {"worker": worker}))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level_number(level))
    # What these say at INFO is for their developers.
    for name in ("httpx2", "httpcore2", "alembic", "aiosqlite", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, level_number(level)))


class _Formatter(logging.Formatter):
    """An event as one mapping, without secrets, and then as `shown` makes it."""

    def __init__(self, shown: Callable[[dict[str, Any]], str], always: Mapping[str, Any]) -> None:
        super().__init__()
        self._shown = shown
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": times.iso(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, FACTS, {}),
            **self._always,
        }
        # Before secrets are looked for: a traceback holds what was being done.
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = self.formatException(record.exc_info)
        redact(event)
        return self._shown(event)


def _readable(event: dict[str, Any]) -> str:
    """A line for people, in colors if they read it on a terminal; a traceback stands below."""
    facts = dict(event)
    trace = facts.pop("exception", None)
    time_, level, words = facts.pop("time"), f"[{facts.pop('level'):8}]", f"{_printable(facts.pop('event')):30}"
    if sys.stderr.isatty():
        level, words = f"\x1b[{_COLORS[event['level']]}m{level}\x1b[0m", f"\x1b[1m{words}\x1b[0m"
    line = " ".join([time_, level, words, *(f"{name}={_plain(value)}" for name, value in facts.items())])
    return line if trace is None else f"{line}\n{trace}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) and value.isprintable() and " " not in value else repr(value)


def _printable(words: str) -> str:
    """What a library says may be a provider's, and a command to the terminal."""
    return words if words.isprintable() else repr(words)


class Outcome(Protocol):
    """Of a request that went to a provider. It may be asked for a moment after the end, when it costs least."""

    @property
    def tokens(self) -> int | None: ...

    @property
    def end(self) -> str | None:
        """How the answer ended; None if the provider was never reached."""


class RequestLine(msgspec.Struct, frozen=True, gc=False):
    """What is known of a request that has ended. It has no query and no headers: both can hold keys."""

    seconds: float
    correlation_id: str
    method: bytes
    path: bytes
    """As the caller spelled it."""
    status: int
    user_id: str | None = None
    org_id: str | None = None
    api_key_id: str | None = None
    acting_for: str | None = None
    deployment_id: str | None = None
    outcome: Outcome | None = None
    failure: str | None = None
    """Why there was no whole answer, if there was none."""

    @property
    def tokens(self) -> int | None:
        return None if self.outcome is None else self.outcome.tokens

    @property
    def end(self) -> str | None:
        return self.failure if self.outcome is None else self.outcome.end or self.failure

    def told(self) -> dict[str, Any]:
        """By name, without what is not known."""
        line = asdict(self) | {
            "method": self.method.decode("ascii"),
            "path": shown_path(self.path),
            "tokens": self.tokens,
            "end": self.end,
            "ms": round(self.seconds * 1000, 1),
        }
        del line["seconds"], line["outcome"], line["failure"]
        return {name: value for name, value in line.items() if value is not None}


def request_log(*, level: str, as_json: bool, worker: int | None = None) -> Callable[[RequestLine], None]:
    """What writes the line of each request. For machines it goes around `logging`, which costs as much as the relay."""
    if level_number(level) > logging.INFO:
        return lambda _: None
    if not as_json:
        log = Log("aiwm.request")
        return lambda line: log.info("request", **line.told())
    return _Lines(sys.stderr.buffer, worker).add


class _JsonLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="event", tag="request"):
    """The line of a request for machines: what is not known is left out."""

    level: str
    time: str
    correlation_id: str
    method: str
    path: str
    status: int
    ms: float
    worker: int | None = None
    user_id: str | None = None
    org_id: str | None = None
    api_key_id: str | None = None
    acting_for: str | None = None
    deployment_id: str | None = None
    tokens: int | None = None
    end: str | None = None


class _Lines:
    """Gathers lines for a moment: to make and to write each by itself would cost as much as what it tells of."""

    def __init__(self, output: BinaryIO, worker: int | None) -> None:
        self._output = output
        self._worker = worker
        self._waiting: list[tuple[float, RequestLine]] = []
        atexit.register(self.flush)

    def add(self, line: RequestLine) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_later(_GATHER_SECONDS, self.flush)
        self._waiting.append((time.time(), line))

    def flush(self) -> None:
        if self._waiting:
            lines, self._waiting = self._waiting, []
            self._output.write(b"".join([self._encoded(at, line) + b"\n" for at, line in lines]))
            self._output.flush()

    def _encoded(self, at: float, line: RequestLine) -> bytes:
        # What callers write freely; the rest of a line is ours.
        path = _clean(line.path)
        correlation_id = line.correlation_id
        if not correlation_id.isalnum():
            correlation_id = _without_secrets(correlation_id)
        return _encoded(
            _JsonLine(
                "info",
                _stamp(int(at * 1000)),
                correlation_id,
                line.method.decode("ascii"),
                path,
                line.status,
                round(line.seconds * 1000, 1),
                self._worker,
                line.user_id,
                line.org_id,
                line.api_key_id,
                line.acting_for,
                line.deployment_id,
                line.tokens,
                line.end,
            )
        )


@lru_cache(maxsize=1024)
def shown_path(spelled: bytes) -> str:
    """The path is the caller's: what a terminal would take for a command, or a reader for another line, is escaped."""
    path = spelled.decode("ascii")
    if "%" in path:
        path = unquote(path)
    return path if path.isprintable() else quote(path)


@lru_cache(maxsize=1024)
def _clean(spelled: bytes) -> str:
    return _without_secrets(shown_path(spelled))


_stamp = lru_cache(maxsize=2)(times.iso)
"""Of a time in milliseconds: many lines have the same."""


def redact(event: MutableMapping[str, Any]) -> None:
    """The last guard, not the first: nothing secret should get here."""
    for name, value in event.items():
        if _SECRET_NAME.search(name):
            event[name] = _STARS
        elif isinstance(value, str):
            event[name] = _without_secrets(value)


def _without_secrets(text: str) -> str:
    # Looking for the plain beginnings first is many times cheaper than the pattern.
    for sign in _SIGNS:
        if sign in text:
            return _SECRET_VALUE.sub(_STARS, text)
    return text


def _json(event: dict[str, Any]) -> str:
    return orjson.dumps(event, default=str).decode()
