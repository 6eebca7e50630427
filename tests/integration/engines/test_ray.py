"""A real Ray cluster of two nodes on this machine: an engine on it, and the node under it killed.

Ray is not among the locked dependencies: it is large, and AIWM itself does not use it. TEST_RAY names the `ray`
program of an environment that has `ray[default]`; without it these tests are skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from engines import KIND, PROGRAM
from gateway import free_ports
from inside import Caller, Inside, inside

RAY = os.environ.get("TEST_RAY", "")

pytestmark = [
    pytest.mark.skipif(not RAY, reason="TEST_RAY does not name a ray program"),
    pytest.mark.timeout(400),
]

PATIENCE = 120


@dataclass
class Cluster:
    """Each node has an address of the loopback. Engines can run on all but the head, which offers no processor."""

    folder: Path
    head: str = "127.0.0.21"
    ports: list[int] = field(default_factory=lambda: [port % 10_000 + 30_000 for port in free_ports(2)])

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ports[1]}"

    def start(self) -> None:
        self._ray(f"--node-ip-address={self.head}", "--head", f"--port={self.ports[0]}", "--num-cpus=0",
                  "--dashboard-host=127.0.0.1", f"--dashboard-port={self.ports[1]}",
                  f"--temp-dir={self.folder}")  # fmt: skip

    def add(self, address: str) -> None:
        [port] = free_ports(1)
        self._ray(f"--node-ip-address={address}", f"--address={self.head}:{self.ports[0]}", "--num-cpus=2",
                  f"--dashboard-agent-listen-port={port % 10_000 + 40_000}")  # fmt: skip

    def kill(self, address: str) -> None:
        """All at once, as if the machine had lost its power."""
        for process in self._processes():
            if f"={address}" in " ".join(process.cmdline()) and "raylet" in process.name():
                for child in [process, *process.children(recursive=True)]:
                    child.kill()

    def stop(self) -> None:
        for process in self._processes():
            for each in [*process.children(recursive=True), process]:
                try:
                    each.kill()
                except psutil.NoSuchProcess:
                    continue

    def _processes(self) -> list[psutil.Process]:
        """Of this cluster and no other."""
        found = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if str(self.folder) in line or f"{self.head}:{self.ports[0]}" in line:
                found.append(process)
        return [process for process in found if process.pid != os.getpid()]

    def _ray(self, *arguments: str) -> None:
        common = ["--num-gpus=0", "--object-store-memory=80000000", "--disable-usage-stats"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "RAY_USAGE_STATS_ENABLED": "0"}
        command = [RAY, "start", *arguments, *common]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # Ray's sockets have long names, and a socket's name may not be long.
    folder = Path(f"/tmp/aiwm-ray-{os.getpid()}")
    folder.mkdir()
    made = Cluster(folder)
    try:
        made.start()
        made.add("127.0.0.22")
        made.add("127.0.0.23")
        yield made
    finally:
        made.stop()
        subprocess.run(["rm", "-rf", str(folder)], check=True)


async def _until(caller: Caller, path: str, condition: Any) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while True:
        shown: dict[str, Any] = (await caller("GET", path)).json()
        if condition(shown):
            return shown
        assert time.monotonic() < deadline, json.dumps(shown)
        await asyncio.sleep(0.2)


async def _ask(caller: Caller, path: str) -> httpx2.Response:
    return await caller("POST", f"{path}/inference/v1/chat/completions", json={"messages": []})


def _engines() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(PROGRAM) in process.cmdline() and "--on-ray" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


async def _deployed(aiwm: Inside, editor: Caller, **fields: Any) -> str:
    model = await editor.model(repository=f"file://{aiwm.folder.parent}/weights", framework="fake")
    await _until(editor, f"/models/{model['_id']}", lambda shown: shown["status"] == "active")
    return f"/deployments/{(await editor.deployment(model, **fields))['_id']}"


async def test_an_engine_on_a_cluster_outlives_its_node(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "engines.toml").write_text(KIND.replace('"--child"', '"--on-ray", "--host={host}"'))
    (tmp_path / "weights").write_bytes(b"0" * 1000)
    given = {"engines_file": tmp_path / "engines.toml", "model_paths": (tmp_path,), "hold_seconds": 100}
    async with inside(tmp_path / "data", **given, ray_address=cluster.address) as aiwm:
        editor = aiwm.caller()
        nodes = await _until(editor, "/nodes?kind=ray", lambda shown: len(shown["data"]) == 3)
        assert {node["status"] for node in nodes["data"]} == {"online"}

        path = await _deployed(aiwm, editor)
        await _until(editor, path, lambda shown: shown["status"] == "running")
        assert (await _ask(editor, path)).json()["usage"]["total_tokens"] == 10
        [engine] = _engines()
        log = await _until_text(editor, f"{path}/logs", "fake engine")
        assert "with key … and" in log

        [record] = list((tmp_path / "data" / "engines").glob("*/*.ray"))
        job = f"aiwm-{aiwm.program.nodes.here.id}-{record.parent.name}-{record.stem}"
        async with httpx2.AsyncClient(timeout=PATIENCE) as http:
            agent = (await http.get(f"{cluster.address}/api/jobs/{job}")).json()["driver_agent_http_address"]
        victim = agent.split("//")[1].split(":")[0]
        cluster.kill(victim)
        engine.kill()
        waiting = asyncio.create_task(_ask(editor, path))
        await _until(
            editor,
            "/nodes?kind=ray",
            lambda shown: [node["name"] for node in shown["data"] if node["status"] == "offline"] == [victim],
        )
        assert (await waiting).status_code == 200
        assert (await _until(editor, path, lambda shown: shown["status"] == "running"))["status"] == "running"
        assert (await editor("POST", f"{path}/stop")).status_code == 200
        await _until(editor, path, lambda shown: shown["status"] == "stopped")
        assert _engines() == []


async def _until_text(caller: Caller, path: str, text: str) -> str:
    deadline = time.monotonic() + PATIENCE
    while True:
        shown = (await caller("GET", path)).text
        if text in shown:
            return str(shown)
        assert time.monotonic() < deadline, shown
        await asyncio.sleep(0.5)
