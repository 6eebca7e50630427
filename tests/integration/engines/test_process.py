"""One process, from its command to its last breath: real processes, the fake engine as the program."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import psutil
import pytest

from aiwm.engines.driver import EngineFailed, EngineName, EngineSpec
from aiwm.engines.process import ProcessDriver, ProcessEngine
from engines import nothing_left, processes_of, spec
from gateway import free_ports
from patience import PATIENCE, eventually

NAME = EngineName("a" * 24, 0, "b" * 24)


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    with nothing_left(tmp_path):
        yield tmp_path


@pytest.fixture
def driver(folder: Path) -> ProcessDriver:
    # One that the kernel chooses may be a caller's before the engine listens, and nobody starts another one here.
    return ProcessDriver(folder, {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}, port=lambda: free_ports(1)[0])


async def _answers(engine: ProcessEngine) -> bool:
    async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
        for _ in range(20 * int(PATIENCE)):
            try:
                return (await http.get(f"{engine.address}/health")).status_code == 200
            except httpx2.HTTPError:
                await asyncio.sleep(0.05)
    return False


def _all(folder: Path) -> list[Path]:
    return list(folder.rglob("*"))


def _record(folder: Path) -> Path:
    return next(folder.glob("*/*.json"))


async def test_an_engine_listens_on_the_loopback_in_a_session_of_its_own(driver: ProcessDriver) -> None:
    engine = await driver.start(NAME, spec())
    assert await _answers(engine)
    assert await engine.listens()
    assert os.getsid(engine.pid.number) == engine.pid.number
    open_ports = psutil.Process(engine.pid.number).net_connections("tcp")
    assert {each.laddr.ip for each in open_ports if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    await engine.stop(5)
    assert not engine.pid.alive


async def test_an_engine_sees_nothing_of_our_environment(
    driver: ProcessDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIWM_JWT_SECRET", "a secret")
    engine = await driver.start(NAME, spec())
    assert await _answers(engine)
    environment = psutil.Process(engine.pid.number).environ()
    assert set(environment) <= {"PATH", "LANG", "HOME", "FAKE_KEY", "ENGINE_OF_AIWM", "LC_CTYPE"}
    assert environment["FAKE_KEY"] == engine.key
    await engine.stop(5)


async def test_what_it_writes_is_kept_without_its_key(driver: ProcessDriver, folder: Path) -> None:
    engine = await driver.start(NAME, spec("--name=mistral"))
    assert await _answers(engine)
    said = "\n".join(engine.last_lines(5))
    assert "fake engine mistral with key … and variables" in said
    assert engine.key not in said
    await engine.stop(5)
    for path in _all(folder):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077 or path.parent == folder / "home", path


async def test_the_end_is_told_with_its_exit_code(driver: ProcessDriver) -> None:
    engine = await driver.start(NAME, spec("--broken"))
    assert await engine.ended() == "exit code 3"
    assert "CUDA out of memory, say" in engine.last_lines(3)[-1]
    await engine.stop(0)


async def test_an_end_by_signal_is_told_by_its_name(driver: ProcessDriver) -> None:
    engine = await driver.start(NAME, spec())
    engine.pid.kill()
    assert await engine.ended() == "ended by SIGKILL, as the system does it when memory runs out"
    await engine.stop(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process say it")
async def test_when_memory_runs_out_an_engine_goes_before_aiwm(driver: ProcessDriver) -> None:
    engine = await driver.start(NAME, spec())

    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert score(engine.pid.number) == 500 > score(os.getpid())
    await engine.stop(0)


async def test_a_process_deaf_to_sigterm_is_killed(driver: ProcessDriver) -> None:
    engine = await driver.start(NAME, spec("--deaf"))
    assert await _answers(engine)
    await engine.stop(0.2)
    assert not engine.pid.alive


@pytest.mark.parametrize("switch", ["--child", "--stray"])
async def test_what_an_engine_started_ends_with_it(driver: ProcessDriver, folder: Path, switch: str) -> None:
    engine = await driver.start(NAME, spec(switch))
    assert await _answers(engine)
    assert len(processes_of(folder)) == 2
    await engine.stop(5)
    assert processes_of(folder) == []


@pytest.mark.parametrize("switch", ["--child", "--stray"])
async def test_what_a_killed_engine_leaves_ends_when_it_is_stopped(
    driver: ProcessDriver, folder: Path, switch: str
) -> None:
    engine = await driver.start(NAME, spec(switch))
    assert await _answers(engine)
    engine.pid.kill()
    await engine.ended()
    assert len(processes_of(folder)) == 1
    await engine.stop(0)
    assert processes_of(folder) == []


async def test_a_program_that_is_not_there_is_told(driver: ProcessDriver, folder: Path) -> None:
    missing = EngineSpec(command=("no-such-engine",), ready_path="/", start_seconds=1, stop_seconds=1)
    with pytest.raises(EngineFailed, match="no-such-engine is not installed on this machine"):
        await driver.start(NAME, missing)
    assert await driver.found() == []


async def test_another_aiwm_takes_over_what_runs(driver: ProcessDriver, folder: Path) -> None:
    engine = await driver.start(NAME, spec())
    assert await _answers(engine)
    again = await ProcessDriver(folder, {}).found()
    assert [(each.name, each.key, each.address, each.fingerprint) for each in again] == [
        (NAME, engine.key, engine.address, engine.fingerprint)
    ]
    assert await again[0].listens()
    await again[0].stop(5)
    assert not engine.pid.alive
    assert await ProcessDriver(folder, {}).found() == []


async def test_a_number_that_another_process_has_now_is_not_taken_over(driver: ProcessDriver, folder: Path) -> None:
    engine = await driver.start(NAME, spec())
    assert await _answers(engine)
    record = _record(folder)
    record.write_text(record.read_text().replace(f'"pid":{engine.pid.number}', f'"pid":{os.getpid()}'))
    (found,) = await ProcessDriver(folder, {}).found()
    assert not found.pid.alive
    await found.stop(0)
    assert not engine.pid.alive, "it still carries the mark of its record"


async def test_what_was_started_in_the_moment_of_our_death_is_ended(driver: ProcessDriver, folder: Path) -> None:
    engine = await driver.start(NAME, spec("--stray"))
    assert await _answers(engine)
    record = _record(folder)
    record.write_text('{"port":1,"key":"k","fingerprint":"f"}')
    assert await ProcessDriver(folder, {}).found() == []
    await asyncio.wait_for(engine.ended(), PATIENCE)
    await eventually(lambda: processes_of(folder) == [])


async def test_a_model_called_like_a_word_of_ours_stays_what_it_is(driver: ProcessDriver) -> None:
    asked = spec("--name={name}")
    named = EngineSpec(
        command=asked.command, environment=asked.environment, words={**asked.words, "{name}": "{key}"},
        ready_path="/health", start_seconds=5, stop_seconds=5,
    )  # fmt: skip
    engine = await driver.start(NAME, named)
    assert await _answers(engine)
    assert any("fake engine {key} with" in line for line in engine.last_lines(5))
    await engine.stop(5)


async def test_folders_of_deployments_that_are_gone_are_cleared_away(driver: ProcessDriver, folder: Path) -> None:
    engine = await driver.start(NAME, spec())
    await engine.stop(0)
    await driver.sweep({NAME.deployment_id})
    assert (folder / NAME.deployment_id).exists()
    await driver.sweep(set())
    assert not (folder / NAME.deployment_id).exists()
