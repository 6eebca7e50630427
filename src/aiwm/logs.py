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
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import msgspec
import orjson
import structlog
from msgspec.structs import asdict

_SECRET_NAME = re.compile(r"password|secret|token$|api_?key|authorization|credential", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"  # a JWT
    r"|\b(?:(?:sk|rk|pk|xai|gsk|aiwm_sk)[-_]|AIza)[-_A-Za-z0-9]{12,}"  # keys as the providers spell them
    r"|(?i:bearer)\s+[^\s\"']+"
)
_SIGNS = ("eyJ", "sk-", "sk_", "rk-", "rk_", "pk-", "pk_", "xai-", "gsk_", "AIza", "earer", "EARER")
_encoded = orjson.dumps
_STARS = "***"
_GATHER_SECONDS = 0.05


def level_number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def configure(*, level: str, as_json: bool, worker: int | None = None) -> None:
    """For the whole process: our events and those that libraries send through `logging`.

    With the number of the worker that says it, if there is more than one.
    """
    shared: list[structlog.types.Processor] = [
        *_named(worker),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer(serializer=_json)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    # Tracebacks become text before `redact`, and the plain kind: structlog's own for people show local variables.
    last: list[structlog.types.Processor] = [structlog.processors.format_exc_info, redact, renderer]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level_number(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level_number(level))
    # What these say at INFO is for their developers.
    for name in ("httpx2", "httpcore2", "alembic", "aiosqlite", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, level_number(level)))


def _named(worker: int | None) -> list[structlog.types.Processor]:
    if worker is None:
        return []

    def name(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["worker"] = worker
        return event

    return [name]


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
    tokens: int | None = None
    end: str | None = None

    def told(self) -> dict[str, Any]:
        """By name, without what is not known."""
        line = {name: value for name, value in asdict(self).items() if value is not None}
        del line["seconds"]
        return line | {
            "method": self.method.decode("ascii"),
            "path": shown_path(self.path),
            "ms": round(self.seconds * 1000, 1),
        }


def request_log(*, level: str, as_json: bool, worker: int | None = None) -> Callable[[RequestLine], None]:
    """What writes the line of each request. For machines it goes around structlog, which costs as much as the relay."""
    if level_number(level) > logging.INFO:
        return lambda _: None
    if not as_json:
        log = structlog.get_logger("aiwm.request")
        return lambda line: log.info("request", **line.told())
    return _Lines(sys.stderr.buffer, {} if worker is None else {"worker": worker}).add


class _Lines:
    """Gathers lines for a moment: to make and to write each by itself would cost as much as what it tells of."""

    def __init__(self, output: BinaryIO, always: Mapping[str, Any]) -> None:
        self._output = output
        self._always = {"event": "request", "level": "info"} | dict(always)
        self._waiting: list[tuple[float, RequestLine]] = []
        atexit.register(self.flush)

    def add(self, line: RequestLine) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_later(_GATHER_SECONDS, self.flush)
        self._waiting.append((time.time(), line))

    def flush(self) -> None:
        if self._waiting:
            lines, self._waiting = self._waiting, []
            self._output.write(b"".join([self._encoded(at, line) for at, line in lines]))
            self._output.flush()

    def _encoded(self, at: float, line: RequestLine) -> bytes:
        now = int(at * 1000)
        told = line.told()
        # What callers write freely; the rest of a line is ours.
        told["path"] = _clean(told["path"])
        if not line.correlation_id.isalnum():
            told["correlation_id"] = _without_secrets(line.correlation_id)
        stamp = f"{_second(now // 1000)}.{now % 1000:03d}Z"
        return _encoded(self._always | {"time": stamp} | told, option=orjson.OPT_APPEND_NEWLINE)


@lru_cache(maxsize=1024)
def shown_path(spelled: bytes) -> str:
    """The path is the caller's: what a terminal would take for a command, or a reader for another line, is escaped."""
    path = spelled.decode("ascii")
    if "%" in path:
        path = unquote(path)
    return path if path.isprintable() else quote(path)


@lru_cache(maxsize=1024)
def _clean(path: str) -> str:
    return _without_secrets(path)


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The last guard, not the first: nothing secret should get here."""
    for name, value in event.items():
        if _SECRET_NAME.search(name):
            event[name] = _STARS
        elif isinstance(value, str):
            event[name] = _without_secrets(value)
    return event


def _without_secrets(text: str) -> str:
    # Looking for the plain beginnings first is many times cheaper than the pattern.
    for sign in _SIGNS:
        if sign in text:
            return _SECRET_VALUE.sub(_STARS, text)
    return text


def _json(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()
