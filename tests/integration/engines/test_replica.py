"""One replica: kept running, started again, given up. Real processes; the fake engine as the program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from aiwm.engines.driver import EngineSpec
from aiwm.engines.process import ProcessDriver, ProcessEngine
from aiwm.engines.replica import Replica, State
from engines import nothing_left, spec
from gateway import free_ports
from patience import PATIENCE

ID = "a" * 24


class Watched:
    """A replica, and every state that it was in."""

    def __init__(self, folder: Path, http: httpx2.AsyncClient, **given: object) -> None:
        self.folder = folder
        self.http = http
        self.states: list[State] = []
        self._changed = asyncio.Event()
        # One that the kernel chooses may be a caller's before the engine listens, which shows in the states.
        self.driver = ProcessDriver(folder, {"PATH": "/usr/bin:/bin"}, port=lambda: free_ports(1)[0])

    def start(self, spec: EngineSpec, engine: ProcessEngine | None = None) -> Replica:
        self.replica = Replica(
            ID, 0, spec, driver=self.driver, http=self.http, changed=self._note, engine=engine, pauses=(0.05, 0.1)
        )
        return self.replica

    def _note(self) -> None:
        self.states.append(self.replica.state)
        self._changed.set()

    async def until(self, state: State) -> None:
        async with asyncio.timeout(PATIENCE):
            while not self.states or self.states[-1] is not state:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
        with nothing_left(tmp_path):
            made = Watched(tmp_path, http)
            yield made
            with contextlib.suppress(AttributeError):
                await made.replica.stop()


async def test_it_becomes_ready_and_stops(watched: Watched) -> None:
    replica = watched.start(spec("--slow=0.3"))
    await watched.until(State.READY)
    await replica.stop()
    assert watched.states == [State.READY, State.STOPPED]
    assert replica.engine is None


async def test_an_engine_that_dies_is_started_again(watched: Watched) -> None:
    replica = watched.start(spec())
    await watched.until(State.READY)
    first = replica.engine
    assert isinstance(first, ProcessEngine)
    first.pid.kill()
    await watched.until(State.STARTING)
    await watched.until(State.READY)
    assert watched.states == [State.READY, State.PAUSING, State.STARTING, State.READY]
    assert replica.reason is not None
    assert "ended by itself (ended by SIGKILL, " in replica.reason


async def test_an_engine_that_never_gets_ready_is_given_up_with_its_last_words(watched: Watched) -> None:
    replica = watched.start(spec("--broken"))
    await watched.until(State.GIVEN_UP)
    assert watched.states.count(State.PAUSING) == 3
    assert replica.reason is not None
    assert replica.reason.startswith("The engine ended before it was ready (exit code 3). It said last: ")
    assert replica.reason.endswith("CUDA out of memory, say")


async def test_a_start_has_a_deadline(watched: Watched) -> None:
    replica = watched.start(spec("--slow=60", start_seconds=0.3))
    await watched.until(State.GIVEN_UP)
    assert replica.reason is not None
    assert "was not ready after 0.3 s" in replica.reason


async def test_a_stop_in_the_middle_of_a_long_load_comes_back_at_once(watched: Watched) -> None:
    replica = watched.start(spec("--slow=60"))
    await asyncio.sleep(0.3)
    # Half a minute is less than the load, and more than a machine that is busy needs.
    async with asyncio.timeout(PATIENCE):
        await replica.stop()


async def test_a_stop_in_the_pause_before_a_start_starts_nothing(watched: Watched) -> None:
    replica = watched.start(spec("--broken"))
    await watched.until(State.PAUSING)
    await replica.stop()
    assert replica.state is State.STOPPED


async def test_who_leaves_it_running_can_take_it_over(watched: Watched) -> None:
    replica = watched.start(spec())
    await watched.until(State.READY)
    await replica.leave()
    (engine,) = await watched.driver.found()
    watched.states.clear()
    watched.start(spec(), engine)
    await watched.until(State.READY)
    assert watched.replica.engine is engine


async def test_another_program_at_the_port_is_not_taken_for_the_engine(watched: Watched) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port: int = other.sockets[0].getsockname()[1]
        watched.driver = ProcessDriver(watched.folder, {"PATH": "/usr/bin:/bin"}, port=lambda: port)
        watched.start(EngineSpec(command=("sleep", "60"), ready_path="/health", start_seconds=1, stop_seconds=1))
        await watched.until(State.PAUSING)
        await watched.replica.stop()
    assert State.READY not in watched.states
