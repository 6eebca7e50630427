"""What happens to every request, whoever answers it: a correlation id, errors rendered, one line in the log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiwm.domain.ids import new_request_id
from aiwm.errors import AiwmError, AnswerBroken, ClientGone
from aiwm.web.errors import render

_SAFE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Facts:
    """What is known of a request: `scope["aiwm"]`. The rooms that learn something write it here for the log line."""

    request_id: str
    """Ours, and new for each request."""
    correlation_id: str
    """The caller's own, when it sent one that can be logged and sent back; else the request's id."""
    user_id: str | None = None
    org_id: str | None = None
    acting_for: str | None = None
    """The organization a universe.owner acts in with X-Organization-Id, when it is not its own."""
    deployment_id: str | None = None
    tokens: int | None = None
    end: str | None = None


class Front:
    """The outermost ASGI application. It raises nothing: when the status line has gone, only closing is left."""

    def __init__(self, app: ASGIApp, *, log: Callable[[dict[str, Any]], None]) -> None:
        """`log` is given what is known of each request when it has ended."""
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        request_id = new_request_id()
        facts = scope["aiwm"] = Facts(request_id, _correlation_id(scope["headers"]) or request_id)
        header = (b"x-correlation-id", facts.correlation_id.encode("latin-1"))
        status = 0

        async def watching(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        try:
            await self._app(scope, receive, watching)
        except Exception as exc:  # noqa: BLE001 - the last stop of every error: it is answered and logged here
            error = exc if isinstance(exc, AiwmError) else AiwmError()
            if error is not exc:
                _log.exception("unexpected error", correlation_id=facts.correlation_id, path=_printable(scope["path"]))
            if not status and not isinstance(error, ClientGone):
                status, headers, body = render(error, path=scope["path"], correlation_id=facts.correlation_id)
                await send({"type": "http.response.start", "status": status, "headers": [*headers, header]})
                await send({"type": "http.response.body", "body": body})
            elif isinstance(error, ClientGone | AnswerBroken):
                facts.end = facts.end or str(error)
            # The answer has begun and is not ended: the server closes the connection, which is the only signal left.
        finally:
            self._log(_line(scope, facts, status, time.perf_counter() - began))


def _correlation_id(headers: list[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == b"x-correlation-id" and _SAFE_ID.fullmatch(value):
            return value.decode("ascii")
    return None


def _printable(path: str) -> str:
    """The path is the caller's: what a terminal would take for a command, or a reader for another line, is escaped."""
    return path if path.isprintable() else quote(path)


def _line(scope: Scope, facts: Facts, status: int, seconds: float) -> dict[str, Any]:
    """No query and no headers: both can hold keys."""
    line = {
        "correlation_id": facts.correlation_id,
        "method": scope["method"],
        "path": _printable(scope["path"]),
        "status": status or ClientGone.status,
        "ms": round(seconds * 1000, 1),
    }
    for name in ("user_id", "org_id", "acting_for", "deployment_id", "tokens", "end"):
        if (value := getattr(facts, name)) is not None:
            line[name] = value
    return line
