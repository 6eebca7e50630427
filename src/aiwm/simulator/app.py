"""The simulated provider: one port, three dialects, as a bare ASGI application.

    uvicorn aiwm.simulator.app:simulator

It answers like the real thing, says in its answers and in `x-aiwm-simulator` that it is not, keeps nothing, and
takes every credential that does not contain "invalid". A request may ask for more with `x-simulate`; see `switches`.
What an answer costs is in `tokens`.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from aiwm import __version__
from aiwm.simulator import anthropic, delivery, google, openai, switches
from aiwm.simulator.delivery import Receive, Send, Sleep
from aiwm.simulator.dialect import JSON, Answer, Dialect, Headers, NotJson, Refusal, Request, Wrong
from aiwm.simulator.switches import BadSwitch

Scope = Mapping[str, Any]

_MARK = (b"x-aiwm-simulator", __version__.encode())


class Simulator:
    """read the request -> choose the dialect -> answer or refuse -> deliver"""

    def __init__(self, *, sleep: Sleep = asyncio.sleep, now: Callable[[], float] = time.time) -> None:
        self._sleep = sleep
        self._now = now
        # Ids of two runs do not meet: a client may hold on to one while the simulator is started anew.
        self._run = secrets.token_hex(8)
        self._count = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _other(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            return
        dialect, request, problem = self._request(scope, body)
        answer = _refused(dialect, request, problem) if problem else _answer(dialect, request)
        headers = [_MARK, *dialect.headers(request)]
        await delivery.deliver(answer, headers, request.switches, receive=receive, send=send, sleep=self._sleep)

    def _request(self, scope: Scope, body: bytes) -> tuple[Dialect, Request, Refusal | None]:
        """What was asked, and in which dialect; and the refusal, if the switches cannot be read."""
        method, path, headers = scope["method"], scope["path"], dict(scope["headers"])
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"))) if scope["query_string"] else {}
        dialect, problem = _dialect(method, path, headers, query), None
        try:
            asked = _switches(scope["headers"]) if switches.HEADER in headers else switches.NONE
        except BadSwitch as exc:
            asked, problem = switches.NONE, dialect.refusal(400, str(exc))
        request = Request(
            method=method,
            path=path,
            query=query,
            headers=headers,
            body=body,
            switches=asked,
            id=f"{self._run}{next(self._count):08x}",
            time=int(self._now()),
            key=dialect.key(path, headers, query),
        )
        return dialect, request, problem


def _dialect(method: str, path: str, headers: Mapping[bytes, bytes], query: Mapping[str, str]) -> Dialect:
    """By the path, if one dialect alone has it; else by what the caller identifies itself with."""
    if path == "/v1/chat/completions":  # what is measured
        return openai.DIALECT
    if anthropic.speaks(path):
        return anthropic.DIALECT
    if google.speaks(method, path):
        return google.DIALECT
    if openai.speaks(path):
        return openai.DIALECT
    if anthropic.marked(headers):
        return anthropic.DIALECT
    return google.DIALECT if google.marked(headers, query) else openai.DIALECT


def _answer(dialect: Dialect, request: Request) -> Answer:
    try:
        handler = dialect.find(request)
        dialect.admit(request)
        if request.switches.status is not None:
            raise dialect.refusal(request.switches.status, None)
        return handler(request)
    except Refusal as refusal:
        return _refused(dialect, request, refusal)
    except Wrong as wrong:
        return _refused(dialect, request, dialect.wrong(wrong))
    except NotJson:
        return _refused(dialect, request, dialect.not_json())


def _refused(dialect: Dialect, request: Request, refusal: Refusal) -> Answer:
    return Answer((dialect.render(request, refusal),), JSON, refusal.status, refusal.headers)


def _switches(headers: Headers) -> switches.Switches:
    values = (value.decode("latin-1") for name, value in headers if name == switches.HEADER)
    return switches.parse(";".join(values))


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None if the client left."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return bytes(message.get("body", b""))
    body = bytearray()
    while message["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)
        message = await receive()
    return None


async def _other(scope: Scope, receive: Receive, send: Send) -> None:
    """A server's start and end; and no websockets."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close"})
        return
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})


simulator = Simulator()
