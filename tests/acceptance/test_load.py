"""Fifty requests a second through all that happens to engines: none fails that had not begun to be answered."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import psutil

from engines import KIND, engines_of, nothing_left
from gateway import Caller, Gateway
from patience import eventually

RATE = 50
SECONDS = float(os.environ.get("TEST_LOAD_SECONDS", "2"))
"""How long it goes on after each event."""


class Load:
    def __init__(self, admin: Caller, url: str) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._headers = {"authorization": f"Bearer {admin.token}"}
        self.answers: Counter[int | str] = Counter()
        self.engines: set[str] = set()

    @asynccontextmanager
    async def at_rate(self) -> AsyncIterator[None]:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(timeout=60, limits=limits, headers=self._headers) as http:
            sender = asyncio.create_task(self._send(http))
            try:
                yield
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
                await asyncio.gather(*self._under_way)

    async def _send(self, http: httpx2.AsyncClient) -> None:
        self._under_way: list[asyncio.Task[None]] = []
        begin = time.monotonic()
        while True:
            self._under_way.append(asyncio.create_task(self._ask(http)))
            await asyncio.sleep(max(0.0, begin + len(self._under_way) / RATE - time.monotonic()))

    async def _ask(self, http: httpx2.AsyncClient) -> None:
        try:
            answer = await http.post(self._url, json={"messages": [], "seconds": 0.05})
        except httpx2.HTTPError as error:
            self.answers[repr(error)] += 1
            return
        self.answers[answer.status_code if answer.status_code == 200 else answer.text] += 1
        if answer.status_code == 200:
            self.engines.add(answer.json()["choices"][0]["message"]["content"])


async def test_no_request_fails_through_start_roll_over_and_a_killed_engine(tmp_path: Path) -> None:
    (tmp_path / "engines.toml").write_text(KIND)
    (tmp_path / "weights").write_bytes(b"0" * 1000)
    data = tmp_path / "data"
    settings = {"AIWM_ENGINES_FILE": str(tmp_path / "engines.toml"), "AIWM_MODEL_PATHS": str(tmp_path)}
    with nothing_left(data / "engines"), Gateway(data, AIWM_KEEP_ENGINES="false", **settings) as gateway:
        admin = gateway.login()
        model = {"name": "Fake", "type": "llm", "deploymentType": "self-hosted", "framework": "fake"}
        made = admin.http.post("/models", json=model | {"repository": f"file://{tmp_path}/weights"}).json()
        await eventually(lambda: admin.http.get(f"/models/{made['_id']}").json()["status"] == "active")
        body = {"name": "D", "modelId": made["_id"], "replicas": 2, "arguments": {"slow": 1}}
        deployment = admin.http.post("/deployments", json=body).json()["_id"]
        load = Load(admin, gateway.inference(deployment))
        async with load.at_rate():
            # From nothing.
            await eventually(lambda: len(load.engines) == 2)
            await asyncio.sleep(SECONDS)
            # Other arguments.
            changed = await asyncio.to_thread(
                admin.http.put, f"/deployments/{deployment}", json={"arguments": {"ctx-size": 5}}
            )
            assert changed.status_code == 200, changed.text
            await eventually(lambda: len(load.engines) == 4 and len(engines_of(data / "engines")) == 2)
            await asyncio.sleep(SECONDS)
            # One of two dies.
            psutil.Process(engines_of(data / "engines")[0]).kill()
            await asyncio.sleep(SECONDS)
        shown = admin.http.get(f"/deployments/{deployment}").json()
    assert set(load.answers) == {200}, load.answers
    assert shown["requestCount"] == load.answers[200]
    print(f"\n{load.answers[200]} requests, all answered, by {len(load.engines)} engines")
