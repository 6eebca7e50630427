"""Engines as jobs of a Ray cluster, by its Jobs REST API: Ray finds the node, and says when a node has died.

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/api.html

Every node must have the engine's program, and the model's files, where this machine has them. An engine here can be
reached by its neighbours, so only kinds that know keys are run. The key stands in the job's environment: who may ask
Ray about its jobs can read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2
import orjson

from aiwm.domain.nodes import Facts, Gpu, Readings
from aiwm.engines.driver import EngineFailed, EngineName, EngineSpec, write_record
from aiwm.engines.lines import Lines
from aiwm.logs import Log

_LOOK_SECONDS = 1.0
_SILENT_SECONDS = 60.0
"""How long Ray may not answer. Without its head a cluster is no more."""
_LOG_TURNS = 5
"""At which looks the log is fetched: Ray gives the whole each time."""
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_PORTS = range(20_000, 30_000)
"""Which of them are free on a node nobody here knows; an engine that finds its own taken ends, and gets another."""

_log = Log(__name__)


class RayNode(NamedTuple):
    id: str
    name: str
    address: str
    alive: bool
    facts: Facts
    readings: Readings


class RayEngine:
    def __init__(self, driver: RayDriver, name: EngineName, *, record: Path, port: int, key: str, fingerprint: str):
        self.name = name
        self.key = key
        self.fingerprint = fingerprint
        self.address = ""
        self._driver = driver
        self._record = record
        self._port = port
        self._lines = Lines(record.parent / f"{name.slot}.log", secret=key)
        self._written = 0
        self._lines.note("asks Ray for a place")

    @property
    def job(self) -> str:
        return _job(self._driver.mark, self.name)

    async def listens(self) -> bool:
        return True  # It answered, and the key was its own: Ray lets nobody look closer.

    async def ended(self) -> str:
        silent, turn = 0.0, 0
        while silent < _SILENT_SECONDS:
            try:
                facts = await self._driver.ask("GET", f"/api/jobs/{self.job}")
            except EngineFailed:
                silent += _LOOK_SECONDS
            else:
                silent = 0.0
                if facts is None:
                    return "Ray knows it no more"
                self._take(facts)
                turn += 1
                if facts["status"] in _ENDED or turn % _LOG_TURNS == 1:
                    await self._copy_log()
                if facts["status"] in _ENDED:
                    return str(facts.get("message") or facts["status"]).strip().splitlines()[0][:500]
            await asyncio.sleep(_LOOK_SECONDS)
        return "Ray does not answer"

    async def stop(self, seconds: float) -> None:
        # What Ray does not hear now it is told at the next start: the record stays until then.
        with contextlib.suppress(EngineFailed, TimeoutError):
            async with asyncio.timeout(max(seconds, 5.0) + _SILENT_SECONDS):
                await self._driver.stop_job(self.job)
                self._record.unlink(missing_ok=True)

    def last_lines(self, number: int) -> Sequence[str]:
        return self._lines.last(number)

    def _take(self, facts: Mapping[str, Any]) -> None:
        """Where it runs: the address of Ray's agent on that node is all that is said of it."""
        agent = facts.get("driver_agent_http_address")
        host = urlsplit(agent).hostname if agent else None
        if host:
            self.address = f"http://{host}:{self._port}"

    async def _copy_log(self) -> None:
        with contextlib.suppress(EngineFailed):
            answer = await self._driver.ask("GET", f"/api/jobs/{self.job}/logs")
            data = ((answer or {}).get("logs") or "").encode()
            if len(data) > self._written:
                self._lines.append(data[self._written :])
                self._written = len(data)
                self._lines.shorten()


