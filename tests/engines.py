"""Engines to test with: what the fake engine's kind is, and specs of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from aiwm.engines.driver import EngineSpec
from aiwm.engines.process import MARK

PROGRAM = Path(__file__).parent / "fake_engine.py"


KIND = f"""
[fake]
provider = "openai"
command = ["{sys.executable}", "{PROGRAM}", "--port={{port}}", "--name={{name}}", "--child"]
environment = {{ FAKE_KEY = "{{key}}" }}
start_seconds = 60.0
stop_seconds = 1.0

[fake.arguments.ctx-size]
type = "int"
flag = "--ctx-size"
least = 1
most = 1000000

[fake.arguments.slow]
type = "int"
flag = "--slow"
least = 0
most = 10
"""
"""The fake engine as a kind of the operator's: the file that AIWM_ENGINES_FILE names."""


def spec(*switches: str, start_seconds: float = 60.0, stop_seconds: float = 5.0) -> EngineSpec:
    return EngineSpec(
        command=("{python}", str(PROGRAM), "--port={port}", *switches),
        environment={"FAKE_KEY": "{key}"},
        words={"{python}": sys.executable},
        ready_path="/health",
        start_seconds=start_seconds,
        stop_seconds=stop_seconds,
    )


def processes_of(folder: Path) -> list[int]:
    """Everything that runs and was started by engines of this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(f"{folder}:") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Fails if a process is left at the end, and ends it."""
    try:
        yield
        assert processes_of(folder) == []
    finally:
        for pid in processes_of(folder):
            psutil.Process(pid).kill()


def engines_of(folder: Path) -> list[int]:
    """The same without what the engines have started."""
    found = []
    for pid in processes_of(folder):
        try:
            if str(PROGRAM) in psutil.Process(pid).cmdline():
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found
