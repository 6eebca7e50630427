"""AIWM as a user runs it: a process of its own, with its own data directory, on free ports."""

from __future__ import annotations

import itertools
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

import forks
import planted
from patience import PATIENCE

ADMIN_PASSWORD = planted.PASSWORD

get, post = partial(httpx2.get, timeout=PATIENCE), partial(httpx2.post, timeout=PATIENCE)
"""The library itself loses patience after five seconds."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A user who is logged in, and what it calls with."""

    token: str
    user: Mapping[str, Any]
    http: httpx2.Client
    """Sends the token to AIWM's port."""


class Gateway:
    """`aiwm serve` with arguments and settings; ready when entered, stopped by SIGTERM when left.

    Everything it ever wrote to its outputs is in `output` and `log`.
    """

    def __init__(self, folder: Path, *arguments: str, **settings: str) -> None:
        self.folder = folder
        self.port, self.iam_port, self.simulator_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.port}"
        self.iam_url = f"http://127.0.0.1:{self.iam_port}"
        self._arguments = arguments
        self._settings = settings
        self.process: forks.Fork | subprocess.Popen[bytes] | None = None
        self.output = self.log = ""
        self._callers: list[httpx2.Client] = []

    @property
    def pids(self) -> list[int]:
        """The processes that serve."""
        assert self.process is not None
        return [self.process.pid]

    def start(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")}
        environment |= {
            "AIWM_DATA_DIR": str(self.folder),
            "AIWM_PORT": str(self.port),
            "AIWM_IAM_PORT": str(self.iam_port),
            "AIWM_SIMULATOR_PORT": str(self.simulator_port),
            "AIWM_ADMIN_PASSWORD": ADMIN_PASSWORD,
            **self._settings,
        }
        environment = {name: value for name, value in environment.items() if value or name not in self._settings}
        self.process = self._started(["serve", *self._arguments], environment)
        self._ready: queue.Queue[bool] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, "output"), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, "log"), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            assert self._ready.get(timeout=PATIENCE), "it ended"
            self._wait_until_it_listens()
        except (queue.Empty, AssertionError) as error:
            self.stop(signal.SIGKILL)
            raise AssertionError(f"AIWM did not start: {self.log}") from error
        return self

    def _started(
        self, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> forks.Fork | subprocess.Popen[bytes]:
        return forks.start(arguments, environment)

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE).close()
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return

    def _read(self, stream: Any, name: str) -> None:
        for line in stream:
            setattr(self, name, getattr(self, name) + line.decode())
            if name == "output" and b"Ctrl-C stops it" in line:
                self._ready.put(True)
        if name == "output":
            self._ready.put(False)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        planted.keep(f"{self.port}-{self.process.pid}", "log", self.log)
        planted.keep(f"{self.port}-{self.process.pid}", "output", self.output)
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for caller in self._callers:
            caller.close()
        self.stop()

    def login(self, username: str = "admin", password: str = ADMIN_PASSWORD) -> Caller:
        answer = post(f"{self.iam_url}/auth/login", json={"username": username, "password": password})
        assert answer.status_code == 200, answer.text
        token = answer.json()["accessToken"]
        http = httpx2.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {token}"},
            timeout=PATIENCE,
            event_hooks={"response": [_seen]},
        )
        self._callers.append(http)
        return Caller(token, answer.json()["user"], http)

    def new_tenant(self, name: str) -> Caller:
        """Another organization, and its owner logged in."""
        admin = self.login()
        headers = {"authorization": f"Bearer {admin.token}"}
        made = post(f"{self.iam_url}/organizations", json={"name": name}, headers=headers)
        assert made.status_code == 201, made.text
        owner = {
            "username": f"{name}-owner",
            "password": ADMIN_PASSWORD,
            "roles": ["organization.owner"],
            "orgId": made.json()["_id"],
        }
        added = post(f"{self.iam_url}/users", json=owner, headers=headers)
        assert added.status_code == 201, added.text
        return self.login(owner["username"])

    def deploy(
        self,
        caller: Caller,
        provider: str,
        endpoint: str,
        *,
        model: str = "a-model",
        config: Mapping[str, str] | None = None,
        **deployment: Any,
    ) -> str:
        """Registers a model at `endpoint` and deploys it; the id of the deployment."""
        made = caller.http.post(
            "/models",
            json={
                "name": f"{provider} model",
                "type": "llm",
                "deploymentType": "api-based",
                "provider": provider,
                "apiEndpoint": endpoint,
                "modelIdentifier": model,
                "apiConfig": dict(config or {"apiKey": planted.PROVIDER_KEY}),
            },
        )
        assert made.status_code == 201, made.text
        deployed = caller.http.post(
            "/deployments", json={"name": f"{provider} deployment", "modelId": made.json()["_id"], **deployment}
        )
        assert deployed.status_code == 201, deployed.text
        return str(deployed.json()["_id"])

    def inference(self, deployment_id: str) -> str:
        """The base URL of a deployment."""
        return f"{self.url}/deployments/{deployment_id}/inference"


class TypedGateway(Gateway):
    """The same, loaded from its first import on as by who types the command."""

    def _started(self, arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "aiwm", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def _seen(answer: httpx2.Response) -> None:
    planted.saw(f"{answer.request.method} {answer.request.url.path}", str(answer.headers.raw).encode())
    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
        # A stream is read by its test as it comes.
        planted.saw(f"{answer.request.method} {answer.request.url.path}", answer.read())


_number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_ports = itertools.cycle(range(10_000 + _number, 21_000, _processes))
"""Below those that the kernel gives to who does not ask for one: none of them is taken before it is listened on, nor
while the program that has it is started again. Of the processes of one run each has ports of its own."""
for _ in range(os.getpid() * 199 % 11_000):  # Runs at the same time begin at other places.
    next(_ports)


def free_ports(number: int) -> list[int]:
    """Each port is given once."""
    free: list[int] = []
    while len(free) < number:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", next(_ports)))
            free.append(probe.getsockname()[1])
    return free


def secrets_in(text: str, *secrets: str) -> list[str]:
    """Which of the planted secrets stand in a text."""
    return [secret for secret in secrets if re.search(re.escape(secret), text)]
