"""Engines behind many workers: one looks after them, all serve from them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from engines import KIND, engines_of, nothing_left
from patience import PATIENCE, waited
from tiny_model import write_tiny_model
from workers import Workers

LEADER, OTHER = 1, 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    folder, data = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("aiwm")
    write_tiny_model(folder / "tiny.gguf")
    (folder / "engines.toml").write_text(KIND)
    gateway = Workers(
        data,
        AIWM_MODEL_PATHS=str(folder),
        AIWM_ENGINES_FILE=str(folder / "engines.toml"),
        AIWM_KEEP_ENGINES="false",
    )
    with nothing_left(data / "engines"), gateway:
        gateway.token = gateway.login().token
        yield gateway


def _models(gateway: Workers) -> Path:
    return Path(gateway.settings["AIWM_MODEL_PATHS"])


def _until(client: httpx2.Client, path: str, status: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while True:
        shown: dict[str, Any] = client.get(path).json()
        if shown["status"] == status:
            return shown
        assert time.monotonic() < deadline, shown
        time.sleep(0.05)


def _deployed(gateway: Workers, client: httpx2.Client, **fields: Any) -> str:
    model = {
        "name": "Tiny",
        "type": "llm",
        "deploymentType": "self-hosted",
        "repository": f"file://{_models(gateway) / 'tiny.gguf'}",
        "framework": "fake",
    }
    made = client.post("/models", json=model)
    assert made.status_code == 201, made.text
    _until(client, f"/models/{made.json()['_id']}", "active")
    deployed = client.post("/deployments", json={"name": "Tiny", "modelId": made.json()["_id"], **fields})
    assert deployed.status_code == 201, deployed.text
    _until(client, f"/deployments/{deployed.json()['_id']}", "running")
    return str(deployed.json()["_id"])


def _chat(client: httpx2.Client, deployment: str, **body: Any) -> httpx2.Response:
    body["messages"] = [{"role": "user", "content": "Hello"}]
    return client.post(f"/deployments/{deployment}/inference/v1/chat/completions", json=body)


def _clients(gateway: Workers) -> tuple[httpx2.Client, httpx2.Client]:
    return gateway.to(LEADER, gateway.token), gateway.to(OTHER, gateway.token)


def test_what_another_than_the_leader_is_asked_for_is_fetched_started_served_and_stopped(shared: Workers) -> None:
    leader, other = _clients(shared)
    deployment = _deployed(shared, other)
    waited(lambda: [_chat(each, deployment).status_code for each in (other, leader)] == [200, 200])
    assert "fake engine" in other.get(f"/deployments/{deployment}/logs").text
    assert other.post(f"/deployments/{deployment}/stop").json()["status"] == "stopping"
    assert [_chat(each, deployment).status_code for each in (leader, other)] == [400, 400]
    _until(other, f"/deployments/{deployment}", "stopped")
    assert engines_of(shared.folder / "engines") == []


def test_requests_of_all_workers_are_finished_before_their_engine_ends(shared: Workers) -> None:
    leader, other = _clients(shared)
    deployment = _deployed(shared, other)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(_chat, other, deployment, seconds=2)
        waited(lambda: "works for 2 seconds" in leader.get(f"/deployments/{deployment}/logs").text)
        assert leader.post(f"/deployments/{deployment}/stop").status_code == 200
        assert slow.result().status_code == 200
    _until(leader, f"/deployments/{deployment}", "stopped")


def test_an_engine_sleeps_when_no_worker_needs_it_and_any_of_them_wakes_it(shared: Workers) -> None:
    leader, other = _clients(shared)
    deployment = _deployed(shared, leader, idleTimeout=3)
    for _ in range(5):
        time.sleep(1)
        assert _chat(other, deployment).status_code == 200  # The leader has nothing to do with it.
    assert len(engines_of(shared.folder / "engines")) == 1
    waited(lambda: engines_of(shared.folder / "engines") == [])
    assert _chat(other, deployment).status_code == 200
    assert leader.post(f"/deployments/{deployment}/stop").status_code == 200
    _until(leader, f"/deployments/{deployment}", "stopped")


def test_others_serve_on_when_the_leader_dies_and_the_next_one_takes_the_engines_over(shared: Workers) -> None:
    _, other = _clients(shared)
    deployment = _deployed(shared, other)
    [engine] = engines_of(shared.folder / "engines")
    shared.kill(LEADER)
    for _ in range(20):
        assert _chat(other, deployment).status_code == 200
    leader, _ = _clients(shared)
    assert _chat(leader, deployment).status_code == 200
    assert engines_of(shared.folder / "engines") == [engine]
    assert other.post(f"/deployments/{deployment}/stop").status_code == 200
    _until(other, f"/deployments/{deployment}", "stopped")


def test_a_worker_that_is_new_knows_the_engines_that_run(shared: Workers) -> None:
    leader, other = _clients(shared)
    deployment = _deployed(shared, leader)
    shared.kill(OTHER)
    _, other = _clients(shared)
    assert _chat(other, deployment).status_code == 200
    assert other.post(f"/deployments/{deployment}/stop").status_code == 200
    _until(other, f"/deployments/{deployment}", "stopped")
