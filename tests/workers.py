"""An AIWM of several processes, and how to reach each of them."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import httpx2
import orjson
import psutil
from bench.imported import worker_number

from gateway import Gateway, TypedGateway
from patience import PATIENCE, waited


class Workers(Gateway):
    def __init__(self, folder: Path, *arguments: str, workers: int = 2, **settings: str) -> None:
        super().__init__(folder, *arguments, "--workers", str(workers), AIWM_LOG_FORMAT="json", **settings)
        self.numbers = range(1, workers + 1)
        self.settings = settings
        self.token = ""
        """Of a login that a test keeps: while a worker is away a new one may have to wait for it."""

    def __enter__(self) -> Self:
        super().__enter__()
        self.all_serve()
        return self

    @property
    def pids(self) -> list[int]:
        return [self.pid(number) for number in self.numbers]

    def pid(self, number: int) -> int:
        """The process that has this number now; 0 for none."""
        assert self.process is not None
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                if worker_number(child) == number:
                    return child.pid
        return 0

    def kill(self, number: int) -> None:
        # One that takes another's place has its number as soon as it has begun. A 0 would kill who runs the tests.
        os.kill(waited(lambda: self.pid(number)), signal.SIGKILL)

    def to(self, number: int, token: str = "") -> httpx2.Client:
        """A client whose one connection is this worker's. It has to be tried: the kernel chooses."""
        deadline = time.monotonic() + PATIENCE
        while True:
            client = httpx2.Client(
                base_url=self.url,
                headers={"authorization": f"Bearer {token}"} if token else {},
                timeout=PATIENCE,
                # Its default closes what was idle for five seconds, and the next connection may be another worker's.
                limits=httpx2.Limits(max_connections=1, keepalive_expiry=None),
            )
            if self.worker_of(client) == number:
                self._callers.append(client)
                return client
            client.close()
            assert time.monotonic() < deadline, f"no connection got to worker {number}"

    def worker_of(self, client: httpx2.Client) -> int:
        """Who answers on its connection."""
        mark = f"mark{time.monotonic_ns()}"
        client.get("/healthz", headers={"x-correlation-id": mark})
        waited(lambda: mark in self.log)
        [line] = [line for line in self.log.splitlines() if mark in line]
        return int(orjson.loads(line)["worker"])

    def all_serve(self) -> None:
        """Waits until each has answered something."""
        for number in self.numbers:
            self.to(number)


class TypedWorkers(Workers, TypedGateway):
    """The same, each process loaded from its first import on."""


KINDS: Final[dict[str, type[Gateway]]] = {"one process": Gateway, "two workers": Workers}
"""What tests of bytes, faults and hostile input run on. On workers each connection goes to one of them at random, most
often not to the one that was told of the deployment."""
