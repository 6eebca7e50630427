"""What is made of Ray's answers, without a cluster: a fake of its Jobs API at the seam of the HTTP client."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from aiwm.engines.driver import EngineFailed, EngineName
from aiwm.engines.ray import RayDriver
from engines import spec

NAME = EngineName("a" * 24, 0, "b" * 24)
MARK = "c" * 24
JOB = f"aiwm-{MARK}-{NAME.deployment_id}-0-{NAME.serial}"


class FakeRay:
    """Remembers its jobs, and what it was asked."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.asked: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        method, path = request.method, request.url.path
        if (method, path) == ("POST", "/api/jobs/"):
            given = json.loads(request.content)
            agent = "http://10.0.0.7:52365"
            self.jobs[given["submission_id"]] = given | {"status": "RUNNING", "driver_agent_http_address": agent}
            return httpx2.Response(200, json={"submission_id": given["submission_id"]})
        if path == "/api/jobs/":
            return httpx2.Response(200, json=list(self.jobs.values()))
        name, _, verb = path.removeprefix("/api/jobs/").partition("/")
        if name not in self.jobs:
            return httpx2.Response(404, text="Job does not exist")
        if verb == "stop":
            self.jobs[name]["status"] = "STOPPED"
            return httpx2.Response(200, json={"stopped": True})
        if verb == "logs":
            return httpx2.Response(200, json={"logs": "out of memory\n"})
        return httpx2.Response(200, json=self.jobs.pop(name) if method == "DELETE" else self.jobs[name])


def _driver(folder: Path, answer: Callable[[httpx2.Request], httpx2.Response]) -> RayDriver:
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    return RayDriver("http://head:8265/", token="t0ken", folder=folder, mark=MARK, http=http)


async def test_an_engine_is_a_job_with_what_it_needs(tmp_path: Path) -> None:
    ray = FakeRay()
    engine = await _driver(tmp_path, ray).start(NAME, spec("--name=a name; rm -rf ~"))
    assert ray.asked[0].headers["authorization"] == "Bearer t0ken"
    job = ray.jobs[JOB]
    assert job["entrypoint"].endswith("'--name=a name; rm -rf ~'")
    assert job["runtime_env"] == {"env_vars": {"FAKE_KEY": engine.key}}
    assert engine.key not in job["entrypoint"]


async def test_how_it_ended_is_told_with_its_last_words(tmp_path: Path) -> None:
    ray = FakeRay()
    engine = await _driver(tmp_path, ray).start(NAME, spec())
    ray.jobs[JOB] |= {"status": "FAILED", "message": "Job entrypoint command failed with exit code 1\nmore"}
    assert await engine.ended() == "Job entrypoint command failed with exit code 1"
    assert engine.address.startswith("http://10.0.0.7:")
    assert engine.last_lines(1) == ["out of memory"]
    await engine.stop(0)
    assert ray.jobs == {}
    assert await _driver(tmp_path, ray).found() == []


async def test_jobs_are_taken_over_and_unknown_ones_of_ours_are_ended(tmp_path: Path) -> None:
    ray = FakeRay()
    engine = await _driver(tmp_path, ray).start(NAME, spec())
    ray.jobs[f"aiwm-{MARK}-left"] = {"submission_id": f"aiwm-{MARK}-left", "status": "RUNNING"}
    ray.jobs["somebody-elses"] = {"submission_id": "somebody-elses", "status": "RUNNING"}
    [again] = await _driver(tmp_path, ray).found()
    assert (again.name, again.key, again.fingerprint) == (NAME, engine.key, engine.fingerprint)
    assert sorted(ray.jobs) == sorted([JOB, "somebody-elses"])


async def test_what_another_aiwm_left_of_a_deployment_is_ended(tmp_path: Path) -> None:
    ray = FakeRay()
    await _driver(tmp_path, ray).start(NAME, spec())
    left, other = (f"aiwm-{'d' * 24}-{deployment}-0-{'b' * 24}" for deployment in (NAME.deployment_id, "f" * 24))
    ray.jobs |= {name: {"submission_id": name, "status": "RUNNING"} for name in (left, other)}
    await _driver(tmp_path, ray).end_others(NAME.deployment_id)
    assert sorted(ray.jobs) == sorted([JOB, other])


async def test_an_engine_that_knows_no_key_does_not_run_among_neighbours(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="knows no keys"):
        await _driver(tmp_path, FakeRay()).start(NAME, replace(spec(), environment={}))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx2.Response(401, text="Unauthorized: give a token"), "Ray answers 401: Unauthorized: give a token"),
        (httpx2.Response(500, text="Traceback\nNo such resource"), "Ray answers 500: No such resource"),
        (httpx2.Response(200, text="<html>"), "What answers at http://head:8265 is not Ray"),
    ],
)
async def test_what_ray_refuses_is_told(tmp_path: Path, answer: httpx2.Response, said: str) -> None:
    driver = _driver(tmp_path, lambda _: answer)
    with pytest.raises(EngineFailed) as raised:
        await driver.ask("GET", "/api/jobs/")
    assert str(raised.value).startswith(said)


async def test_a_ray_that_is_not_there_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    def gone(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    with pytest.raises(EngineFailed, match="Ray at http://head:8265 does not answer"):
        await _driver(tmp_path, gone).nodes()


async def test_nodes_are_read_and_nonsense_is_told(tmp_path: Path) -> None:
    row = {
        "node_id": "e" * 56,
        "node_ip": "10.0.0.7",
        "node_name": "seven",
        "state": "DEAD",
        "resources_total": {"CPU": 4.0, "GPU": 2.0, "memory": 1e9},
        "labels": {"ray.io/accelerator-type": "L4"},
    }
    answer = {"data": {"result": {"result": [row]}}}
    [node] = await _driver(tmp_path, lambda _: httpx2.Response(200, json=answer)).nodes()
    assert (node.id, node.name, node.address, node.alive) == ("e" * 24, "seven", "10.0.0.7", False)
    assert (node.facts.cpus, [gpu.name for gpu in node.facts.gpus]) == (4, ["L4", "L4"])
    with pytest.raises(EngineFailed, match="another version"):
        await _driver(tmp_path, lambda _: httpx2.Response(200, json={"data": None})).nodes()
