"""AIWMs that start fast: `python -m bench.forks` has imported the program, and forks for each one that is asked for.

What is forked is `aiwm serve`, from its first line on; only the second of CPU for its imports is saved. Each line that
it reads is `{"environment": {...}, "log": file}`, answered with the id of the new process, or is such an id: that
process is killed (SIGKILL), and the answer is how it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

from bench.imported import imported
from bench.processes import BenchError


class Forks:
    def __init__(self, asked: asyncio.StreamWriter, answers: asyncio.StreamReader) -> None:
        self._asked, self._answers = asked, answers
        self._asking = asyncio.Lock()

    async def start(self, environment: Mapping[str, str], log: Path) -> int:
        """The id of a new process."""
        return int(await self._answer({"environment": dict(environment), "log": str(log)}))

    async def kill(self, pid: int) -> int:
        """How it ended: -9 if it lived until now."""
        return int(await self._answer(pid))

    async def _answer(self, asked: object) -> Any:
        async with self._asking:
            self._asked.write(json.dumps(asked).encode() + b"\n")
            answer = await self._answers.readline()
        if not answer:
            raise BenchError("the process that AIWMs are forked from has ended; what it said is above")
        return json.loads(answer)


@contextlib.asynccontextmanager
async def forks() -> AsyncIterator[Forks]:
    """None of them is left when this ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-m", "bench.forks"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    asked, answers = cast("asyncio.StreamWriter", process.stdin), cast("asyncio.StreamReader", process.stdout)
    try:
        yield Forks(asked, answers)
    finally:
        asked.close()
        await process.wait()


def _main() -> None:
    imported()
    children: set[int] = set()
    # A person's Ctrl-C is for who started us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for line in sys.stdin:
            match json.loads(line):
                case {"environment": environment, "log": log}:
                    pid = os.fork()
                    if not pid:
                        _become(environment, log)
                    children.add(pid)
                    answer = pid
                case pid:
                    children.remove(pid)
                    answer = _killed(pid)
            print(answer, flush=True)
    finally:
        for pid in children:
            _killed(pid)


def _become(environment: Mapping[str, str], log: str) -> None:
    """`aiwm serve`. Does not return."""
    from aiwm.cli.serve import serve

    code = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (file, 1), (file, 2)):
            os.dup2(source, target)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(environment)
        serve(demo=False)
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as its parent
        traceback.print_exc()
    finally:
        os._exit(code)


def _killed(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    _main()
