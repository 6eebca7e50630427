"""What runs engines: the seam between what a deployment wants and the machine, or the cluster, that does it.

`process` is the driver for this machine. A driver knows nothing of deployments' states; it starts what it is given,
says when it has ended and how, and finds again what an earlier AIWM started.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import orjson


class EngineName(NamedTuple):
    """One start of one replica. `slot` is the replica's number, `serial` tells its starts apart."""

    deployment_id: str
    slot: int
    serial: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What to run. The words are filled in at each start, together with `{host}`, `{port}` and `{key}`."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    ready_path: str
    """GET of it is answered 200 when the engine takes requests, and as long as it lives."""
    start_seconds: float
    """What it gets from its start until it is ready."""
    stop_seconds: float
    """What it gets to end by itself when it is asked to."""
    gpus: int = 0
    cpus: float = 0
    memory_bytes: int = 0
    """What a cluster is asked for; on this machine places are found by AIWM itself."""
    host: str = ""
    """The node of a cluster that it shall be on; empty: any."""

    @property
    def fingerprint(self) -> str:
        """The same for two specs that run the same: a running engine with another one is out of date."""
        what = [self.command, sorted(self.environment.items()), sorted(self.words.items())]
        return hashlib.sha256(orjson.dumps(what)).hexdigest()[:16]

    def run(self, values: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """The command and the environment with everything filled in."""
        words = {**self.words, **values}
        environment = {variable: filled(value, words) for variable, value in self.environment.items()}
        return [filled(word, words) for word in self.command], environment


def write_record(path: Path, facts: Mapping[str, object]) -> None:
    """Whole or not at all, and for nobody else: the key is in it."""
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, orjson.dumps(facts))
    finally:
        os.close(descriptor)
    fresh.replace(path)


def recorded_key(path: Path) -> str:
    """Empty when there is no such record any more."""
    try:
        return str(orjson.loads(path.read_bytes())["key"])
    except (OSError, ValueError, KeyError):
        return ""


def filled(text: str, words: Mapping[str, str]) -> str:
    """Each word once, and never in what was put in: a model may be called `{key}`."""
    return re.sub("|".join(map(re.escape, words)), lambda match: words[match[0]], text)


class EngineFailed(Exception):
    """The engine did not start, or is no more. The text says how, and quotes the last it said."""


class Engine(Protocol):
    """One that was started. It runs on when this object, or this program, is gone, until `stop`."""

    name: EngineName
    fingerprint: str
    address: str
    """As in `http://127.0.0.1:40000`."""
    key: str
    """What it asks for, if it asks at all. Only AIWM has it."""

    async def listens(self) -> bool:
        """Whether it is the engine itself that answers at its address, and no other program."""

    async def ended(self) -> str:
        """Returns when it has ended, with how: `exit code 1`."""

    async def stop(self, seconds: float) -> None:
        """Ends it and all that it started: asked first, after `seconds` without asking. Cut short, it goes on later."""

    def last_lines(self, number: int) -> Sequence[str]:
        """The end of what it wrote, without its key."""


class Driver(Protocol):
    async def start(self, name: EngineName, spec: EngineSpec) -> Engine:
        """Raises EngineFailed."""

    async def found(self) -> Sequence[Engine]:
        """What runs from before; what had begun to run and can't be taken over is ended."""

    async def sweep(self, kept: Collection[str]) -> None:
        """Forgets all that belongs to deployments that are not in `kept`."""
