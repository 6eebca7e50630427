"""What is measured, nginx and AIWM, and the provider behind both."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from bench import exchanges
from bench.processes import BenchError, Child, free_ports

_NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  upstream provider {{
    server 127.0.0.1:{provider};
    keepalive 256;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_max_temp_file_size 0;
    location / {{ proxy_pass http://provider; }}
    location /streams/ {{ proxy_pass http://provider/; proxy_buffering off; }}
  }}
}}
"""

_PASSWORD = "correct horse battery"  # noqa: S105 - of a gateway that lives for minutes, on loopback


class Subject(Protocol):
    """Something to send requests to. `base` and `streams` are what a provider's path is put behind."""

    name: str
    port: int
    base: str
    streams: str
    child: Child

    def start(self) -> float:
        """Seconds from the start of the process to its first answer of a provider."""
        ...


class Provider:
    """The stand-in, or AIWM's simulator."""

    def __init__(self, kind: str, folder: Path, *, core: int) -> None:
        self.kind = kind
        (self.port,) = free_ports(1)
        command = {
            "stand-in": [sys.executable, "-m", "bench.provider", str(self.port)],
            "simulator": [sys.executable, "-m", "aiwm", "simulate", "--port", str(self.port)],
        }[kind]
        self.child = Child("the provider", command, core=core, output=folder / "provider.log", env=_environment({}))

    def start(self) -> None:
        self.child.start()
        _wait(self.child, self.port, exchanges.CHAT_PATH, "sk-bench")


class Nginx:
    """One worker, connections to the provider kept, no access log: bytes only."""

    name = "nginx"
    base, streams = "", "/streams"

    def __init__(self, folder: Path, provider: Provider, *, core: int) -> None:
        folder.mkdir()
        (self.port,) = free_ports(1)
        # A worker of another user could not use our folder.
        user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(
            _NGINX.format(folder=folder, user=user, port=self.port, provider=provider.port)
        )
        command = [_program("nginx"), "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
        self.child = Child(self.name, command, core=core, output=folder / "nginx.log", env=_environment({}))

    def start(self) -> float:
        began = time.perf_counter()
        self.child.start()
        _wait(self.child, self.port, exchanges.CHAT_PATH, "sk-bench")
        return time.perf_counter() - began


class Gateway:
    """`aiwm serve` with everything on; one deployment for what is measured, another one for the soak."""

    name = "AIWM"

    def __init__(self, folder: Path, provider: Provider, *, core: int) -> None:
        folder.mkdir()
        self._provider = provider
        self.port, self._iam_port = free_ports(2)
        settings = {
            "AIWM_DATA_DIR": str(folder / "data"),
            "AIWM_PORT": str(self.port),
            "AIWM_IAM_PORT": str(self._iam_port),
            "AIWM_ADMIN_PASSWORD": _PASSWORD,
            "AIWM_PRIVATE_UPSTREAMS": "127.0.0.1",
            "AIWM_LOG_FORMAT": "json",
        }
        command = [str(Path(sys.executable).with_name("aiwm")), "serve"]
        log = folder / "aiwm.log"
        self.child = Child(self.name, command, core=core, output=log, env=_environment(settings))
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
        _wait(self.child, self.port, self.base + exchanges.CHAT_PATH, self.token)
        return time.perf_counter() - began

    def _prepare(self) -> None:
        login = {"username": "admin", "password": _PASSWORD}
        self.token = str(_call(self._iam_port, "POST", "/auth/login", login)["accessToken"])
        new = {
            "name": "bench",
            "type": "llm",
            "deploymentType": "api-based",
            "provider": "openai",
            "apiEndpoint": f"http://127.0.0.1:{self._provider.port}",
            "modelIdentifier": exchanges.MODEL,
            "apiConfig": {"apiKey": "sk-bench-0123456789abcdef"},
        }
        model = self.call("POST", "/models", new)
        self.deployed = self.deploy("measured", model["_id"])
        self.base = self.streams = self.inference(self.deployed)
        self.soaked = self.deploy("soaked", model["_id"])

    def deploy(self, name: str, model: str) -> str:
        return str(self.call("POST", "/deployments", {"name": name, "modelId": model})["_id"])

    def inference(self, deployment: str) -> str:
        return f"/deployments/{deployment}/inference"

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return _call(self.port, method, path, body, token=self.token)


def nginx_version() -> str:
    said = subprocess.run([_program("nginx"), "-v"], capture_output=True, text=True, check=True, timeout=10).stderr
    found = re.search(r"nginx/(\S+)", said)
    return found[1] if found else "?"


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise BenchError(f"{name} is missing. On Debian: apt-get install nginx-light wrk")
    return found


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")} | dict(settings)


def _wait(child: Child, port: int, path: str, token: str) -> None:
    child.wait_for(port, "POST", path, exchanges.headers(token), exchanges.chat_request())


def _call(port: int, method: str, path: str, body: Mapping[str, Any] | None, *, token: str = "") -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {}),
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
