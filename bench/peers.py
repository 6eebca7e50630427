"""Other gateways, for who wants to see them beside: installed when they are asked for, into a folder of their own.

Each runs as its makers say, in one process, with as little switched on as it can be: no database, no log of requests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import exchanges
from bench.processes import BenchError, Child, free_ports, surroundings
from bench.subjects import Provider, answering

_INSTALLED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aiwm-bench"
_KEY = "sk-bench-0123456789abcdef"
_PACED = "tokens=100;chunk-delay=0.01"
"""Peers keep callers' headers for themselves: how to answer stands in the path."""


class Peer:
    """A subject whose paths are those of the provider."""

    name: str
    base = streams = bodies = ""

    def __init__(self, folder: Path, fixed: Provider, asked: Provider, *, core: int) -> None:
        """Installs it if it is not there. Raises BenchError if that fails."""
        folder.mkdir()
        (self.port,) = free_ports(1)
        self._folder = folder
        self._fixed = f"http://127.0.0.1:{fixed.port}/v1"
        self._asked = f"http://127.0.0.1:{asked.port}/{_PACED}/v1"
        home = _INSTALLED / self.name
        if not (home / "whole").exists():
            print(f"Installing {self.name} into {home} ...", file=sys.stderr, flush=True)
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            self._install(home)
            (home / "whole").touch()
        self.version = self._version(home)
        self.child = Child(
            self.name,
            self._command(home),
            cores={core},
            output=folder / "log",
            env=surroundings({}) | self._variables(),
        )

    def start(self) -> float:
        began = time.perf_counter()
        self.child.start()
        headers = exchanges.headers(_KEY) | self.headers(streamed=False)
        answering(self.child, self.port, exchanges.CHAT_PATH, headers)
        return time.perf_counter() - began

    def headers(self, *, streamed: bool) -> dict[str, str]:
        raise NotImplementedError

    def _install(self, home: Path) -> None:
        raise NotImplementedError

    def _version(self, home: Path) -> str:
        raise NotImplementedError

    def _command(self, home: Path) -> Sequence[str]:
        raise NotImplementedError

    def _variables(self) -> dict[str, str]:
        return {}


class LiteLLM(Peer):
    name = "litellm"

    def headers(self, *, streamed: bool) -> dict[str, str]:  # noqa: ARG002 - it goes by the model
        return {"authorization": f"Bearer {_KEY}"}

    def _install(self, home: Path) -> None:
        venv.create(home / "venv", with_pip=True)
        _run([str(home / "venv/bin/pip"), "install", "--quiet", "litellm[proxy]"], "litellm")

    def _version(self, home: Path) -> str:
        program = "import importlib.metadata as it; print(it.version('litellm'))"
        return _run([str(home / "venv/bin/python"), "-c", program], "litellm").strip()

    def _command(self, home: Path) -> Sequence[str]:
        models = [
            {
                "model_name": name,
                "litellm_params": {"model": f"openai/{name}", "api_base": base, "api_key": _KEY},
            }
            for name, base in ((exchanges.MODEL, self._fixed), (exchanges.STREAM_MODEL, self._asked))
        ]
        config = self._folder / "config.yaml"  # JSON is YAML.
        config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": _KEY}}))
        return [
            str(home / "venv/bin/litellm"),
            *("--config", str(config), "--host", "127.0.0.1", "--port", str(self.port), "--num_workers", "1"),
        ]

    def _variables(self) -> dict[str, str]:
        # Else it asks GitHub for prices when it starts.
        return {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PYTHONPATH": ""}


class Portkey(Peer):
    name = "portkey"

    def headers(self, *, streamed: bool) -> dict[str, str]:
        return {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": self._asked if streamed else self._fixed,
        }

    def _install(self, home: Path) -> None:
        if shutil.which("npm") is None:
            raise BenchError("npm is missing, which installs portkey. On Debian: apt-get install npm")
        _run(["npm", "install", "--silent", "--prefix", str(home), "@portkey-ai/gateway"], "portkey")

    def _version(self, home: Path) -> str:
        return str(json.loads((_package(home) / "package.json").read_text())["version"])

    def _command(self, home: Path) -> Sequence[str]:
        node = shutil.which("node")
        if node is None:
            raise BenchError("node is missing, which runs portkey. On Debian: apt-get install nodejs")
        return [node, str(_package(home) / "build/start-server.js"), "--headless", f"--port={self.port}"]

    def _variables(self) -> dict[str, str]:
        return {"NODE_ENV": "production"}


PEERS: Mapping[str, Callable[..., Peer]] = {peer.name: peer for peer in (LiteLLM, Portkey)}


def _package(home: Path) -> Path:
    return home / "node_modules/@portkey-ai/gateway"


def _run(command: Sequence[str], name: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, env=surroundings({}))
    if done.returncode:
        raise BenchError(f"{name} can't be installed: {(done.stderr or done.stdout).strip()[-1000:]}")
    return done.stdout
