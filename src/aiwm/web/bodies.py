"""Request bodies of the control plane: read whole, within a limit, and JSON under the types that callers send it as."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiwm.errors import BodyTooLarge, ClientGone, Invalid, UnsupportedMediaType

_JSON = b"application/json"
_TAKEN_AS_JSON = frozenset({b"", _JSON, b"application/x-www-form-urlencoded"})
"""`curl -d` without a header says form-urlencoded and people send it JSON: it is read as what it is."""


class JsonBodies:
    """Raises BodyTooLarge, UnsupportedMediaType and Invalid; a body that gets through is good JSON, in one message."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._read(receive)
        if body:
            scope = {**scope, "headers": _as_json(scope["headers"])}
            _check(body)
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part: bytes = message.get("body", b"")
            body += part
            if len(body) > self._max_bytes:
                raise BodyTooLarge(f"The request body is too large: at most {self._max_bytes} bytes are read here")
            if not message.get("more_body"):
                return body


def _check(body: bytes) -> None:
    """Raises Invalid for what readers of JSON disagree about: NaN, half surrogate pairs, names given twice."""
    try:
        orjson.loads(body)
        json.loads(body, object_pairs_hook=_without_twins)
    except json.JSONDecodeError as error:
        raise Invalid(
            [f"body: is not JSON ({error.msg.split(':')[0]}, line {error.lineno} column {error.colno})"]
        ) from None
    except RecursionError:
        raise Invalid(["body: is nested too deeply"]) from None


def _without_twins(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    names = dict(pairs)
    if len(names) != len(pairs):
        times = Counter(name for name, _ in pairs)
        raise Invalid([f"{name[:100]}: is given twice" for name, number in times.items() if number > 1])
    return names


def _as_json(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    given = next((value for name, value in headers if name == b"content-type"), b"")
    media_type = given.split(b";", 1)[0].strip().lower()
    if media_type not in _TAKEN_AS_JSON and not media_type.endswith(b"+json"):
        raise UnsupportedMediaType(
            f"Content-Type {given.decode('latin-1')[:100]} is not read here; send application/json"
        )
    return [*(item for item in headers if item[0] != b"content-type"), (b"content-type", _JSON)]
