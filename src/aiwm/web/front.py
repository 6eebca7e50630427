"""What happens to every request, whoever answers it: a correlation id, errors rendered, one line in the log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

import structlog

from aiwm.domain.ids import new_request_id
from aiwm.errors import AiwmError, AnswerBroken, ClientGone
from aiwm.web.call import Application, Call
from aiwm.web.errors import render
from aiwm.wire.hosts import Hosts

_SAFE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

_log = structlog.get_logger(__name__)


class Front:
    """Raises nothing. Once the status line has gone, only closing is left."""

    def __init__(self, app: Application, *, hosts: Hosts, log: Callable[[dict[str, Any]], None]) -> None:
        """`log` is given what is known of each request when it has ended."""
        self._app = app
        self._hosts = hosts
        self._log = log

    async def __call__(self, call: Call) -> None:
        began = time.perf_counter()
        call.request_id = call.correlation_id = new_request_id()
        given = call.first.get(b"x-correlation-id")
        if given is not None and _SAFE_ID.fullmatch(given):
            call.correlation_id = given.decode("ascii")
        try:
            host = call.first.get(b"host")
            if host is not None:
                self._hosts.require(host)
            await self._app(call)
        except Exception as exc:  # noqa: BLE001 - the last stop of every error: it is answered and logged here
            self._failed(call, exc)
        finally:
            self._log(_line(call, time.perf_counter() - began))

    def _failed(self, call: Call, exc: Exception) -> None:
        error = exc if isinstance(exc, AiwmError) else AiwmError()
        if error is not exc:
            _log.exception("unexpected error", correlation_id=call.correlation_id, path=_shown(call.path))
        if isinstance(error, ClientGone) or (call.begun and isinstance(error, AnswerBroken)):
            call.end = call.end or str(error)
        elif not call.begun:
            status, headers, body = render(
                error, path=unquote(call.path.decode("ascii")), correlation_id=call.correlation_id
            )
            call.answer(status, headers, body)
        # The answer has begun and is not ended: the connection is closed, which is the only signal left.


@lru_cache(maxsize=1024)
def _shown(spelled: bytes) -> str:
    """The path is the caller's: what a terminal would take for a command, or a reader for another line, is escaped."""
    path = spelled.decode("ascii")
    if "%" in path:
        path = unquote(path)
    return path if path.isprintable() else quote(path)


def _line(call: Call, seconds: float) -> dict[str, Any]:
    """No query and no headers: both can hold keys."""
    line: dict[str, Any] = {
        "correlation_id": call.correlation_id,
        "method": call.method.decode("ascii"),
        "path": _shown(call.path),
        "status": call.status or ClientGone.status,
        "ms": round(seconds * 1000, 1),
    }
    if call.user_id is not None:
        line["user_id"], line["org_id"] = call.user_id, call.org_id
    if call.api_key_id is not None:
        line["api_key_id"] = call.api_key_id
    if call.acting_for is not None:
        line["acting_for"] = call.acting_for
    if call.deployment_id is not None:
        line["deployment_id"] = call.deployment_id
    if call.tokens is not None:
        line["tokens"] = call.tokens
    if call.end is not None:
        line["end"] = call.end
    return line
