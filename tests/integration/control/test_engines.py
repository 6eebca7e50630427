"""Self-hosted deployments from row to engine and back: the whole program, the fake engine as a kind of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from aiwm.engines.process import MARK
from engines import PROGRAM, nothing_left, processes_of
from inside import Caller, Inside, inside
from patience import PATIENCE, eventually
from postgresql import PostgreSql

KIND = f"""
[fake]
provider = "openai"
command = ["{sys.executable}", "{PROGRAM}", "--port={{port}}", "--name={{name}}"%s]
environment = {{ FAKE_KEY = "{{key}}" }}
start_seconds = %s
stop_seconds = 2.0

[fake.arguments.ctx-size]
type = "int"
flag = "--ctx-size"
least = 1
most = 100

[fake.arguments.slow]
type = "int"
flag = "--slow"
least = 0
most = 100

[fake.arguments.broken]
type = "bool"
flag = "--broken"

[fake.arguments.dies]
type = "int"
flag = "--dies"
least = 0
most = 100
"""


@asynccontextmanager
async def program(folder: Path, *, start_seconds: float = PATIENCE, **settings: Any) -> AsyncIterator[Inside]:
    (folder / "engines.toml").write_text(KIND % ("", float(start_seconds)))
    (folder / "weights").write_bytes(b"0" * 1000)
    given = {
        "engines_file": folder / "engines.toml",
        "model_paths": (folder,),
        "hold_seconds": PATIENCE,
        "drain_seconds": 5,
    }
    async with inside(folder / "data", **given | settings) as aiwm:
        yield aiwm


@pytest.fixture
async def aiwm(tmp_path: Path) -> AsyncIterator[Inside]:
    with nothing_left(tmp_path / "data" / "engines"):
        async with program(tmp_path) as running:
            yield running


@pytest.fixture
def editor(aiwm: Inside) -> Caller:
    return aiwm.caller(user="e" * 24)


async def until(caller: Caller, path: str, *statuses: str, also: Any = lambda shown: True) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        while True:
            shown: dict[str, Any] = (await caller("GET", path)).json()
            if shown["status"] in statuses and also(shown):
                return shown
            await asyncio.sleep(0.02)


async def deploy(aiwm: Inside, editor: Caller, **fields: Any) -> str:
    """The path of a new deployment of a new model."""
    model = await editor.model(repository=f"file://{aiwm.folder.parent}/weights", framework="fake")
    await until(editor, f"/models/{model['_id']}", "active")
    return f"/deployments/{(await editor.deployment(model, **fields))['_id']}"


async def ask(caller: Caller, path: str, **body: Any) -> httpx2.Response:
    return await caller("POST", f"{path}/inference/v1/chat/completions", json={"messages": [], **body})


def who(answer: httpx2.Response) -> int:
    """The process that answered."""
    assert answer.status_code == 200, answer.text
    return int(answer.json()["choices"][0]["message"]["content"].split()[1])


def engines(aiwm: Inside) -> list[int]:
    return processes_of(aiwm.folder / "engines")


async def test_it_starts_answers_and_stops(aiwm: Inside, editor: Caller) -> None:
    path = await deploy(aiwm, editor)
    shown = await until(editor, path, "running")
    assert "errorMessage" not in shown
    answer = await ask(editor, path)
    assert who(answer) in engines(aiwm)
    assert answer.json()["model"] == "weights"
    assert (await editor("GET", path)).json()["totalTokens"] == 10
    assert (await editor("POST", f"{path}/stop")).json()["status"] == "stopping"
    await until(editor, path, "stopped")
    assert engines(aiwm) == []

    async def told() -> bool:
        refused: str = (await ask(editor, path)).json()["message"]
        return refused == "Deployment is not running. Current status: stopped"

    await eventually(told)  # What is shown comes from the database, and requests are told a moment later.
    assert (await editor("POST", f"{path}/start")).json()["status"] == "queued"
    await until(editor, path, "running")
    assert who(await ask(editor, path)) in engines(aiwm)


async def test_a_request_waits_for_the_start(aiwm: Inside, editor: Caller) -> None:
    path = await deploy(aiwm, editor, arguments={"slow": 1})
    answers = await asyncio.gather(*(ask(editor, path) for _ in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20


async def test_what_never_starts_has_failed_with_its_last_words(aiwm: Inside, editor: Caller) -> None:
    path = await deploy(aiwm, editor, arguments={"broken": True})
    waiting = asyncio.create_task(ask(editor, path))
    shown = await until(editor, path, "deploying", also=lambda shown: "errorMessage" in shown)
    assert "CUDA out of memory" in shown["errorMessage"]
    shown = await until(editor, path, "failed")
    assert shown["errorMessage"].startswith("The engine ended before it was ready (exit code 3)")
    assert (await waiting).json()["message"] == "Deployment is not running. Current status: failed"
    assert engines(aiwm) == []
    log = (await editor("GET", f"{path}/logs")).text
    assert log.count("CUDA out of memory, say") == 3
    await editor("PUT", path, json={"arguments": {}})
    await editor("POST", f"{path}/start")
    await until(editor, path, "running")


async def test_a_start_can_be_cut_short(aiwm: Inside, editor: Caller) -> None:
    path = await deploy(aiwm, editor, arguments={"slow": 60})
    await until(editor, path, "deploying")
    assert (await editor("POST", f"{path}/stop")).status_code == 200
    await until(editor, path, "stopped")
    assert engines(aiwm) == []


async def test_an_engine_that_is_killed_is_started_again_and_no_request_fails(aiwm: Inside, editor: Caller) -> None:
    path = await deploy(aiwm, editor)
    first = who(await ask(editor, path))
    asked = [asyncio.create_task(ask(editor, path, seconds=2)) for _ in range(5)]
    await asyncio.sleep(0.5)
    psutil.Process(first).kill()
    answers = await asyncio.gather(*asked)
    assert {who(answer) for answer in answers} == set(engines(aiwm))
    assert first not in engines(aiwm)
    # Asked twice, and each answered once.
    assert (await editor("GET", path)).json()["requestCount"] == 6


async def test_two_replicas_share_and_one_stands_in_for_the_other(aiwm: Inside, editor: Caller) -> None:
    path = await deploy(aiwm, editor, replicas=2)
    await until(editor, path, "running")
    async with asyncio.timeout(PATIENCE):
        pids: set[int] = set()
        while len(pids) < 2:
            pids |= {who(answer) for answer in await asyncio.gather(*(ask(editor, path, seconds=0.05),) * 1,
                                                                    ask(editor, path, seconds=0.05))}  # fmt: skip
    psutil.Process(pids.pop()).kill()
    answers = await asyncio.gather(*(ask(editor, path) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}


async def test_a_change_rolls_over_without_a_lost_request(aiwm: Inside, editor: Caller) -> None:
    path = await deploy(aiwm, editor)
    before = who(await ask(editor, path))
    failed: list[int] = []
    seen: set[int] = set()
    done = asyncio.Event()

    async def keep_asking() -> None:
        while not done.is_set():
            answer = await ask(editor, path, seconds=0.02)
            if answer.status_code == 200:
                seen.add(who(answer))
            else:
                failed.append(answer.status_code)

    askers = [asyncio.create_task(keep_asking()) for _ in range(4)]
    assert (await editor("PUT", path, json={"arguments": {"ctx-size": 5}})).status_code == 200
    await eventually(lambda: before not in engines(aiwm))
    done.set()
    await asyncio.gather(*askers)
    assert failed == []
    assert len(seen) == 2
    assert (await until(editor, path, "running"))["arguments"] == {"ctx-size": 5}


async def test_a_change_that_is_taken_back_leaves_one_engine(aiwm: Inside, editor: Caller) -> None:
    path = await deploy(aiwm, editor)
    before = who(await ask(editor, path))
    for arguments in ({"slow": 1}, {"slow": 2}, {}):
        assert (await editor("PUT", path, json={"arguments": arguments})).status_code == 200
        await asyncio.sleep(0.3)
    await eventually(lambda: engines(aiwm) == [before])
    assert who(await ask(editor, path)) == before
    assert (await until(editor, path, "running"))["arguments"] == {}


async def test_a_change_that_does_not_start_leaves_the_old_one_at_work(aiwm: Inside, editor: Caller) -> None:
    path = await deploy(aiwm, editor)
    before = who(await ask(editor, path))
    await editor("PUT", path, json={"arguments": {"broken": True}})
    shown = await until(editor, path, "running", also=lambda shown: "errorMessage" in shown)
    assert "CUDA out of memory" in shown["errorMessage"]
    assert who(await ask(editor, path)) == before


async def test_an_idle_engine_sleeps_and_the_next_request_wakes_it(aiwm: Inside, editor: Caller) -> None:
    path = await deploy(aiwm, editor, idleTimeout=1)
    await until(editor, path, "running")
    await eventually(lambda: not engines(aiwm))
    assert (await editor("GET", path)).json()["status"] == "running"
    assert who(await ask(editor, path)) in engines(aiwm)


async def test_too_many_do_not_wait(tmp_path: Path) -> None:
    with nothing_left(tmp_path / "data" / "engines"):
        async with program(tmp_path, hold_requests=2, hold_seconds=1) as aiwm:
            editor = aiwm.caller()
            path = await deploy(aiwm, editor, arguments={"slow": 60})
            answers = await asyncio.gather(*(ask(editor, path) for _ in range(3)))
            assert [answer.status_code for answer in answers] == [503] * 3
            assert sum("wait for it already" in answer.text for answer in answers) == 1
            assert all(answer.headers["retry-after"] for answer in answers)


async def test_deployments_of_a_dead_aiwm_are_taken_over(tmp_path: Path) -> None:
    with nothing_left(tmp_path / "data" / "engines"):
        async with program(tmp_path) as aiwm:
            editor = aiwm.caller(user="e" * 24)
            path = await deploy(aiwm, editor)
            before = who(await ask(editor, path))
            aiwm.program.hosting.stops_at_end = lambda: False
        assert processes_of(tmp_path / "data" / "engines") == [before]
        async with program(tmp_path) as aiwm:
            assert who(await ask(aiwm.caller(user="e" * 24), path)) == before


async def test_a_deleted_deployment_leaves_nothing(aiwm: Inside, editor: Caller) -> None:
    path = await deploy(aiwm, editor)
    await until(editor, path, "running")
    assert (await editor("DELETE", path)).status_code == 409
    await editor("POST", f"{path}/stop")
    await until(editor, path, "stopped")
    assert (await editor("DELETE", path)).status_code == 200
    assert engines(aiwm) == []


async def test_an_engine_knows_nothing_of_aiwm(aiwm: Inside, editor: Caller) -> None:
    path = await deploy(aiwm, editor)
    environment = psutil.Process(who(await ask(editor, path))).environ()
    assert not [name for name in environment if name.startswith("AIWM_")]
    assert set(environment) <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "HOME", "FAKE_KEY", MARK}


async def test_on_postgresql_it_is_the_same(tmp_path: Path, postgresql: PostgreSql) -> None:
    with nothing_left(tmp_path / "data" / "engines"):
        async with program(tmp_path, database_url=postgresql.new_database()) as aiwm:
            editor = aiwm.caller(user="e" * 24)
            path = await deploy(aiwm, editor, arguments={"slow": 1}, replicas=2, idleTimeout=600)
            assert who(await ask(editor, path)) in engines(aiwm)
            assert (await until(editor, path, "running"))["replicas"] == 2
            await editor("POST", f"{path}/stop")
            await until(editor, path, "stopped")
            node = (await editor("GET", "/nodes")).json()["data"][0]
            given = {"name": "Small", "nodeId": node["_id"], "cpus": 0.5, "memoryBytes": 1 << 30}
            assert (await editor("POST", "/resources", json=given)).json()["cpus"] == 0.5
