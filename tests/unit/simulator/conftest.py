"""The simulator, called as a server would call it: no network, no sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from aiwm.simulator.app import Simulator
from aiwm.simulator.delivery import Message


@dataclass
class Answered:
    messages: list[Message] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def chunks(self) -> list[bytes]:
        return [message["body"] for message in self.messages[1:] if message["body"]]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The JSON of the data lines."""
        lines = [line.removeprefix(b"data: ") for line in self.body.splitlines() if line.startswith(b"data: ")]
        return [orjson.loads(line) for line in lines if line != b"[DONE]"]

    @property
    def whole(self) -> bool:
        return not self.messages[-1].get("more_body", False)


Ask = Callable[..., Awaitable[Answered]]

KEYS = {"authorization": "Bearer key", "x-api-key": "key", "anthropic-version": "2023-06-01", "x-goog-api-key": "key"}


@pytest.fixture
def ask() -> Ask:
    """Ask the simulator. With `leave_after=N` the client leaves after N messages; an error of the simulator's is raised
    after `into` has what was sent before it."""

    async def ask(
        path: str,
        body: Any = None,
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        simulate: str | None = None,
        leave_after: int | None = None,
        into: Answered | None = None,
    ) -> Answered:
        answered, gone = into or Answered(), asyncio.Event()
        content = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        given = KEYS if headers is None else headers
        given = {**given, "x-simulate": simulate} if simulate is not None else given
        incoming = [{"type": "http.request", "body": content[:9], "more_body": True}]
        incoming.append({"type": "http.request", "body": content[9:], "more_body": False})

        async def receive() -> Message:
            if incoming:
                return incoming.pop(0)
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            answered.messages.append(message)
            if len(answered.messages) == leave_after:
                gone.set()

        async def sleep(seconds: float) -> None:
            answered.slept.append(seconds)
            await asyncio.sleep(0)

        if leave_after == 0:
            gone.set()
        route, _, query = path.partition("?")
        await Simulator(sleep=sleep, now=lambda: 1_800_000_000)(
            {
                "type": "http",
                "method": method,
                "path": route,
                "query_string": query.encode(),
                "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            },
            receive,
            send,
        )
        return answered

    return ask
