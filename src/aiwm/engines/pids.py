"""A process of this machine by its number, and never another one that got the number later.

It need not be our child: an engine outlives the AIWM that started it. So it is watched by a descriptor of it (pidfd)
where the system has them, else by looking, and told from its successors by the time it began.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_LOOK_SECONDS = 0.2
_MOMENT_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Pid:
    number: int
    began: str
    """As the system counts it; means nothing but `the same` or `another`."""

    @classmethod
    def of(cls, number: int) -> Pid | None:
        """None when there is no such process, or when it is dead and only waits to be buried."""
        began = _began(number)
        return None if began is None else cls(number, began)

    @property
    def alive(self) -> bool:
        return _began(self.number) == self.began

    async def ended(self) -> str:
        """Waits for its end; says how it was, which only a parent is told."""
        while self.alive:
            await self._dies_or_a_while()
        while True:
            # It counts as dead with its first thread, and can be buried after its last.
            how = _buried(self.number)
            if how is not None:
                return how
            await asyncio.sleep(_MOMENT_SECONDS)

    async def _dies_or_a_while(self) -> None:
        try:
            descriptor = os.pidfd_open(self.number)
        except (AttributeError, OSError):  # No such call on this system; or it has just gone.
            await asyncio.sleep(_LOOK_SECONDS)
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(descriptor, gone.set)
        try:
            if self.alive:  # The descriptor might have been of a successor.
                await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def family(self) -> set[Pid]:
        """It, its descendants, and all in its group: what has to end with it."""
        members = {self}
        with contextlib.suppress(psutil.Error):
            if self.alive:
                members |= _known(child.pid for child in psutil.Process(self.number).children(recursive=True))
        return members | _known(number for number in psutil.pids() if _group(number) == self.number)

    def ask_to_end(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.number, number)


async def end(leader: Pid, seconds: float) -> None:
    """Asks a process and its family to end (SIGTERM), and does not ask (SIGKILL) what is there after `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    family = leader.family()
    leader.ask_to_end()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await leader.ended()
    # What it leaves behind had its time too; and between two looks a new one may have been started.
    while left := {pid for pid in family | leader.family() if pid.alive}:
        for pid in left:
            pid.kill()
        await asyncio.sleep(0.02)
        family = left


def marks(variable: str) -> list[tuple[Pid, str]]:
    """The processes that were started with this variable in their environment, as far as we may see, and its value."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            value = process.environ().get(variable)
            if value is not None and (pid := Pid.of(process.pid)) is not None:
                found.append((pid, value))
    return found


def listening(leader: Pid, port: int) -> bool:
    """Whether the process or one of its family has the port; True when the system does not let us see."""
    for pid in leader.family():
        try:
            connections = psutil.Process(pid.number).net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        except (psutil.Error, OSError):
            return True
        if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections):
            return True
    return False


def _known(numbers: Iterable[int]) -> set[Pid]:
    return {pid for number in numbers if (pid := Pid.of(number)) is not None}


def _group(number: int) -> int | None:
    try:
        return os.getpgid(number)
    except OSError:
        return None


if sys.platform == "linux":

    def _began(number: int) -> str | None:
        try:
            stat = Path(f"/proc/{number}/stat").read_text()
        except OSError:
            return None
        # The name may hold spaces and brackets: the fields begin behind its last one (proc_pid_stat(5)).
        fields = stat[stat.rindex(")") + 2 :].split()
        return None if fields[0] in "ZX" else f"{_boot_id()}:{fields[19]}"

    def _boot_id() -> str:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]

else:

    def _began(number: int) -> str | None:
        try:
            process = psutil.Process(number)
            return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
        except psutil.Error:
            return None


def _buried(number: int) -> str | None:
    try:
        found, status = os.waitpid(number, os.WNOHANG)
    except ChildProcessError:
        return "ended"
    if not found:
        return None
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return "ended by SIGKILL, as the system does it when memory runs out"
    return f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
