"""Child processes: pinned to a core, stopped whatever happens, and what they cost, read from /proc."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_START_SECONDS = 180
"""Some gateways take a minute when the machine has other work; who ends before is noticed at once."""
_STOP_SECONDS = 15
_SETTLE_SECONDS = 30
_QUIET_SECONDS, _QUIET = 1.0, 0.03
"""With less than that share of a core for so long, a process rests."""


class BenchError(Exception):
    """Something without which there is nothing to measure. The text says what to do."""


class Cores:
    """Which core is whose. What is measured has one for itself, if the machine has two."""

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.measured, self.load = cores[0], cores[1 % len(cores)]
        self.number = len(cores)
        self.two = frozenset(cores[:2])
        """For two workers."""
        self.rest = frozenset(cores[2:] or cores)
        """For the load of two workers."""

    @property
    def text(self) -> str:
        if self.number == 1:
            return "ONE core for everything: rates are limited by the load too, and ratios are flattered"
        return f"{self.number} cores: what is measured on core {self.measured}, load and provider on core {self.load}"


@contextlib.contextmanager
def pinned(cores: Collection[int]) -> Iterator[None]:
    """What is started in here runs on these cores, from its first instruction on."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Child:
    """A process, and those it starts, from `start` to `stop`, as often as wanted. Its output goes to a file."""

    def __init__(
        self, name: str, command: Sequence[str], *, cores: Collection[int], output: Path, env: Mapping[str, str]
    ) -> None:
        self.name = name
        self._command = command
        self._cores = cores
        self._output = output
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # In a group of its own: Ctrl-C is for us, and we stop the children one by one.
        with pinned(self._cores), self._output.open("ab") as file:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=self._env, process_group=0
            )

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise BenchError(f"{self.name} does not run")
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} ended with {self._process.returncode}: {self._last_words()}")
        return self._process.pid

    def wait_for(self, port: int, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """Until the request is answered with 200."""
        deadline = time.monotonic() + _START_SECONDS
        said = "nothing"
        while time.monotonic() < deadline:
            _ = self.pid
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request(method, path, body, dict(headers))
                response = connection.getresponse()
                said = f"{response.status} {response.read()[:300]!r}"
                if response.status == 200:
                    return
            except OSError as error:
                said = str(error)
            finally:
                connection.close()
            time.sleep(0.003)
        raise BenchError(f"{self.name} does not answer {method} {path}; at last: {said}")

    def settle(self) -> None:
        """Returns when it does nothing: some of what a start needs is done after the first answer."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(_QUIET_SECONDS)
            if self.cpu_seconds() - before <= _QUIET * _QUIET_SECONDS:
                return

    def _last_words(self) -> str:
        return self._output.read_text(errors="replace")[-1000:].strip()

    # What it costs.

    def cpu_seconds(self) -> float:
        """User and system time of the process, its threads and its children, those that have ended too, so far."""
        ticks = 0
        for pid in self._family():
            # The name of the program stands in parentheses, and may have spaces and parentheses in it.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
        return ticks / _TICKS_PER_SECOND

    def rss_mib(self) -> float:
        """Of the process, and what each of its children has for itself: pages that they share count once."""
        first, *others = self._family()
        own = int(Path(f"/proc/{first}/statm").read_text().split()[1]) * _PAGE_BYTES
        return (own + sum(map(_private_bytes, others))) / 2**20

    def descriptors(self) -> int:
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self._family())

    def connections(self) -> int:
        """Established TCP connections."""
        inodes = set()
        for pid in self._family():
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(str(link.readlink()))
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[3] == "01" and f"socket:[{row[9]}]" in inodes for row in rows)

    def _family(self) -> list[int]:
        """The process, its children and theirs."""
        family = [self.pid]
        for pid in family:
            for task in Path(f"/proc/{pid}/task").iterdir():
                family += map(int, (task / "children").read_text().split())
        return family


def _private_bytes(pid: int) -> int:
    rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return 1024 * sum(int(row[1]) for row in rows if row[0] in {"Private_Clean:", "Private_Dirty:"})


def surroundings(settings: Mapping[str, str]) -> dict[str, str]:
    """Our environment for a child, with these settings of AIWM and no others."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")} | dict(settings)


def free_ports(number: int) -> list[int]:
    """Below those that the kernel gives to who does not ask for one, callers too: none of them is taken before it is
    listened on, nor while the program that has it is started again. Tests have theirs below these."""
    free: list[int] = []
    for port in random.sample(range(21_000, 32_000), 1000):
        if len(free) < number:
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                free.append(port)
    return free
