"""Engines and the gateway killed at random, in whatever state they are: what is said of deployments stays true.

TEST_KILLS is the number of kills; a run of 500 takes about a quarter of an hour.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from engines import KIND, engines_of, nothing_left, processes_of
from gateway import Caller, Gateway

KILLS = int(os.environ.get("TEST_KILLS", "20"))
STUCK_SECONDS = 30.0
PASSING = {"queued", "deploying", "stopping"}


@dataclass
class Watch:
    """What is said of each deployment, and since when it has said the same."""

    since: dict[str, tuple[object, float]] = field(default_factory=dict)
    longest: float = 0

    def look(self, deployments: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        for shown in deployments:
            said = (shown["status"], shown.get("errorMessage"), shown["updatedAt"])
            before, since = self.since.get(shown["_id"], (None, now))
            if said != before:
                since = now
            self.since[shown["_id"]] = (said, since)
            if shown["status"] in PASSING:
                self.longest = max(self.longest, now - since)
                assert now - since < STUCK_SECONDS, shown


@pytest.mark.timeout(300 + 15 * KILLS)
def test_no_kill_leaves_a_lie_or_an_orphan(tmp_path: Path) -> None:
    (tmp_path / "engines.toml").write_text(KIND)
    (tmp_path / "weights").write_bytes(b"0" * 1000)
    data = tmp_path / "data"
    choice = random.Random(KILLS)
    watch, killed = Watch(), {"gateway": 0, "engine": 0}
    settings = {"AIWM_ENGINES_FILE": str(tmp_path / "engines.toml"), "AIWM_MODEL_PATHS": str(tmp_path)}
    with nothing_left(data / "engines"), Gateway(data, **settings) as gateway:
        admin = gateway.login()
        deployments = _deployed(admin, tmp_path / "weights")

        def kill_engine() -> None:
            if pids := processes_of(data / "engines"):
                killed["engine"] += 1
                _kill(choice.choice(pids))

        def kill_gateway() -> None:
            killed["gateway"] += 1
            gateway.stop(signal.SIGKILL)
            gateway.start()

        def ask_for_something() -> None:
            path = f"/deployments/{choice.choice(deployments)}"
            asked: list[Callable[[], httpx2.Response]] = [
                lambda: admin.http.post(f"{path}/stop"),
                lambda: admin.http.post(f"{path}/start"),
                lambda: admin.http.put(path, json={"replicas": choice.randint(1, 3)}),
                lambda: admin.http.put(path, json={"arguments": {"ctx-size": choice.randint(1, 10**6)}}),
                lambda: admin.http.put(path, json={"arguments": {"slow": 1}}),
            ]
            answer = choice.choice(asked)()
            assert answer.status_code < 500, answer.text

        while sum(killed.values()) < KILLS:
            choice.choices([kill_engine, kill_gateway, ask_for_something], [4, 1, 6])[0]()
            watch.look(_shown(admin))
            time.sleep(choice.random() * 0.3)

        # Left alone, each comes to what was asked of it last.
        deadline = time.monotonic() + STUCK_SECONDS
        while any(shown["status"] in PASSING for shown in _shown(admin)):
            assert time.monotonic() < deadline
            watch.look(_shown(admin))
            time.sleep(0.1)
        _eventually(lambda: all(_is_true(admin, shown) for shown in _shown(admin)))
        running = [shown for shown in _shown(admin) if shown["status"] == "running"]
        # One that was killed too often in a row rests for half a minute; its deployment says so.
        least = sum(1 if "errorMessage" in shown else shown["replicas"] for shown in running)
        most = sum(shown["replicas"] for shown in running)
        _eventually(lambda: least <= len(engines_of(data / "engines")) <= most)

        for shown in running:
            assert admin.http.post(f"/deployments/{shown['_id']}/stop").status_code == 200
        _eventually(lambda: not any(shown["status"] == "stopping" for shown in _shown(admin)))
        assert processes_of(data / "engines") == []
        assert list(data.glob("engines/*/*.json")) == []
        assert "Traceback" not in gateway.log
    print(f"\n{killed}, longest time in a passing state without progress {watch.longest:.1f} s")


def _deployed(admin: Caller, file: Path) -> list[str]:
    model = {"name": "Fake", "type": "llm", "deploymentType": "self-hosted", "framework": "fake"}
    made = admin.http.post("/models", json=model | {"repository": f"file://{file}"}).json()
    _eventually(lambda: admin.http.get(f"/models/{made['_id']}").json()["status"] == "active")
    bodies = [{"name": f"D{number}", "modelId": made["_id"], "replicas": number} for number in (1, 2)]
    return [str(admin.http.post("/deployments", json=body).json()["_id"]) for body in bodies]


def _shown(admin: Caller) -> list[dict[str, Any]]:
    answer = admin.http.get("/deployments?limit=100")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


def _is_true(admin: Caller, shown: dict[str, Any]) -> bool:
    """Whether it still is as it was said to be: an engine that was killed just before may be missed just behind it."""
    path = f"/deployments/{shown['_id']}"
    answer = admin.http.post(f"{path}/inference/v1/chat/completions", json={})
    if answer.status_code == (200 if shown["status"] == "running" else 400):
        return True
    now = admin.http.get(path).json()["status"]
    assert shown["status"] in PASSING or now != shown["status"], (shown, now, answer.text)
    return False


def _kill(pid: int) -> None:
    try:
        psutil.Process(pid).kill()
    except psutil.NoSuchProcess:
        return


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STUCK_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
