"""workers/parent.py with small workers of its own: who is started, when, and who gets connections meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from aiwm.errors import StartError
from aiwm.listeners import bind
from aiwm.workers.line import Line
from aiwm.workers.parent import Parent, _Worker
from patience import PATIENCE, eventually

TESTS = Path(__file__).parents[2]


class House:
    """A parent at work, and how to reach its workers."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        self.listener = bind("127.0.0.1", 0, "AIWM_PORT")
        self.port: int = self.listener.getsockname()[1]
        parent = Parent({"gateway": self.listener}, workers=workers, module="fake_worker", demo=False)
        self.running = asyncio.create_task(parent.run())

    async def who(self) -> tuple[int, int]:
        """The number and the process of the worker that gets a connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            number, pid = (await reader.read()).split()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        return int(number), int(pid)

    async def all_of(self, connections: int = 60) -> dict[int, int]:
        return dict(await asyncio.gather(*(self.who() for _ in range(connections))))

    async def ready(self, *numbers: int) -> None:
        await eventually(lambda: all((self._folder / f"ready-{number}").exists() for number in numbers))

    def kill(self, number: int) -> int:
        ready = self._folder / f"ready-{number}"
        pid = int(ready.read_text())
        ready.unlink()
        os.kill(pid, signal.SIGKILL)
        return pid

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if not self.running.done():
            os.kill(os.getpid(), number)
        async with asyncio.timeout(PATIENCE):
            return await self.running


@asynccontextmanager
async def house(folder: Path, workers: int = 2) -> AsyncIterator[House]:
    house = House(folder, workers)
    try:
        yield house
    finally:
        await house.stop()


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FOLDER", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))


async def test_each_worker_gets_its_share_and_nobody_else_the_port(tmp_path: Path) -> None:
    async with house(tmp_path, 3) as running:
        await running.ready(1, 2, 3)
        assert set(await running.all_of(120)) == {1, 2, 3}
        with pytest.raises(StartError, match="is taken"):
            bind("127.0.0.1", running.port, "AIWM_PORT")


async def test_connections_of_a_worker_that_dies_wait_for_the_next_one(tmp_path: Path) -> None:
    async with house(tmp_path) as running:
        await running.ready(1, 2)
        dead = running.kill(2)
        answered = await running.all_of()
        assert set(answered) == {1, 2}
        assert dead not in answered.values()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_is_passed_on_once_and_all_come_to_their_end(tmp_path: Path, number: signal.Signals) -> None:
    async with house(tmp_path) as running:
        await running.ready(1, 2)
        assert await running.stop(number) == 0
    assert [(tmp_path / f"signals-{each}").read_text() for each in (1, 2)] == [number.name] * 2


async def test_who_comes_while_the_last_answers_are_given_is_refused_at_once(tmp_path: Path) -> None:
    async with house(tmp_path) as running:
        await running.ready(1, 2)
        (tmp_path / "answers-2").touch()
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await eventually(lambda: refused(running.port))
            assert not running.running.done()
        finally:
            (tmp_path / "answers-2").unlink()
        assert await running.stop() == 0


async def refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def test_the_others_start_after_the_first_one_and_not_at_all_when_it_does_not(tmp_path: Path) -> None:
    (tmp_path / "fails-1").write_text("2")
    async with house(tmp_path) as running:
        async with asyncio.timeout(PATIENCE):
            assert await running.running == 2
    assert not (tmp_path / "ready-2").exists()


async def test_one_that_never_started_ends_them_all_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "fails-2").write_text("3")
    async with house(tmp_path) as running:
        async with asyncio.timeout(PATIENCE):
            assert await running.running == 3
    assert (tmp_path / "signals-1").read_text() == "SIGTERM"


async def test_one_that_does_not_come_back_is_tried_again_while_others_take_its_connections(tmp_path: Path) -> None:
    async with house(tmp_path) as running:
        await running.ready(1, 2)
        (tmp_path / "fails-2").write_text("2")
        running.kill(2)
        tried = asyncio.create_task(running.who())
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    found = await asyncio.wait_for(running.all_of(), 1)
                except (TimeoutError, OSError, ValueError):
                    continue  # Some were on their way to it.
                if set(found) == {1}:
                    break
        (tmp_path / "fails-2").unlink()
        await running.ready(2)
        assert set(await running.all_of()) == {1, 2}
        await asyncio.gather(tried, return_exceptions=True)


async def test_when_nobody_serves_any_more_a_worker_that_does_not_start_ends_the_program(tmp_path: Path) -> None:
    async with house(tmp_path) as running:
        await running.ready(1, 2)
        for number in (1, 2):
            (tmp_path / f"fails-{number}").write_text("2")
        running.kill(1)
        running.kill(2)
        async with asyncio.timeout(PATIENCE):
            assert await running.running == 2


async def test_a_signal_that_comes_as_a_worker_ends_does_not_take_its_exit_code_away() -> None:
    for _ in range(10):
        process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "raise SystemExit(3)")
        worker = _Worker(process, Line({}))
        waiting = asyncio.create_task(process.wait())
        async with asyncio.timeout(PATIENCE):
            while not waiting.done():
                worker.send(signal.SIGCONT)
                await asyncio.sleep(0)
        assert await waiting == 3
