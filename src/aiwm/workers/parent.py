"""Several processes that serve the same ports, and the one that starts them: it serves nothing itself.

The parent binds the ports before anything is made, starts a worker for each number, starts another one when one dies,
and passes signals on. The first worker makes what is made once, so the others start after it. Each has a listener of
its own on each port, which the parent holds too, until all stop: connections that the kernel gave to a worker that dies
wait for the one that takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from aiwm.errors import StartError
from aiwm.listeners import another_on
from aiwm.logs import Log
from aiwm.workers.line import Line
from aiwm.workers.switchboard import LEADER, Switchboard

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0
_STEADY_SECONDS: Final = 10.0
"""Who served so long did not die of how it was started: the next one need not wait."""

_log = Log(__name__)


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told at its start."""

    number: int
    first: bool
    """Whether nobody has had its number before."""
    line: int
    """The descriptor of its end of the line."""
    listeners: dict[str, int]
    """The descriptors of its listeners, by what is served there."""
    demo: bool


class _Worker:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process, line: Line) -> None:
        self.process = process
        self.line = line
        self.began = time.monotonic()
        self.ready = False

    def send(self, number: signal.Signals) -> None:
        """If it has not ended.

        `Process.send_signal` looks whether it has, and so may take the exit code before asyncio does, which then tells
        whoever waits that nobody knows it: 255.
        """
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


class Parent:
    def __init__(self, listeners: Mapping[str, socket.socket], *, workers: int, module: str, demo: bool) -> None:
        """`listeners` are the first worker's; `module` is what a worker runs, with its `Birth` as JSON behind it."""
        self._module = module
        self._demo = demo
        self._listeners = {
            number: dict(listeners)
            if number == LEADER
            else {name: another_on(listener) for name, listener in listeners.items()}
            for number in range(LEADER, LEADER + workers)
        }
        self._switchboard = Switchboard(stuck=self._stuck)
        self._living: dict[int, _Worker] = {}
        self._been_ready: set[int] = set()
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """The exit code. Raises StartError when a process can't be made."""
        with self._signals():
            try:
                await asyncio.gather(*(self._kept(number) for number in self._listeners))
            finally:
                self._release()
        return self._code

    async def _kept(self, number: int) -> None:
        """A worker with this number, until all come to their end."""
        if number != LEADER:
            await self._until(lambda: LEADER in self._been_ready)
        pause = _FIRST_PAUSE
        while not self._stopped.is_set():
            worker = await self._start(number)
            if worker is None:
                return
            code = await worker.process.wait()
            del self._living[number]
            await self._switchboard.left(number)
            if self._stopped.is_set():
                self._code = self._code or max(0, code)
                return
            if code > 0 and not worker.ready and not self._is_spare(number):
                self._stop(code)  # What keeps it from starting it has said itself.
                return
            _log.error("a worker has died; another one takes its place", worker=number, code=code)
            if time.monotonic() - worker.began > _STEADY_SECONDS:
                pause = _FIRST_PAUSE
            elif not worker.ready:
                self._mute(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._until(lambda: False)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _start(self, number: int) -> _Worker | None:
        """None when all stop instead."""
        ours, theirs = socket.socketpair()
        line = Line({**self._switchboard.words(number, lambda: line), "ready": lambda: self._is_ready(number)})
        await line.open(ours)
        if self._stopped.is_set():
            theirs.close()
            return None
        listeners = self._listeners[number]
        birth = Birth(
            number=number,
            first=number not in self._been_ready,
            line=theirs.fileno(),
            listeners={name: listener.fileno() for name, listener in listeners.items()},
            demo=self._demo,
        )
        options = [f"-W{option}" for option in sys.warnoptions]
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *options,
                    "-m",
                    self._module,
                    msgspec.json.encode(birth).decode(),
                    pass_fds=[birth.line, *birth.listeners.values()],
                    # Ctrl-C is for the parent to hear: it passes on what everybody is to do.
                    start_new_session=True,
                )
            except OSError as error:
                raise StartError(f"a worker can't be started: {error.strerror}") from error
        worker = self._living[number] = _Worker(process, line)
        if self._stopped.is_set():
            worker.send(signal.SIGTERM)  # It was not there yet when the signal was passed on.
        return worker

    def _is_ready(self, number: int) -> None:
        self._living[number].ready = True
        self._been_ready.add(number)
        self._tell()

    def _is_spare(self, number: int) -> bool:
        """Whether the program is more than this worker, which does not start: it did once, and others serve."""
        return number in self._been_ready and any(worker.ready for worker in self._living.values())

    def _mute(self, number: int) -> None:
        """It may take long until it listens again: new connections go to the others meanwhile."""
        for listener in self._listeners[number].values():
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RD)

    def _stuck(self, number: int) -> None:
        if worker := self._living.get(number):
            _log.error("a worker does not follow what has changed, and is ended", worker=number)
            worker.send(signal.SIGKILL)

    def _stop(self, code: int) -> None:
        self._code = self._code or code
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: signal.Signals) -> None:
        self._stopped.set()
        for worker in self._living.values():
            worker.send(number)
        self._release()
        self._tell()

    def _release(self) -> None:
        """Nobody waits for a worker any more: who comes when the last one has stopped listening is refused."""
        for listeners in self._listeners.values():
            for listener in listeners.values():
                listener.close()

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Or until all stop."""
        while not (holds() or self._stopped.is_set()):
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed.clear()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._pass_on, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
