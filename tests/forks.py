"""`aiwm ...` as a process of its own that starts fast: it is forked from one that has imported the program.

What is forked is the command from its first line on, with arguments, an environment and outputs of its own; only the
second of CPU for its imports is saved, and for those of each of its workers. Tests of how the program starts, and of
`aiwm run`, start it themselves.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

_LONGEST = 1 << 20
"""Bytes of a request: an environment, mostly."""


class Fork:
    """A command that runs. What it offers of `subprocess.Popen` means the same there."""

    def __init__(self, forks: _Forks, pid: int, stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self.returncode: int | None = None
        self._forks = forks

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._forks.code(self.pid, 0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = self._forks.code(self.pid, timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("aiwm", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def start(arguments: Sequence[str], environment: Mapping[str, str]) -> Fork:
    """Its outputs are pipes."""
    with ExitStack() as ours:
        pipes = [os.pipe() for _ in range(2)]
        for _, write in pipes:
            ours.callback(os.close, write)
        pid = _forks().start(arguments, environment, [write for _, write in pipes])
    stdout, stderr = (os.fdopen(read, "rb") for read, _ in pipes)
    return Fork(_forks(), pid, stdout, stderr)


def run(
    arguments: Sequence[str], environment: Mapping[str, str], *, timeout: float
) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself; killed if it does not. What it says is captured."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        pid = _forks().start(arguments, environment, [output.fileno(), errors.fileno()])
        code = _forks().code(pid, timeout)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(f"aiwm {' '.join(arguments)}", timeout)
        said = []
        for file in (output, errors):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(["aiwm", *arguments], code, *said)


def close() -> None:
    """Ends the process that commands are forked from, and those that still run."""
    global _shared
    if _shared is not None:
        _shared.close()
        _shared = None


class _Forks:
    """The other end of `_main`."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-W", "error", __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._starting = threading.Lock()
        self._told = threading.Condition()
        self._started: int | None = None
        self._codes: dict[int, int] = {}
        self._ended = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], outputs: Sequence[int]) -> int:
        asked = {"arguments": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())}
        with self._starting:
            socket.send_fds(self._line, [json.dumps(asked).encode()], outputs)
            with self._told:
                self._told.wait_for(lambda: self._started is not None or self._ended)
                assert self._started is not None, "the process that commands are forked from has ended"
                pid, self._started = self._started, None
        return pid

    def code(self, pid: int, timeout: float | None) -> int | None:
        """How it ended; None if it still runs when the time is up."""
        with self._told:
            self._told.wait_for(lambda: pid in self._codes or self._ended, timeout)
            assert pid in self._codes or not self._ended, "the process that commands are forked from has ended"
            return self._codes.pop(pid, None)

    def close(self) -> None:
        self._line.shutdown(socket.SHUT_WR)
        self._process.wait()
        self._listener.join()
        self._line.close()

    def _listen(self) -> None:
        while answer := self._line.recv(_LONGEST):
            told: dict[str, Any] = json.loads(answer)
            with self._told:
                if "code" in told:
                    self._codes[told["pid"]] = told["code"]
                else:
                    self._started = told["pid"]
                self._told.notify_all()
        with self._told:
            self._ended = True
            self._told.notify_all()


_shared: _Forks | None = None
_sharing = threading.Lock()


def _forks() -> _Forks:
    global _shared
    with _sharing:
        if _shared is None:
            _shared = _Forks()
        return _shared


# -- the process that forks


def _main(line: socket.socket) -> None:
    """Returns in each new process, which is to be the command then."""
    # Only for this import: the program must not find its tests and benchmarks.
    sys.path.append(str(Path(__file__).parents[1]))
    from bench.imported import imported

    sys.path.pop()
    imported()
    assert threading.active_count() == 1, "a thread would be missing in what is forked"
    # A person's Ctrl-C is for who started us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, waking = socket.socketpair()
    waking.setblocking(False)
    signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([line, woken], [], [])
        if woken in ready:
            woken.recv(4096)
        for pid in list(children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                children.remove(pid)
                with suppress(BrokenPipeError):  # Whoever asked has gone: that is seen below.
                    line.send(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}).encode())
        if line not in ready:
            continue
        asked, outputs, _, _ = socket.recv_fds(line, _LONGEST, 2)
        if not asked:
            break
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            for each in (line, woken, waking):
                each.close()
            _become(outputs, **json.loads(asked))
            return
        for output in outputs:
            os.close(output)
        children.add(pid)
        line.send(json.dumps({"pid": pid}).encode())
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os._exit(0)


def _become(outputs: Sequence[int], arguments: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
    for output, number in zip(outputs, (1, 2), strict=True):
        os.dup2(output, number)
        os.close(output)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["aiwm", *arguments]


if __name__ == "__main__":
    _main(socket.socket(fileno=int(sys.argv[1])))
    from aiwm.cli.main import main

    main()
