"""Words between the parent and one of its workers, both ways, over a socket that both were born with.

A word is a name and values. It is told, or it is asked and gets an answer. Words arrive in the order in which they
were said; one that takes a while is answered when it is done, and others are heard meanwhile. On the socket a word is
its length in four bytes and then MessagePack: a list of a number, the name and the values. The number is 0 for what is
told; an answer has the asker's with a minus before it, whether it went well, and the value or the reason.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

import msgspec

from aiwm.errors import AiwmError, Unavailable
from aiwm.logs import Log

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode
_LENGTH_BYTES = 4
_log = Log(__name__)

Hear = Mapping[str, Callable[..., Any]]
"""What is done at a word, by its name: a function, or a coroutine function for what takes a while."""


class Gone(Exception):
    """Nobody is at the other end of the line any more."""


class Line(asyncio.Protocol):
    def __init__(self, hear: Hear, *, ended: Callable[[], None] = lambda: None) -> None:
        """`ended` is called when the other end is closed: its process is no more, or about to be no more."""
        self._hear = hear
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._asked = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._busy: set[asyncio.Task[None]] = set()

    async def open(self, end: socket.socket) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    def tell(self, name: str, *values: Any) -> None:
        """Said to nobody when nobody is there any more."""
        self._say([0, name, *values])

    async def ask(self, name: str, *values: Any) -> Any:
        """Raises Gone, and Unavailable with the other's reason."""
        if self._transport is None:
            raise Gone
        self._asked += 1
        number = self._asked
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._say([number, name, *values])
        try:
            return await answer
        finally:
            self._answers.pop(number, None)

    async def finish(self) -> None:
        """Breaks off what words have set going, and waits for its end."""
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # The transport's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Gone())
        for task in self._busy:
            task.cancel()
        self._ended()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        begin = 0
        while len(received) - begin >= _LENGTH_BYTES:
            end = begin + _LENGTH_BYTES + int.from_bytes(received[begin : begin + _LENGTH_BYTES], "big")
            if len(received) < end:
                break
            self._heard(*_decode(received[begin + _LENGTH_BYTES : end]))
            begin = end
        del received[:begin]

    def _say(self, word: list[Any]) -> None:
        if self._transport is not None:
            text = _encode(word)
            self._transport.write(len(text).to_bytes(_LENGTH_BYTES, "big") + text)

    def _heard(self, number: int, *said: Any) -> None:
        if number < 0:
            well, value = said
            answer = self._answers.get(-number)
            if answer is None or answer.done():
                return  # The asker does not wait any more.
            if well:
                answer.set_result(value)
            else:
                answer.set_exception(Unavailable(value))
            return
        name, *values = said
        try:
            found = self._hear[name](*values)
        except Exception as error:  # noqa: BLE001 - the line serves other words, too
            self._failed(number, name, error)
            return
        if inspect.iscoroutine(found):
            task = asyncio.create_task(self._done_later(number, name, found))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)
        elif number:
            self._say([-number, True, found])

    async def _done_later(self, number: int, name: str, work: Coroutine[Any, Any, Any]) -> None:
        try:
            found = await work
        except asyncio.CancelledError:
            self._failed(number, name, Unavailable("A worker is stopping; try again"))
            raise
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(number, name, error)
        else:
            if number:
                self._say([-number, True, found])

    def _failed(self, number: int, name: str, error: Exception) -> None:
        if not isinstance(error, AiwmError):
            _log.error("a word between processes could not be followed", word=name, exc_info=error)
        if number:
            self._say([-number, False, str(error) if isinstance(error, AiwmError) else Unavailable.default])
