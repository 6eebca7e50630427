"""Engines as processes of this machine: each the leader of a session of its own, listening on the loopback.

An engine gets neither AIWM's environment nor its files, and does not die with it: what is needed to take it over again
stands in `<deployment>/<slot>-<serial>.json`, written before the engine begins. The mark in its environment finds
what an AIWM that was killed at that very moment has left, and what an engine started outside of its group.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import orjson

from aiwm.engines import pids
from aiwm.engines.driver import EngineFailed, EngineName, EngineSpec, filled, recorded_key, write_record
from aiwm.engines.kinds import EngineKind
from aiwm.engines.lines import Lines
from aiwm.engines.pids import Pid
from aiwm.logs import Log

HOST = "127.0.0.1"
MARK = "ENGINE_OF_AIWM"
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "ROCM_PATH")
"""What an engine sees of the server's environment."""

_log = Log(__name__)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


class ProcessEngine:
    def __init__(
        self, name: EngineName, pid: Pid, *, record: Path, lines: Lines, port: int, key: str, fingerprint: str
    ):
        self.name = name
        self.pid = pid
        self.key = key
        self.fingerprint = fingerprint
        self.address = f"http://{HOST}:{port}"
        self._port = port
        self._record = record
        self._lines = lines

    async def listens(self) -> bool:
        return await asyncio.to_thread(pids.listening, self.pid, self._port)

    async def ended(self) -> str:
        return await self.pid.ended()

    async def stop(self, seconds: float) -> None:
        await pids.end(self.pid, seconds)
        # Some engines start others outside of their group. The mark is lost where a program renames itself, so those
        # that were children at the beginning are looked after by `end`.
        for stray, mark in await asyncio.to_thread(pids.marks, MARK):
            if mark == self._mark:
                await pids.end(stray, 0)
        self._record.unlink(missing_ok=True)

    def last_lines(self, number: int) -> Sequence[str]:
        return self._lines.last(number)

    @property
    def _mark(self) -> str:
        return f"{self._record.parent.parent}:{self.name.serial}"


class ProcessDriver:
    """`folder` is AIWM's alone, and no other AIWM's at the same time. `environment` is what engines see of ours."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *, port: Callable[[], int] = free_port) -> None:
        self._folder = folder
        self._port = port
        self._environment = dict(environment)

    @property
    def path(self) -> str:
        """Where programs are looked for."""
        return self._environment.get("PATH", "")

    def lines(self, deployment_id: str, slot: int, *, secret: str = "") -> Lines:
        return Lines(self._folder / deployment_id / f"{slot}.log", secret=secret)

    def slots(self, deployment_id: str) -> Sequence[int]:
        """The replicas that have ever written something."""
        return sorted(int(path.stem) for path in (self._folder / deployment_id).glob("*.log"))

    def keys(self, deployment_id: str) -> Sequence[str]:
        """Those of its engines that run, here or on a cluster."""
        return [key for path in (self._folder / deployment_id).glob("*-*.*") if (key := recorded_key(path))]

    async def start(self, name: EngineName, spec: EngineSpec) -> ProcessEngine:
        try:
            # Here and not in a thread: a start that is cancelled must not go on unseen. It takes a millisecond or two.
            return self._start(name, spec)
        except OSError as error:
            raise EngineFailed(f"it can't be started: {error.strerror or error}") from error

    def _start(self, name: EngineName, spec: EngineSpec) -> ProcessEngine:
        folder = self._folder / name.deployment_id
        home = self._folder / "home"
        for each in (folder, home):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        port, key = self._port(), secrets.token_urlsafe(24)
        (program, *arguments), own = spec.run({"{host}": HOST, "{port}": str(port), "{key}": key})
        environment = {**self._environment, "HOME": str(home), **own, MARK: f"{self._folder}:{name.serial}"}
        lines = self.lines(name.deployment_id, name.slot, secret=key)
        lines.shorten()
        lines.note(f"starts {Path(program).name}")
        record = folder / f"{name.slot}-{name.serial}.json"
        facts = {"port": port, "key": key, "fingerprint": spec.fingerprint}
        write_record(record, facts)
        try:
            with (folder / f"{name.slot}.log").open("ab") as output:
                process = subprocess.Popen(  # noqa: S603 - the command is the engine file's, never a caller's
                    [found_program(program, self.path), *arguments],
                    env=environment,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError:
            record.unlink(missing_ok=True)
            raise
        _first_to_go(process.pid)
        # It is watched by its number from here on, and outlives this object: Popen must not wait for it.
        process.returncode = 0
        pid = Pid.of(process.pid) or Pid(process.pid, "")
        write_record(record, facts | {"pid": pid.number, "began": pid.began})
        return ProcessEngine(name, pid, record=record, lines=lines, port=port, key=key, fingerprint=spec.fingerprint)

    async def found(self) -> Sequence[ProcessEngine]:
        engines = []
        for record in sorted(self._folder.glob("*/*-*.json")):
            engine = self._recorded(record)
            if engine is not None:
                engines.append(engine)
            else:
                record.unlink(missing_ok=True)
        await asyncio.to_thread(self._end_strays, engines)
        return engines

    def _recorded(self, record: Path) -> ProcessEngine | None:
        slot, _, serial = record.stem.partition("-")
        try:
            name = EngineName(record.parent.name, int(slot), serial)
            facts = orjson.loads(record.read_bytes())
            pid = Pid(facts["pid"], facts["began"])
            port, key, fingerprint = facts["port"], facts["key"], facts["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        # A dead one may have left some of its family: who takes it over finds it ended, and stops what is left.
        lines = self.lines(name.deployment_id, name.slot, secret=key)
        return ProcessEngine(name, pid, record=record, lines=lines, port=port, key=key, fingerprint=fingerprint)

    def _end_strays(self, engines: Sequence[ProcessEngine]) -> None:
        known = {f"{self._folder}:{engine.name.serial}" for engine in engines}
        for pid, mark in pids.marks(MARK):
            if mark.startswith(f"{self._folder}:") and mark not in known:
                _log.warning("a process that an engine left behind is ended", pid=pid.number)
                pid.kill()

    async def sweep(self, kept: Collection[str]) -> None:
        for folder in self._folder.glob("*/"):
            if folder.name != "home" and folder.name not in kept:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _first_to_go(pid: int) -> None:
    """When memory runs out the system shall end the engine, which is started again, and not AIWM or a neighbour."""
    with contextlib.suppress(OSError):  # Only Linux has it.
        Path(f"/proc/{pid}/oom_score_adj").write_text("500")


def found_program(program: str, path: str) -> str:
    """Where it is: beside our own Python first, as a virtual environment has it."""
    own = str(Path(sys.executable).parent)
    found = shutil.which(program, path=os.pathsep.join([own, path]))
    if found is None:
        raise FileNotFoundError(None, f"{program} is not installed on this machine")
    return found


def installed(kind: EngineKind, path: str) -> bool:
    """Whether its program is there. That it works is another question."""
    if kind.module and importlib.util.find_spec(kind.module) is None:
        return False
    try:
        found_program(filled(kind.command[0], {"{python}": sys.executable}), path)
    except FileNotFoundError:
        return False
    return True
