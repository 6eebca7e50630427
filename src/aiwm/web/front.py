"""What happens to every request, whoever answers it: a correlation id, errors rendered, one line in the log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from urllib.parse import unquote

from aiwm.domain.ids import new_request_id
from aiwm.errors import AiwmError, AnswerBroken, ClientGone
from aiwm.logs import Log, RequestLine, shown_path
from aiwm.web.call import Application, Call
from aiwm.web.errors import render
from aiwm.wire.hosts import Hosts

_SAFE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

_log = Log(__name__)


class Front:
    """Raises nothing. Once the status line has gone, only closing is left."""

    def __init__(self, app: Application, *, hosts: Hosts, log: Callable[[RequestLine], None]) -> None:
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
            _log.exception("unexpected error", correlation_id=call.correlation_id, path=shown_path(call.path))
        if isinstance(error, ClientGone) or (call.begun and isinstance(error, AnswerBroken)):
            call.failure = str(error)
        elif not call.begun:
            status, headers, body = render(
                error, path=unquote(call.path.decode("ascii")), correlation_id=call.correlation_id
            )
            call.answer(status, headers, body)
        # The answer has begun and is not ended: the connection is closed, which is the only signal left.


def _line(call: Call, seconds: float) -> RequestLine:
    return RequestLine(
        seconds,
        call.correlation_id,
        call.method,
        call.path,
        call.status or ClientGone.status,
        call.user_id,
        call.org_id,
        call.api_key_id,
        call.acting_for,
        call.deployment_id,
        call.outcome,
        call.failure,
    )
