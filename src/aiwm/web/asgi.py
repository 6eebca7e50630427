"""An ASGI application behind the connections of `web.connection`: the control plane is one, the data plane is not."""

from __future__ import annotations

import asyncio
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

from aiwm.errors import ClientGone
from aiwm.web.call import Call


class Asgi:
    """Calls the application; `scope["aiwm"]` is the call itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, call: Call) -> None:
        exchange = _Exchange(call)
        await self._app(_scope(call), exchange.receive, exchange.send)


def _scope(call: Call) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": None,
        "client": call.client,
        "scheme": "http",
        "root_path": "",
        "method": call.method.decode("ascii"),
        "path": unquote(call.path.decode("ascii")),
        "raw_path": call.path,
        "query_string": call.head.query,
        "headers": call.head.headers(call.length),
        "aiwm": call,
    }


class _Exchange:
    __slots__ = ("_call", "_left", "_taken")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._taken = False
        self._left: asyncio.Event | None = None

    async def receive(self) -> Message:
        call = self._call
        if not self._taken:
            try:
                body, self._taken = await call.take()
            except ClientGone:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": body, "more_body": not self._taken}
        if not (call.gone or call.answered):
            left = self._left = self._left or asyncio.Event()
            call.on_gone = left.set
            await left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        call = self._call
        if message["type"] == "http.response.start":
            call.start(message["status"], list(message.get("headers", ())))
            return
        if call.held_back:
            await call.drained()
        last = not message.get("more_body", False)
        call.write(message.get("body", b""), last=last)
        if last and self._left is not None:
            self._left.set()
        elif not last:
            call.flush()
