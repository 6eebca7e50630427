"""Self-hosted models while everything is killed at random: the gateway, an engine, a download, in any state.

After each kill nothing stays in a passing state without progress, what runs answers, what does not has no process, and
why something failed is said. TEST_KILLS is the number of kills, TEST_SEED repeats a run as far as chance goes.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from engines import nothing_left, processes_of
from gateway import Caller, Gateway
from hub import Hub, Repository
from patience import waited
from tiny_model import write_tiny_model

KILLS = int(os.environ.get("TEST_KILLS", "12"))
STANDSTILL_SECONDS = 30.0
"""How long nothing may move that is on its way somewhere."""
PASSING = {"queued", "downloading", "downloaded", "deploying", "stopping"}
MOST_RUNNING = 3
MOST_AT_REST = 20
"""Of those that are at rest so many are kept; all are looked at after each kill."""


class House:
    """A gateway, a hub, and whoever kills their processes. `chance` decides everything, so a seed tells the story."""

    def __init__(self, gateway: Gateway, hub: Hub, weights: bytes, chance: random.Random) -> None:
        self.gateway, self.hub, self.weights, self.chance = gateway, hub, weights, chance
        self.caller: Caller = gateway.login()
        self.story: list[str] = []

    def things(self, path: str) -> dict[str, dict[str, Any]]:
        answer = self.caller.http.get(path, params={"limit": 100})
        assert answer.status_code == 200, answer.text
        shown = answer.json()
        assert shown["pagination"]["total"] == len(shown["data"]), "there is more than was looked at"
        return {thing["_id"]: thing for thing in shown["data"]}

    # -- what is set in motion

    def move(self) -> None:
        """Something begins: a model to be fetched, an engine to start or to stop."""
        models, deployments = self.things("/models"), self.things("/deployments")
        running = [each for each in deployments.values() if each["status"] == "running"]
        idle = [each for each in deployments.values() if each["status"] not in {"running", *PASSING}]
        deployed = {each["modelId"] for each in deployments.values()}
        if len(idle) > MOST_AT_REST:
            self._delete(f"/deployments/{idle.pop(self.chance.randrange(len(idle)))['_id']}")
        fresh = [each for each in models.values() if each["status"] == "active" and each["_id"] not in deployed]
        if len(fresh) > MOST_AT_REST:
            self._delete(f"/models/{fresh.pop(self.chance.randrange(len(fresh)))['_id']}")
        moves = [self._register]
        if running:
            moves.append(lambda: self._post(f"/deployments/{self.chance.choice(running)['_id']}/stop"))
        if len(running) < MOST_RUNNING and idle:
            moves.append(lambda: self._post(f"/deployments/{self.chance.choice(idle)['_id']}/start"))
        if len(running) < MOST_RUNNING and fresh:
            body = {"name": "Tiny", "modelId": self.chance.choice(fresh)["_id"], "arguments": {"ctx-size": 256}}
            moves += [lambda: self._post("/deployments", body)] * 3
        self.chance.choice(moves)()

    def _register(self) -> None:
        name = f"org/tiny-{len(self.hub.repositories)}"
        # Other bytes, so that they have to be fetched: what stands behind the tensors is read by nobody.
        self.hub.repositories[name] = Repository({"tiny.gguf": self.weights + self.chance.randbytes(32)})
        fields = {"name": name, "type": "llm", "deploymentType": "self-hosted", "framework": "llamacpp"}
        self._post("/models", fields | {"repository": name})

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        self.story.append(f"POST {path}")
        answer = self.caller.http.post(path, json=body)
        assert answer.status_code < 300, (answer.text, self.story)

    def _delete(self, path: str) -> None:
        self.story.append(f"DELETE {path}")
        answer = self.caller.http.delete(path)
        assert answer.status_code == 200, (answer.text, self.story)

    # -- what is killed

    def kill(self) -> None:
        victims = [self._gateway]
        if engines := processes_of(self.gateway.folder / "engines"):
            victims += [lambda: self._process("engine", self.chance.choice(engines))] * 2
        if fetchers := self._fetchers():
            victims += [lambda: self._process("fetcher", fetchers[0])] * 4
        self.chance.choice(victims)()

    def _gateway(self) -> None:
        self.story.append("kill gateway")
        self.gateway.stop(signal.SIGKILL)
        time.sleep(self.chance.choice([0.0, 0.5]))  # Sometimes its engines have a while without it.
        self.gateway.start()

    def _process(self, what: str, pid: int) -> None:
        self.story.append(f"kill {what} {pid}")
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            self.story.append("it had ended")

    def _fetchers(self) -> list[int]:
        assert self.gateway.process is not None
        found = []
        for child in psutil.Process(self.gateway.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if "aiwm.files.fetcher" in child.cmdline():
                    found.append(child.pid)
        return found

    # -- what must be true

    def settle(self) -> None:
        """Waits until nothing is on its way; that it moves meanwhile is what is tested."""
        since, last = time.monotonic(), None
        while True:
            models, deployments = self.things("/models"), self.things("/deployments")
            moving = [each for each in (*models.values(), *deployments.values()) if each["status"] in PASSING]
            now = [(each["_id"], each["status"], each.get("download"), each["updatedAt"]) for each in moving]
            if not moving:
                break
            if now != last:
                since, last = time.monotonic(), now
            assert time.monotonic() - since < STANDSTILL_SECONDS, (now, self.story)
            time.sleep(0.05)
        for model in models.values():
            if model["status"] != "active":
                assert model["status"] == "download-failed", (model, self.story)
                assert "signal 9" in model["errorMessage"], (model, self.story)
                self._post(f"/models/{model['_id']}/download")
        if not all(self._is_true(deployment) for deployment in deployments.values()):
            # An engine that was killed just before the look, and missed just behind it.
            self.settle()
            return
        wanted = sum(deployment["status"] == "running" for deployment in deployments.values())
        deadline = time.monotonic() + STANDSTILL_SECONDS
        while len(self._sessions()) != wanted:
            assert time.monotonic() < deadline, (self._sessions(), wanted, self.story)
            time.sleep(0.05)

    def _is_true(self, deployment: Mapping[str, Any]) -> bool:
        """Whether it still is as it was said to be. What is said of it now must agree with what requests are told."""
        if deployment["status"] in {"failed", "error"}:
            assert deployment["errorMessage"], (deployment, self.story)
        if deployment["status"] == "running":
            path = f"/deployments/{deployment['_id']}"
            completion = partial(
                self.caller.http.post, f"{path}/inference/v1/completions", json={"prompt": "Hi", "max_tokens": 1}
            )
            answer = completion()
            if answer.status_code != 200:
                now = self.caller.http.get(path).json()["status"]
                assert now == "error", (now, answer.text, self.story)
                # What is shown comes from the database, and requests are told a moment later.
                waited(lambda: "Current status: error" in completion().text)
                return False
        return True

    def _sessions(self) -> set[int]:
        """Each engine is the head of one."""
        found = set()
        for pid in processes_of(self.gateway.folder / "engines"):
            try:
                found.add(os.getsid(pid))
            except ProcessLookupError:
                continue
        return found


@pytest.mark.timeout(300 + 60 * KILLS)
def test_nothing_is_left_hanging_whatever_is_killed(tmp_path: Path) -> None:
    seed = int(os.environ.get("TEST_SEED", random.randrange(10**6)))
    print("TEST_SEED", seed)
    chance = random.Random(seed)
    weights = write_tiny_model(tmp_path / "tiny.gguf").read_bytes()
    data = tmp_path / "data"
    with (
        Hub() as hub,
        nothing_left(data / "engines"),
        Gateway(data, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"), AIWM_KEEP_ENGINES="false") as gateway,
    ):
        hub.faults.bytes_per_second = 100_000
        house = House(gateway, hub, weights, chance)
        for _ in range(2):
            house.move()
        for _ in range(KILLS):
            for _ in range(chance.randint(1, 3)):
                house.move()
            time.sleep(chance.uniform(0, 2))
            house.kill()
            house.settle()
        print("\n".join(house.story))
