"""Two AIWMs on one database, each with a data directory of its own as on two machines; and one of them is gone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aiwm.control.takeover import GONE_AFTER, LOST_AFTER
from engines import KIND, nothing_left, processes_of
from inside import Caller, Inside, inside
from patience import PATIENCE, eventually
from postgresql import PostgreSql


class Machines:
    """AIWMs on one database."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self._url = database_url
        self._stacks: dict[str, AsyncExitStack] = {}
        (folder / "engines.toml").write_text(KIND)
        (folder / "models").mkdir()
        (folder / "models" / "weights").write_bytes(b"0" * 1000)

    async def start(self, name: str) -> Inside:
        stack = self._stacks[name] = AsyncExitStack()
        settings = {"engines_file": self.folder / "engines.toml", "model_paths": (self.folder / "models",)}
        return await stack.enter_async_context(
            inside(self.folder / name, database_url=self._url, drain_seconds=1, hold_seconds=PATIENCE, **settings)
        )

    async def kill(self, machine: Inside, *, with_its_engines: bool = False) -> None:
        machine.program.hosting.stops_at_end = lambda: with_its_engines
        await self._stacks.pop(machine.folder.name).aclose()

    async def aclose(self) -> None:
        for stack in self._stacks.values():
            await stack.aclose()


@pytest.fixture(params=["sqlite", "postgresql"])
async def machines(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Machines]:
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path / 'shared.db'}"
    else:
        server: PostgreSql = request.getfixturevalue("postgresql")
        url = server.new_database()
    machines = Machines(tmp_path, url)
    with nothing_left(tmp_path / "one" / "engines"), nothing_left(tmp_path / "two" / "engines"):
        try:
            yield machines
        finally:
            await machines.aclose()


async def _model(machine: Inside, machines: Machines) -> dict[str, Any]:
    model = await _editor(machine).model(repository=f"file://{machines.folder}/models/weights", framework="fake")
    await _until(machine, f"/models/{model['_id']}", "active")
    return model


def _editor(machine: Inside) -> Caller:
    return machine.caller(user="e" * 24)


async def _until(machine: Inside, path: str, status: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        while True:
            shown: dict[str, Any] = (await _editor(machine)("GET", path)).json()
            if shown["status"] == status:
                return shown
            await asyncio.sleep(0.02)


async def _ask(machine: Inside, path: str) -> Any:
    return await _editor(machine)("POST", f"{path}/inference/v1/chat/completions", json={"messages": []})


async def _look(machine: Inside, times: int) -> None:
    """As it does every five seconds, and goes on doing beside this; the first time it only learns who there is."""
    for _ in range(times + 1):
        await machine.program.hosting.takeover.look()


@asynccontextmanager
async def _deployed(machines: Machines, **fields: Any) -> AsyncIterator[tuple[Inside, Inside, str]]:
    """A deployment that runs on the first of two machines."""
    one, two = await machines.start("one"), await machines.start("two")
    deployment = await _editor(one).deployment(await _model(one, machines), **fields)
    path = f"/deployments/{deployment['_id']}"
    await _until(one, path, "running")
    yield one, two, path


async def test_what_ran_on_a_machine_that_is_gone_runs_on_another(machines: Machines) -> None:
    async with _deployed(machines) as (one, two, path):
        await machines.kill(one)
        await _look(two, 1)
        assert (await _ask(two, path)).status_code != 200
        await _look(two, GONE_AFTER)
        assert (await _ask(two, path)).status_code == 200
        shown = await _until(two, path, "running")
        assert shown["nodeId"] == two.program.nodes.here.id
        assert processes_of(machines.folder / "two" / "engines") != []
        # It comes back, finds that it is not asked any more, and ends what it had left.
        one = await machines.start("one")
        await eventually(lambda: processes_of(machines.folder / "one" / "engines") == [])
        assert "runs on another machine" in (await _ask(one, path)).text
        assert (await _ask(two, path)).status_code == 200


async def test_what_must_be_on_its_machine_is_lost_with_it_and_comes_back_with_it(machines: Machines) -> None:
    one, two = await machines.start("one"), await machines.start("two")
    here = one.program.nodes.here
    deployment = await _editor(one).deployment(await _model(one, machines), nodeId=here.id)
    path = f"/deployments/{deployment['_id']}"
    await _until(one, path, "running")
    await machines.kill(one)
    await _look(two, GONE_AFTER)
    shown = await _until(two, path, "error")
    assert shown["errorMessage"] == (
        f'Its node "{here.name}" does not report any more, and it was made for that node. '
        "It starts again when the node is back."
    )
    assert shown["nodeId"] == here.id
    one = await machines.start("one")
    shown = await _until(one, path, "running")
    assert "errorMessage" not in shown
    assert (await _ask(one, path)).status_code == 200


async def test_what_fits_nowhere_else_is_lost_with_the_reason(machines: Machines) -> None:
    async with _deployed(machines) as (one, two, path):
        await machines.kill(one, with_its_engines=True)
        shutil.move(machines.folder / "models" / "weights", machines.folder / "away")
        await _look(two, GONE_AFTER)
        assert (await _editor(two)("GET", path)).json()["status"] == "running"
        await _look(two, LOST_AFTER - GONE_AFTER)
        shown = await _until(two, path, "error")
        assert 'and no other takes it: the files of model "Llama" are not on node "' in shown["errorMessage"]


async def test_what_was_about_to_stop_has_stopped(machines: Machines) -> None:
    async with _deployed(machines) as (one, two, path):
        await machines.kill(one, with_its_engines=True)
        assert (await _editor(two)("POST", f"{path}/stop")).json()["status"] == "stopping"
        await _look(two, GONE_AFTER)
        await _until(two, path, "stopped")
        # And since nobody chose its node, it starts on any.
        assert (await _editor(two)("POST", f"{path}/start")).status_code == 200
        await _until(two, path, "running")
        assert (await _ask(two, path)).status_code == 200


async def test_a_machine_that_reports_keeps_what_it_has(machines: Machines) -> None:
    async with _deployed(machines) as (one, two, path):
        node = one.program.nodes
        for _ in range(LOST_AFTER):
            await _look(two, 2)
            node.here = type(node.here)(**{name: getattr(node.here, name) for name in node.here.__slots__} | {
                "seen_at": node.here.seen_at + 1
            })  # fmt: skip
            await node.enroll()
        assert (await _ask(one, path)).status_code == 200
        assert (await _ask(two, path)).status_code != 200


async def test_what_another_aiwm_is_told_is_done(machines: Machines) -> None:
    async with _deployed(machines) as (one, two, path):
        refused = await _editor(two)("PUT", path, json={"replicas": 2})
        assert refused.json()["message"].endswith("belongs to another machine; ask the AIWM there")
        assert (await _editor(two)("GET", f"{path}/logs")).status_code == 400
        assert (await _editor(two)("POST", f"{path}/stop")).json()["status"] == "stopping"
        await _until(two, path, "stopped")
        assert processes_of(machines.folder / "one" / "engines") == []

        async def told() -> bool:
            return "Current status: stopped" in (await _ask(one, path)).text

        await eventually(told)
