"""The one place where an error becomes an answer."""

from __future__ import annotations

from http import HTTPStatus

import orjson

from aiwm.domain import times
from aiwm.errors import AiwmError

MARK = ("x-aiwm-error", "gateway")
"""On every error of ours and on no other answer: a caller can tell it from the provider's."""


def render(error: AiwmError, *, path: str, correlation_id: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of the answer. The phrase comes from HTTPStatus: it cannot disagree with the code."""
    body = orjson.dumps(
        {
            "statusCode": int(error.status),
            "message": error.message,
            "error": _phrase(error.status),
            "timestamp": times.iso(times.now()),
            "path": path,
            "correlationId": correlation_id,
        }
    )
    headers = [
        ("content-type", "application/json; charset=utf-8"),
        ("content-length", str(len(body))),
        MARK,
        *error.headers.items(),
    ]
    return int(error.status), [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers], body


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Client Closed Request"