class RayDriver:
    """`mark` tells the jobs of this AIWM from those of others on the same cluster."""

    def __init__(self, address: str, *, token: str, folder: Path, mark: str, http: httpx2.AsyncClient) -> None:
        self.mark = mark
        self._address = address.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._folder = folder
        self._http = http

    async def start(self, name: EngineName, spec: EngineSpec) -> RayEngine:
        port, key = random.choice(_PORTS), secrets.token_urlsafe(24)  # noqa: S311 - a port is no secret
        if not any("{key}" in value for value in spec.environment.values()):
            raise EngineFailed("It knows no keys, and on a cluster others could reach it: choose another framework.")
        command, environment = spec.run({"{host}": "0.0.0.0", "{port}": str(port), "{key}": key})
        folder = self._folder / name.deployment_id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = folder / f"{name.slot}-{name.serial}.ray"
        write_record(record, {"port": port, "key": key, "fingerprint": spec.fingerprint})
        # CUDA_VISIBLE_DEVICES is Ray's to set there.
        variables = {variable: value for variable, value in environment.items() if variable != "CUDA_VISIBLE_DEVICES"}
        job = {
            "entrypoint": shlex.join(command),
            "submission_id": _job(self.mark, name),
            "runtime_env": {"env_vars": variables},
            "entrypoint_num_cpus": max(spec.cpus, 1.0),
            "entrypoint_num_gpus": spec.gpus,
            "entrypoint_memory": spec.memory_bytes,
            "entrypoint_resources": {f"node:{spec.host}": 0.001} if spec.host else {},
        }
        engine = RayEngine(self, name, record=record, port=port, key=key, fingerprint=spec.fingerprint)
        try:
            await self.ask("POST", "/api/jobs/", json=job)
        except EngineFailed:
            await engine.stop(0)
            raise
        return engine

    async def found(self) -> Sequence[RayEngine]:
        engines = []
        for record in sorted(self._folder.glob("*/*-*.ray")):
            slot, _, serial = record.stem.partition("-")
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                name = EngineName(record.parent.name, int(slot), serial)
                facts = orjson.loads(record.read_bytes())
                port, key, fingerprint = facts["port"], facts["key"], facts["fingerprint"]
                engines.append(RayEngine(self, name, record=record, port=port, key=key, fingerprint=fingerprint))
        known = {engine.job for engine in engines}
        with contextlib.suppress(EngineFailed):
            for job in await self.ask("GET", "/api/jobs/") or ():
                name_of_job = str(job.get("submission_id") or "")
                if name_of_job.startswith(f"aiwm-{self.mark}-") and name_of_job not in known:
                    _log.warning("a job that nobody knows is ended", job=name_of_job)
                    await self.stop_job(name_of_job)
        return engines

    async def sweep(self, kept: Collection[str]) -> None:
        """The folders are those of `process`, which does it."""

    async def stop_job(self, job: str) -> None:
        """Returns when it has ended, and Ray has forgotten it."""
        while True:
            facts = await self.ask("GET", f"/api/jobs/{job}")
            if facts is None:
                return
            if facts["status"] in _ENDED:
                await self.ask("DELETE", f"/api/jobs/{job}")
                return
            await self.ask("POST", f"/api/jobs/{job}/stop")
            await asyncio.sleep(_LOOK_SECONDS / 2)

    async def end_others(self, deployment_id: str) -> None:
        """Ends what other AIWMs have left of this deployment. Raises EngineFailed."""
        for job in await self.ask("GET", "/api/jobs/") or ():
            name = str(job.get("submission_id") or "")
            if name.startswith("aiwm-") and f"-{deployment_id}-" in name and not name.startswith(f"aiwm-{self.mark}-"):
                await self.stop_job(name)

    async def nodes(self) -> Sequence[RayNode]:
        """Those that live, and those that have died lately."""
        answer = await self.ask("GET", "/api/v0/nodes?detail=1&limit=1000")
        try:
            return [_node(row) for row in answer["data"]["result"]["result"]]
        except (KeyError, TypeError, ValueError) as error:
            raise EngineFailed("Ray's list of its nodes can't be read: is it another version?") from error

    async def ask(self, method: str, path: str, **request: Any) -> Any:
        """The answer; None when there is no such thing. Raises EngineFailed when Ray refuses, or does not answer."""
        try:
            answer = await self._http.request(
                method, self._address + path, headers=self._headers, timeout=20, **request
            )
        except httpx2.HTTPError as error:
            raise EngineFailed(f"Ray at {self._address} does not answer ({type(error).__name__}).") from error
        if answer.status_code == 404:
            return None
        if answer.status_code >= 400:
            said = answer.text.strip().splitlines()
            raise EngineFailed(f"Ray answers {answer.status_code}: {said[-1][:300] if said else 'nothing'}")
        try:
            return orjson.loads(answer.content) if answer.content else None
        except ValueError as error:
            raise EngineFailed(f"What answers at {self._address} is not Ray.") from error


def _job(mark: str, name: EngineName) -> str:
    return f"aiwm-{mark}-{name.deployment_id}-{name.slot}-{name.serial}"


def _node(row: Mapping[str, Any]) -> RayNode:
    has: Mapping[str, float] = row.get("resources_total") or {}
    memory = int(has.get("memory", 0))
    labels: Mapping[str, str] = row.get("labels") or {}
    gpu = labels.get("ray.io/accelerator-type", "GPU")
    gpus = tuple(Gpu(index=index, name=gpu, memory_bytes=0) for index in range(int(has.get("GPU", 0))))
    facts = Facts(cpus=int(has.get("CPU", 0)), memory_bytes=memory, disk_bytes=0, gpus=gpus, system="Ray")
    readings = Readings(cpu_percent=0.0, memory_free_bytes=memory, disk_free_bytes=0)
    name, address = row.get("node_name") or row["node_ip"], row["node_ip"]
    return RayNode(row["node_id"][:24], name, address, row.get("state") == "ALIVE", facts, readings)
