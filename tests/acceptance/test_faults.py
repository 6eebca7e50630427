"""What goes wrong around a gateway under load: a locked database, one that is stopped, a full disk, a clock that is set
back, a second worker and its death. Answers go on where they can, it is visible, and the books are right afterwards."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from aiwm.domain.users import Role
from aiwm.store.database import Database
from aiwm.store.ledger import LedgerStore
from callers import Door
from fakes import RawPeer, RawServer
from gateway import Gateway
from inside import RED, inside
from patience import PATIENCE
from postgresql import PostgreSql

PATH = "v1/chat/completions"
LOCKED_SECONDS = 10
DISK = 10 << 20
"""Bytes: room for a few files of the journal."""


@dataclass
class Provider:
    """What reached it, and how large a usage object it reports."""

    padding: str = ""
    reached: list[int] = field(default_factory=list)

    async def script(self, peer: RawPeer) -> None:
        while exchange := await peer.read_request():
            number = json.loads(exchange[1])["n"]
            self.reached.append(number)
            prompt, completion = tokens(number)
            usage = {"prompt_tokens": prompt, "completion_tokens": completion, "padding": self.padding}
            answer = json.dumps({"model": "gpt-4o", "choices": [], "usage": usage}).encode()
            await peer.answer(answer, headers=b"content-type: application/json\r\n")


def tokens(number: int) -> tuple[int, int]:
    return 1 + number, 10_000 + number


class Load:
    """Callers at work, each with one request after another, until this is left."""

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self.asked = 0
        self.whole: set[int] = set()
        self.statuses: Counter[int] = Counter()

    async def ask(self, door: Door) -> int | None:
        """The status of an answer that came whole."""
        self.asked = number = self.asked + 1
        body = json.dumps({"model": "gpt-4o", "n": number}).encode()
        headers = [("content-type", "application/json"), ("x-correlation-id", f"n{number}")]
        seen = await door.call(self._deployment, PATH, headers=headers, body=body)
        if not seen.whole:
            return None
        self.statuses[seen.status] += 1
        if seen.status == 200:
            assert seen.json["usage"]["prompt_tokens"] == tokens(number)[0]
            self.whole.add(number)
        return seen.status

    @asynccontextmanager
    async def on(self, *doors: Door, each: int = 3) -> AsyncIterator[None]:
        asking = [asyncio.create_task(self._ask_on(door)) for door in doors for _ in range(each)]
        self._stopped = False
        try:
            yield
        finally:
            self._stopped = True
            await asyncio.gather(*asking)

    async def _ask_on(self, door: Door) -> None:
        with suppress(ConnectionError):  # That gateway was killed.
            while not self._stopped:
                await self.ask(door)

    async def goes_on(self, number: int = 20) -> None:
        """Until so many more answers have come."""
        least = len(self.whole) + number
        await until(lambda: len(self.whole) >= least)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.05)


def readiness(door: Door) -> str:
    answer = door.caller.http.get("/readyz")
    return "ready" if answer.status_code == 200 else str(answer.json()["message"])


def metric(door: Door, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", door.caller.http.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


async def assert_booked(door: Door, database_url: str, deployment: str, load: Load, provider: Provider) -> None:
    """One row for each request that reached the provider, with the tokens of its answer, and sums that equal rows."""
    await until(lambda: readiness(door) == "ready")
    shown = await asyncio.to_thread(door.deployment, deployment)
    database = Database(database_url)
    try:
        rows = await LedgerStore(database).of_deployment(door.caller.user["orgId"], deployment)
    finally:
        await database.aclose()
    numbers = {int(row.correlation_id[1:]): row for row in rows}
    assert len(numbers) == len(rows)
    assert set(numbers) == set(provider.reached)
    for number in load.whole:
        usage = numbers[number].usage
        assert (usage.input_tokens, usage.output_tokens) == tokens(number)
        assert numbers[number].end == "complete"
    total = sum(row.usage.total_tokens for row in rows)
    assert (shown["requestCount"], shown["totalTokens"]) == (len(rows), total)
    for period in ("hour", "day"):
        report = await asyncio.to_thread(door.caller.http.get, "/usage", params={"groupBy": f"deployment,{period}"})
        assert report.status_code == 200, report.text
        groups = [group for group in report.json()["data"] if group["deployment"] == deployment]
        assert sum(group["requestCount"] for group in groups) == len(rows)
        assert sum(group["totalTokens"] for group in groups) == total


# -- databases that do not take rows


@pytest.fixture(params=["sqlite", "postgresql"])
def database_settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    if request.param == "sqlite":
        return {"AIWM_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'books.db'}"}
    server: PostgreSql = request.getfixturevalue("postgresql")
    return {"AIWM_DATABASE_URL": server.new_database()}


@asynccontextmanager
async def locked(database_url: str) -> AsyncIterator[None]:
    """Another program has the ledger for itself."""
    if database_url.startswith("sqlite"):
        with closing(sqlite3.connect(database_url.partition("///")[2], isolation_level=None)) as other:
            other.execute("PRAGMA busy_timeout=60000")
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
    else:
        another = await asyncpg.connect(database_url.replace("+asyncpg", ""))
        try:
            async with another.transaction():
                await another.execute("LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE")
                yield
        finally:
            await another.close()


@pytest.mark.timeout(300)
async def test_a_ledger_that_is_locked_for_ten_seconds_stops_no_answer_and_loses_no_row(
    tmp_path: Path, database_settings: dict[str, str]
) -> None:
    provider, url = Provider(), database_settings["AIWM_DATABASE_URL"]
    with Gateway(tmp_path / "data", AIWM_PRIVATE_UPSTREAMS="127.0.0.1", **database_settings) as gateway:
        async with RawServer(provider.script) as server:
            door = Door(gateway)
            deployment = door.deploy(server.port)
            load = Load(deployment)
            async with load.on(door):
                await load.goes_on()
                async with locked(url):
                    began = time.monotonic()
                    await until(lambda: readiness(door).startswith("ledger: "))
                    await load.goes_on()
                    assert metric(door, "aiwm_ledger_waiting_rows") >= 20
                    await asyncio.sleep(max(0.0, began + LOCKED_SECONDS - time.monotonic()))
                    await load.goes_on()
                await until(lambda: readiness(door) == "ready")
                await load.goes_on()
            assert set(load.statuses) == {200}
            await assert_booked(door, url, deployment, load, provider)
            assert metric(door, "aiwm_ledger_waiting_rows") == 0


@pytest.mark.timeout(300)
async def test_postgresql_that_is_stopped_and_started_again_stops_no_answer_and_loses_no_row(
    tmp_path: Path, postgresql: PostgreSql
) -> None:
    provider, url = Provider(), postgresql.new_database()
    settings = {"AIWM_DATABASE_URL": url, "AIWM_PRIVATE_UPSTREAMS": "127.0.0.1"}
    with Gateway(tmp_path / "data", **settings) as gateway:
        async with RawServer(provider.script) as server:
            door = Door(gateway)
            deployment = door.deploy(server.port)
            load = Load(deployment)
            async with load.on(door):
                for _ in range(3):
                    await load.goes_on()
                    await asyncio.to_thread(postgresql.stop)
                    try:
                        await until(lambda: readiness(door) != "ready")
                        await load.goes_on()
                    finally:
                        await asyncio.to_thread(postgresql.start)
                    await until(lambda: readiness(door) == "ready")
            assert set(load.statuses) == {200}
            await assert_booked(door, url, deployment, load, provider)


# -- a journal that can't be written


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk can't be made here: mounting is not allowed")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def nothing_longer(gateway: Gateway, size: int) -> Iterator[None]:
    """No file of the process may grow beyond this, as with a quota."""
    assert gateway.process is not None
    before = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, before)


async def _refused_until_there_is_room(
    gateway: Gateway, full: Callable[[], Any], *, until_refused: Callable[[Load, Door], Any]
) -> None:
    provider = Provider(padding="x" * 3900)
    url = f"sqlite+aiosqlite:///{gateway.folder / 'aiwm.db'}"
    async with RawServer(provider.script) as server:
        door = Door(gateway)
        deployment = door.deploy(server.port)
        load = Load(deployment)
        assert await load.ask(door) == 200
        with full():
            await until_refused(load, door)
            reached = len(provider.reached)
            for _ in range(5):
                assert await load.ask(door) == 503
            # Refused before anything goes out.
            assert len(provider.reached) == reached
            assert readiness(door) != "ready"
            assert metric(door, "aiwm_journal_failing") == 1
        async with asyncio.timeout(PATIENCE):
            while await load.ask(door) != 200:
                assert len(provider.reached) == reached
        await until(lambda: readiness(door) == "ready")
        assert metric(door, "aiwm_journal_failing") == 0
        assert set(load.statuses) == {200, 503}
        await assert_booked(door, url, deployment, load, provider)


async def _many_until_refused(load: Load, door: Door) -> None:
    async def some() -> None:
        while 503 not in load.statuses:
            await load.ask(door)

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(some() for _ in range(8)))


@pytest.mark.timeout(300)
async def test_a_full_disk_under_the_journal_refuses_requests_until_there_is_room_and_loses_no_row(
    tmp_path: Path,
) -> None:
    journals = tmp_path / "data" / "journal"
    with small_disk(journals), Gateway(tmp_path / "data", AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as gateway:

        @contextmanager
        def full() -> Iterator[None]:
            filler = journals / "filler"
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(b"0" * 4096)
            yield
            filler.unlink()

        await _refused_until_there_is_room(gateway, full, until_refused=_many_until_refused)


@pytest.mark.timeout(300)
async def test_a_quota_that_is_used_up_by_journal_and_database_loses_no_row(tmp_path: Path) -> None:
    with Gateway(tmp_path / "data", AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as gateway:
        await _refused_until_there_is_room(
            gateway, lambda: nothing_longer(gateway, 1 << 20), until_refused=_many_until_refused
        )


# -- two workers


@pytest.mark.timeout(300)
async def test_two_workers_on_one_database_and_the_death_of_one_are_booked_right(
    tmp_path: Path, database_settings: dict[str, str]
) -> None:
    provider, url = Provider(), database_settings["AIWM_DATABASE_URL"]
    settings = {"AIWM_PRIVATE_UPSTREAMS": "127.0.0.1"} | database_settings
    with Gateway(tmp_path / "data", **settings) as one:
        async with RawServer(provider.script) as server:
            door = Door(one)
            deployment = door.deploy(server.port)
            load = Load(deployment)
            with Gateway(tmp_path / "data", **settings) as other:
                second = Door(other)
                async with load.on(door, second):
                    await load.goes_on(100)
                    assert metric(second, 'aiwm_requests_total{end="complete",provider="openai",status="200"}') > 0
                    other.stop(signal.SIGKILL)
                    await load.goes_on()
            # What the dead one has left is moved by the one that lives.
            await until(lambda: len(list((tmp_path / "data" / "journal").glob("*.journal"))) == 1)
            await assert_booked(door, url, deployment, load, provider)


# -- clocks


async def test_a_clock_that_is_set_back_stops_nothing_and_what_was_booked_stays_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, real, back = Provider(), time.time, 0.0
    # Two hours in the middle of a day.
    noon = (int(real()) // 86400 + 1) * 86400 + 43200 - real()
    monkeypatch.setattr("time.time", lambda: real() + noon - back)
    clock = lambda: int(time.time() * 1000)  # noqa: E731
    async with (
        RawServer(provider.script) as server,
        inside(tmp_path / "data", clock=clock, private_upstreams=("127.0.0.1",)) as aiwm,
    ):
        caller = aiwm.caller(Role.OWNER)
        model = await caller.model(apiEndpoint=f"http://127.0.0.1:{server.port}", modelIdentifier="gpt-4o")
        deployment = (await caller.deployment(model))["_id"]
        number = 0
        for back in (0.0, 30.0, 3600.0, 90_000.0, 0.0):  # noqa: B007 - the clock reads it
            for _ in range(20):
                number += 1
                answer = await caller(
                    "POST",
                    f"/deployments/{deployment}/inference/{PATH}",
                    json={"model": "gpt-4o", "n": number},
                    headers={"x-correlation-id": f"n{number}"},
                )
                assert answer.status_code == 200, answer.text
            shown = (await caller("GET", f"/deployments/{deployment}")).json()
            assert shown["requestCount"] == number
        rows = await LedgerStore(aiwm.database).of_deployment(RED, deployment)
        assert {int(row.correlation_id[1:]) for row in rows} == set(range(1, number + 1))
        assert all(0 <= row.total_ms < 60_000 and 0 <= (row.first_byte_ms or 0) <= row.total_ms for row in rows)
        total = sum(sum(tokens(each)) for each in range(1, number + 1))
        assert shown["totalTokens"] == total
        for period in ("hour", "day"):
            report = (await caller("GET", "/usage", params={"groupBy": period})).json()
            assert sum(group["requestCount"] for group in report["data"]) == number
            assert len(report["data"]) > 1
