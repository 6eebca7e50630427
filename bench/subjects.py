"""What requests are sent to, AIWM among them, and the providers behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from bench import exchanges
from bench.processes import Child, free_ports, surroundings

_SERVE = (str(Path(sys.executable).with_name("aiwm")), "serve")
_PASSWORD = "correct horse battery"  # noqa: S105 - of a gateway that lives for minutes, on loopback


class Subject(Protocol):
    """Something to send requests to. A provider's path is put behind `base`, which leads to the provider of one answer,
    or behind `streams` or `bodies`, which lead to the one that answers as it is asked."""

    name: str
    port: int
    base: str
    streams: str
    bodies: str
    child: Child

    def start(self) -> float:
        """Seconds from the start of the process to its first answer of a provider."""
        ...

    def headers(self, *, streamed: bool) -> dict[str, str]:
        """What it wants besides those that all are sent."""
        ...


class Provider(Protocol):
    kind: str
    port: int
    child: Child

    def start(self) -> None: ...


class Asked:
    """A provider that answers as it is asked: the stand-in, or AIWM's simulator."""

    def __init__(self, kind: str, folder: Path, *, core: int) -> None:
        self.kind = kind
        (self.port,) = free_ports(1)
        command = {
            "stand-in": [sys.executable, "-m", "bench.provider", str(self.port)],
            "simulator": [sys.executable, "-m", "aiwm", "simulate", "--port", str(self.port)],
        }[kind]
        self.child = Child("the provider", command, cores={core}, output=folder / "provider.log", env=surroundings({}))

    def start(self) -> None:
        self.child.start()
        answering(self.child, self.port, exchanges.CHAT_PATH, exchanges.headers("sk-bench"))

    def reached(self) -> bytes:
        """How often it was asked each number (the stand-in only)."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/reached", timeout=30) as answer:
            return bytes(answer.read())


class Gateway:
    """`aiwm serve` with everything on: a deployment of each provider, and one for the soak."""

    name = "AIWM"

    def __init__(
        self, folder: Path, fixed: Provider, asked: Provider, *, cores: Collection[int], workers: int = 1
    ) -> None:
        folder.mkdir()
        self.data = folder / "data"
        self._fixed, self._asked = fixed, asked
        self.port, self._iam_port = free_ports(2)
        settings = {
            "AIWM_DATA_DIR": str(self.data),
            "AIWM_PORT": str(self.port),
            "AIWM_IAM_PORT": str(self._iam_port),
            "AIWM_ADMIN_PASSWORD": _PASSWORD,
            "AIWM_PRIVATE_UPSTREAMS": "127.0.0.1",
            "AIWM_LOG_FORMAT": "json",
            "AIWM_ACCESS_TOKEN_SECONDS": "86400",
        }
        command = [*_SERVE, *(("--workers", str(workers)) if workers > 1 else ())]
        log = folder / "aiwm.log"
        self.child = Child(self.name, command, cores=cores, output=log, env=surroundings(settings))
        self.token = ""

    def first_start(self) -> float:
        """Makes keys and tables, and then what the load needs. Seconds to the first answer of any kind."""
        began = time.perf_counter()
        self.child.start()
        self.child.wait_for(self.port, "GET", "/readyz", {}, b"")
        seconds = time.perf_counter() - began
        self._prepare()
        return seconds

    def start(self) -> float:
        began = time.perf_counter()
        self.child.start()
        answering(self.child, self.port, self.base + exchanges.CHAT_PATH, exchanges.headers(self.token))
        return time.perf_counter() - began

    def headers(self, *, streamed: bool) -> dict[str, str]:  # noqa: ARG002 - it is told by the path
        return {}

    def _prepare(self) -> None:
        login = {"username": "admin", "password": _PASSWORD}
        self.token = str(_call(self._iam_port, "POST", "/auth/login", login)["accessToken"])
        self.base = self.inference(self.deploy("measured", self._model("fixed", self._fixed)))
        asked = self._model("asked", self._asked)
        self.streams = self.bodies = self.inference(self.deploy("asked", asked))
        self.soaked = self.deploy("soaked", asked)

    def _model(self, name: str, provider: Provider) -> str:
        new = {
            "name": name,
            "type": "llm",
            "deploymentType": "api-based",
            "provider": "openai",
            "apiEndpoint": f"http://127.0.0.1:{provider.port}",
            "modelIdentifier": exchanges.MODEL,
            "apiConfig": {"apiKey": "sk-bench-0123456789abcdef"},
        }
        return str(self.call("POST", "/models", new)["_id"])

    def deploy(self, name: str, model: str) -> str:
        return str(self.call("POST", "/deployments", {"name": name, "modelId": model})["_id"])

    def inference(self, deployment: str) -> str:
        return f"/deployments/{deployment}/inference"

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return _call(self.port, method, path, body, token=self.token)


def has_workers() -> bool:
    """Whether this AIWM can serve with more than one process."""
    said = subprocess.run([*_SERVE, "--help"], capture_output=True, text=True, check=True, timeout=30)
    return "--workers" in said.stdout


def answering(child: Child, port: int, path: str, headers: Mapping[str, str]) -> None:
    """Waits until a chat is answered."""
    child.wait_for(port, "POST", path, headers, exchanges.chat_request())


def _call(port: int, method: str, path: str, body: Mapping[str, Any] | None, *, token: str = "") -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {}),
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
