"""Whether the books are right when AIWM is killed at any moment: two of them on one data directory, or the workers of
one and their parent, under load, are killed and started again and again, and in the end what clients and the provider
saw is compared with the ledger.

The provider is in this process, which is not killed: it knows every request that came out of AIWM, and what was asked
of it. Each request has a number; what an answer to it costs in tokens follows from the number.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil
from httptools import HttpRequestParser
from sqlalchemy import RowMapping, text

from aiwm.store.database import Database
from aiwm.store.sums import fold_all
from bench.callers import Answer, Caller, Lost
from bench.exchanges import CHAT_PATH, whole_request
from bench.figures import Figure, Section
from bench.forks import Forks, forks
from bench.imported import worker_number
from bench.processes import BenchError, free_ports

_AT_ONCE = 2
_CALLERS = 8
"""Connections to each AIWM."""
_LONGEST_LIFE = 0.6
"""Seconds under load; the ledger is written every quarter of a second, and whenever somebody asks for a count."""
_KILLS_OF_A_LIFE = 2
"""Of workers, before their parent is killed: one that dies again and again is started later and later."""
_EVENTS = 8
_PATIENCE = 60.0
_MODEL = "gpt-4o-mini"
_PASSWORD = "correct horse battery"  # noqa: S105 - of a gateway that lives for minutes, on loopback

_NUMBER = re.compile(rb"\?n=(\d+)")


def crash(folder: Path, *, kills: int, at_once: int = _AT_ONCE, seed: int = 1) -> Section:
    """Kills that many AIWMs that were at work, and some more that were about to start. Raises BenchError."""

    async def live(stage: _Stage) -> None:
        ports = free_ports(at_once)
        await stage.prepare(ports[0])
        await asyncio.gather(*(stage.again_and_again(port) for port in ports))
        await stage.rest(ports[0])

    title = f"crash: {at_once} AIWMs on one data directory, killed at random under load"
    return asyncio.run(_crash(_Stage(folder, kills, seed), live, title))


def crash_workers(folder: Path, *, kills: int, database_url: str = "", workers: int = 2, seed: int = 1) -> Section:
    """Kills that many workers of one AIWM, and after every few of them their parent. Raises BenchError."""

    async def live(stage: _Fleet) -> None:
        [port] = free_ports(1)
        await stage.prepare(port)
        await stage.again_and_again(port)
        await stage.rest(port)

    title = f"crash: {workers} workers and their parent, killed at random under load"
    return asyncio.run(_crash(_Fleet(folder, kills, seed, database_url=database_url, workers=workers), live, title))


@dataclass(slots=True)
class _Seen:
    """What happened, as those say who were not killed."""

    asked: int = 0
    reached: set[int] = field(default_factory=set)
    """Requests that the provider got the first line of."""
    whole: dict[int, Answer] = field(default_factory=dict)
    broken: int = 0
    counted: int = 0
    """How often somebody asked for a count and got it."""
    killed: int = 0
    killed_early: int = 0
    killed_parents: int = 0
    wrong: list[str] = field(default_factory=list)


S = TypeVar("S", bound="_Stage")


async def _crash(stage: S, live: Callable[[S], Awaitable[None]], title: str) -> Section:
    seen = stage.seen
    began = time.perf_counter()
    async with forks() as stage.forks, _provider(seen) as stage.provider:
        await live(stage)
    seconds = time.perf_counter() - began
    section = Section(
        title,
        [
            Figure("killed at work", "", [seen.killed]),
            Figure("killed while starting", "", [seen.killed_early]),
            *([Figure("parents killed", "", [seen.killed_parents])] if seen.killed_parents else []),
            Figure("requests that reached the provider", "", [len(seen.reached)]),
            Figure("answers that clients received whole", "", [len(seen.whole)]),
            Figure("requests broken off by a kill", "", [seen.broken]),
            *([Figure("counts asked for meanwhile", "", [seen.counted])] if seen.counted else []),
        ],
        wrong=seen.wrong,
    )
    _compare(await _books(stage.database_url), seen, section)
    section.wrong += _said(stage.log, section)
    section.figures.append(Figure("all of it", "s", [seconds]))
    return section


class _Stage:
    """The AIWMs and who calls them."""

    forks: Forks
    provider: int
    """Its port."""

    def __init__(self, folder: Path, kills: int, seed: int, *, database_url: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self.seen = _Seen()
        self.log = folder / "aiwm.log"
        self._data = folder / "data"
        self.database_url = database_url or f"sqlite+aiosqlite:///{self._data / 'aiwm.db'}"
        self._left = kills
        self._chance = random.Random(seed)  # noqa: S311 - moments to kill at
        self._token = ""
        self._deployments: list[str] = []
        self._answered = [0, 0]
        """Whole answers of each deployment."""
        self._stopping = False
        """Whether AIWM may refuse a request because it comes to its end."""

    async def prepare(self, port: int) -> None:
        pid = await self._start(port)
        await self._ready(port)
        login = await self._call(port, "POST", "/auth/login", {"username": "admin", "password": _PASSWORD})
        self._token = login["accessToken"]
        model = {
            "name": "crash",
            "type": "llm",
            "deploymentType": "api-based",
            "provider": "openai",
            "apiEndpoint": f"http://127.0.0.1:{self.provider}",
            "modelIdentifier": _MODEL,
            "apiConfig": {"apiKey": "sk-bench-0123456789abcdef"},
        }
        made = await self._call(port, "POST", "/models", model)
        for name in ("one", "other"):
            deployed = await self._call(port, "POST", "/deployments", {"name": name, "modelId": made["_id"]})
            self._deployments.append(deployed["_id"])
        await self._kill(pid)

    async def again_and_again(self, port: int) -> None:
        """One life after another, until there were enough kills."""
        while self._left > 0:
            pid = await self._start(port)
            if self._chance.random() < 0.1:
                # Most likely while it moves what the one before it has left.
                await asyncio.sleep(self._chance.random())
                await self._kill(pid)
                self.seen.killed_early += 1
                continue
            self._left -= 1
            await self._ready(port)
            load = [asyncio.create_task(self._ask(port)) for _ in range(_CALLERS)]
            if self._chance.random() < 0.5:
                load.append(asyncio.create_task(self._count(port)))
            await asyncio.sleep(self._chance.random() * _LONGEST_LIFE)
            await self._kill(pid)
            self.seen.killed += 1
            await asyncio.gather(*load)

    async def rest(self, port: int) -> None:
        """The last start moves what is left; nothing is left when it has."""
        pid = await self._start(port)
        await self._ready(port)
        left = [path.name for path in (self._data / "journal").glob("*.journal")]
        if len(left) != 1:  # Its own.
            self.seen.wrong.append(f"after a start that nobody broke off, journals are left: {left}")
        await self._kill(pid)

    async def _start(self, port: int, **more: str) -> int:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")}
        settings = {
            "AIWM_DATA_DIR": str(self._data),
            "AIWM_DATABASE_URL": self.database_url,
            "AIWM_PORT": str(port),
            "AIWM_IAM_PORT": "0",
            "AIWM_ADMIN_PASSWORD": _PASSWORD,
            "AIWM_PRIVATE_UPSTREAMS": "127.0.0.1",
            "AIWM_LOG_FORMAT": "json",
        }
        return await self.forks.start(environment | settings | more, self.log)

    async def _kill(self, pid: int) -> None:
        code = await self.forks.kill(pid)
        if code != -9:
            raise BenchError(f"AIWM ended by itself with {code}: {_tail(self.log)}")

    async def _ready(self, port: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            with suppress(OSError, Lost):
                await self._call(port, "GET", "/readyz")
                return
            if time.monotonic() > deadline:
                raise BenchError(f"AIWM does not start: {_tail(self.log)}")
            await asyncio.sleep(0.01)

    async def _ask(self, port: int) -> None:
        """One request after another on one connection, until it breaks."""
        seen = self.seen
        try:
            caller = await Caller.connected(port)
        except OSError:
            return
        try:
            while True:
                seen.asked = number = seen.asked + 1
                answer = await caller.ask(self._request(number))
                if answer.status == 503 and self._stopping:
                    return
                if answer.status != 200:
                    seen.wrong.append(f"request {number} was answered {answer.status}: {answer.body[:200]!r}")
                elif not _is_whole(answer, number):
                    seen.wrong.append(f"the answer to request {number} is not the provider's: {answer.body[-200:]!r}")
                else:
                    seen.whole[number] = answer
                    self._answered[number % 2] += 1
        except (OSError, Lost):
            seen.broken += 1

    async def _count(self, port: int) -> None:
        """Asks for a deployment's counts again and again: each time the ledger must be written first."""
        known = 0
        with suppress(OSError, Lost):
            while True:
                shown = await self._call(port, "GET", f"/deployments/{self._deployments[0]}")
                if shown["requestCount"] < known:
                    self.seen.wrong.append(f"requestCount went from {known} to {shown['requestCount']}")
                known = shown["requestCount"]

    def _request(self, number: int) -> bytes:
        body: dict[str, Any] = {"model": _MODEL, "messages": [{"role": "user", "content": "Say something."}]}
        kind = _kind(number)
        if kind != "json":
            body["stream"] = True
        if kind == "usage":
            body["stream_options"] = {"include_usage": True}
        path = f"/deployments/{self._deployments[number % 2]}/inference{CHAT_PATH}?n={number}"
        headers = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
        return whole_request(path, headers | {"x-correlation-id": f"n{number}"}, json.dumps(body).encode())

    async def _call(self, port: int, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Raises Lost unless it is answered well."""
        text = b"" if body is None else json.dumps(body).encode()
        authorization = {"authorization": f"Bearer {self._token}"} if self._token else {}
        request = whole_request(path, {"content-type": "application/json"} | authorization, text)
        caller = await Caller.connected(port)
        try:
            answer = await caller.ask(request.replace(b"POST", method.encode(), 1))
        finally:
            caller.close()
        if answer.status >= 300:
            raise _Refused(f"{method} {path} was answered {answer.status}: {answer.body[:300]!r}")
        return json.loads(answer.body)


class _Refused(Lost):
    """An answer that came, and is no good one."""


class _Fleet(_Stage):
    """One AIWM of several workers, called without a pause while they are killed."""

    def __init__(self, folder: Path, kills: int, seed: int, *, database_url: str, workers: int) -> None:
        super().__init__(folder, kills, seed, database_url=database_url)
        self._workers = workers
        self._ended = False

    async def again_and_again(self, port: int) -> None:
        """One parent after another, until there were enough kills."""
        ends = [self._end_of_parent, self._end_of_all, self._end_of_parent_and_one]
        self._chance.shuffle(ends)
        for end in itertools.cycle(ends):
            since = self.log.stat().st_size
            parent = psutil.Process(await self._start(port, AIWM_WORKERS=str(self._workers)))
            await self._ready(port)
            self._ended = self._stopping = False
            load = [asyncio.create_task(self._ask_on(port)) for _ in range(_CALLERS)]
            load.append(asyncio.create_task(self._count_on(port)))
            at_work = set(range(1, self._workers + 1))
            for _ in range(min(self._left, _KILLS_OF_A_LIFE)):
                if self._chance.random() < 0.8:
                    await self._until(lambda: at_work <= self._heard_of(since))  # noqa: B023 - it is waited for
                await asyncio.sleep(self._chance.random() * _LONGEST_LIFE)
                await self._until(lambda: _living(parent))  # noqa: B023
                since = self._kill_some(_living(parent), self._heard_of(since))
                self._left -= 1
            await asyncio.sleep(self._chance.random() * _LONGEST_LIFE)
            workers = _living(parent)
            self._stopping = True
            await end(parent.pid, workers)
            self.seen.killed_parents += 1
            # One that was started in the last moment is not among them: the next AIWM needs the port of all.
            await self._until(lambda: _is_free(port) and not any(_lives(worker) for worker in workers))  # noqa: B023
            self._ended = True
            await asyncio.gather(*load)
            if self._left <= 0:
                return

    def _kill_some(self, workers: Sequence[psutil.Process], at_work: Set[int]) -> int:
        """One of them, or all. The length of the log behind it."""
        for worker in workers if self._chance.random() < 0.2 else [self._chance.choice(workers)]:
            if worker_number(worker) in at_work:
                self.seen.killed += 1
            else:
                self.seen.killed_early += 1
            _kill(worker)
        return self.log.stat().st_size

    async def _end_of_parent(self, parent: int, _: Sequence[psutil.Process]) -> None:
        await self._kill(parent)

    async def _end_of_all(self, parent: int, workers: Sequence[psutil.Process]) -> None:
        await self._kill(parent)
        for worker in workers:
            _kill(worker)

    async def _end_of_parent_and_one(self, parent: int, workers: Sequence[psutil.Process]) -> None:
        await self._kill(parent)
        await asyncio.sleep(self._chance.random() * 0.1)
        for worker in workers[:1]:
            _kill(worker)

    async def _ask_on(self, port: int) -> None:
        while not self._ended:
            await self._ask(port)
            await asyncio.sleep(0.01)

    async def _count_on(self, port: int) -> None:
        """What has been answered, by whichever worker, whatever became of it, is counted by all others."""
        while not self._ended:
            least = self._answered[0]
            try:
                shown = await self._call(port, "GET", f"/deployments/{self._deployments[0]}")
            except _Refused as refused:
                if not self._stopping:
                    self.seen.wrong.append(str(refused))
            except (OSError, Lost):
                await asyncio.sleep(0.01)
            else:
                self.seen.counted += 1
                if shown["requestCount"] < least:
                    self.seen.wrong.append(f"{least} requests were answered, and {shown['requestCount']} are counted")

    def _heard_of(self, since: int) -> set[int]:
        """Workers that have answered something since the log was so long."""
        with self.log.open("rb") as file:
            file.seek(since)
            lines = file.read().split(b"\n")[:-1]
        said = [json.loads(line) for line in lines if b'"event":"request"' in line]
        return {each["worker"] for each in said}

    async def _until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                raise BenchError(f"AIWM does not come to what it must come to: {_tail(self.log)}")
            await asyncio.sleep(0.02)


def _kill(worker: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        worker.kill()


def _living(parent: psutil.Process) -> list[psutil.Process]:
    return [worker for worker in parent.children() if _lives(worker)]


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _lives(worker: psutil.Process) -> bool:
    try:
        return worker.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- what is asked and answered


def _kind(number: int) -> str:
    """`usage` is a stream that the client asked to report it; in a `stream` AIWM asks, and keeps it from the client."""
    return ("json", "stream", "usage")[number % 3]


def _tokens(number: int) -> tuple[int, int]:
    """Of input and output: different for each number, as far as a ledger can see."""
    return 1 + number % 9973, 1 + number % 7919


def _usage(number: int) -> dict[str, int]:
    prompt, completion = _tokens(number)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _document(number: int) -> bytes:
    message = {"role": "assistant", "content": f"the answer to {number}"}
    return json.dumps(
        {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "model": _MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(number),
        }
    ).encode()


def _events(number: int, *, usage: bool) -> Iterator[bytes]:
    def event(fields: dict[str, Any]) -> bytes:
        shown = {"id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "model": _MODEL} | fields
        return b"data: " + json.dumps(shown).encode() + b"\n\n"

    for place in range(_EVENTS):
        yield event({"choices": [{"index": 0, "delta": {"content": f"{place} of {number} "}, "finish_reason": None}]})
    if usage:
        yield event({"choices": [], "usage": _usage(number)})
    yield b"data: [DONE]\n\n"


def _is_whole(answer: Answer, number: int) -> bool:
    kind = _kind(number)
    if kind == "json":
        return answer.body == _document(number)
    return answer.body == b"".join(_events(number, usage=kind == "usage"))


class _Provider(asyncio.Protocol):
    """One connection; one exchange after another. It answers at its own pace, each request a little differently."""

    def __init__(self, seen: _Seen) -> None:
        self._seen = seen
        self._parser = HttpRequestParser(self)
        self._answering: asyncio.Task[None] | None = None
        self._number = 0
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        if self._answering is not None:
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        found = _NUMBER.search(self._url)
        if found is None:
            self._seen.wrong.append(f"the provider was asked for {self._url!r}")
            self._transport.abort()
        else:
            self._number = int(found[1])
            self._seen.reached.add(self._number)

    def on_message_complete(self) -> None:
        self._answering = asyncio.create_task(self._answer(self._number))

    async def _answer(self, number: int) -> None:
        pace = number % 5 / 500
        await asyncio.sleep(pace)
        head = b"HTTP/1.1 200 OK\r\nx-request-id: req_%d\r\n" % number
        if _kind(number) == "json":
            body = _document(number)
            head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            # In two halves: a kill may come between them.
            self._transport.write(head + body[:100])
            await asyncio.sleep(pace)
            self._transport.write(body[100:])
            return
        self._transport.write(head + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in _events(number, usage=True):
            await asyncio.sleep(pace)
            self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        self._transport.write(b"0\r\n\r\n")


@asynccontextmanager
async def _provider(seen: _Seen) -> Any:
    """Its port."""
    server = await asyncio.get_running_loop().create_server(lambda: _Provider(seen), "127.0.0.1", 0, backlog=1024)
    async with server:
        yield server.sockets[0].getsockname()[1]


# -- what the ledger says

_USAGE = ("input_tokens", "output_tokens")
_LEDGER = """
SELECT correlation_id, l.*, w.*, coalesce(model_answered, model_asked, '') AS model,
       "end" <> 'complete' OR status IS NULL OR status >= 400 AS failed
FROM ledger l JOIN ledger_labels w ON w.id = l.labels_id
"""
_SUMS = "SELECT * FROM usage_sums u JOIN usage_series s ON s.id = u.series_id"
_TOTALS = "SELECT * FROM deployment_totals"
_SERIES = ("org_id", "user_id", "api_key_id", "deployment_id", "model", "provider")


@dataclass(frozen=True, slots=True)
class _Books:
    rows: Sequence[RowMapping]
    sums: Sequence[RowMapping]
    totals: Sequence[RowMapping]


async def _books(database_url: str) -> _Books:
    database = Database(database_url)
    try:
        await fold_all(database)
        async with database.reading() as connection:
            found = [(await connection.execute(text(query))).mappings().all() for query in (_LEDGER, _SUMS, _TOTALS)]
    finally:
        await database.aclose()
    return _Books(*found)


def _compare(books: _Books, seen: _Seen, section: Section) -> None:
    rows = books.rows
    of_number: defaultdict[int, list[RowMapping]] = defaultdict(list)
    for row in rows:
        of_number[int((row["correlation_id"] or "n0")[1:])].append(row)
    section.figures.append(Figure("rows in the ledger", "", [len(rows)]))
    wrong = section.wrong
    if len(seen.whole) == 0:
        wrong.append("no answer was received whole: there was nothing to look at")
    for number, found in of_number.items():
        if len(found) > 1:
            wrong.append(f"request {number} has {len(found)} rows")
        if not 1 <= number <= seen.asked:
            wrong.append(f"a row is of request {number}, which nobody made")
        [row] = found[:1]
        if row["end"] == "complete" and tuple(row[name] for name in _USAGE) != _tokens(number):
            wrong.append(f"request {number} is booked with {[row[name] for name in _USAGE]}, not {_tokens(number)}")
        if number not in seen.reached and row["end"] != "gateway-died":
            wrong.append(f"request {number} never reached the provider, and its row says {row['end']}")
    for number in seen.whole:
        if not any(row["end"] == "complete" and row["source"] == "provider" for row in of_number[number]):
            wrong.append(f"the answer to request {number} was received whole and is not booked")
    for number in seen.reached:
        if not of_number[number]:
            wrong.append(f"request {number} reached the provider and has no row")
    ends = Counter(row["end"] for row in rows)
    section.notes.append("how they ended: " + ", ".join(f"{end} {count:,}" for end, count in ends.most_common()))
    section.notes.append(f"rows of requests that a kill kept from the provider: {len(of_number) - len(seen.reached):,}")
    _compare_totals(books, wrong)
    _compare_sums(books, wrong)


def _compare_totals(books: _Books, wrong: list[str]) -> None:
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in books.rows:
        tokens = row["input_tokens"] + row["output_tokens"]
        counted[row["deployment_id"]].update(
            requests=1, tokens=tokens, cost=row["cost"] or 0, unpriced=row["cost"] is None
        )
    kept = {row["deployment_id"]: row for row in books.totals}
    for deployment in counted | kept:
        shown = {name: kept[deployment][name] if deployment in kept else 0 for name in counted[deployment]}
        if shown != counted[deployment]:
            wrong.append(f"deployment {deployment} is counted {shown}, and its rows are {dict(counted[deployment])}")


def _compare_sums(books: _Books, wrong: list[str]) -> None:
    counted: defaultdict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for row in books.rows:
        numbers = {
            "requests": 1,
            "errors": int(row["failed"]),
            "cost": row["cost"] or 0,
            "unpriced": row["cost"] is None,
            "total_ms": row["total_ms"],
            "first_byte_ms": row["first_byte_ms"] or 0,
            "first_byte_count": row["first_byte_ms"] is not None,
        } | {name: row[name] for name in _USAGE}
        for hours in (1, 24):
            period = hours * 3_600_000
            key = (*(row[name] for name in _SERIES), hours, row["started_at"] // period * period)
            counted[key].update(numbers)
    kept = {(*(row[name] for name in _SERIES), row["hours"], row["start"]): row for row in books.sums}
    for key in counted | kept:
        shown = {name: kept[key][name] if key in kept else 0 for name in counted[key]}
        if shown != counted[key]:
            wrong.append(f"the sums of {key} are {shown}, and its rows are {dict(counted[key])}")


def _said(log: Path, section: Section) -> Iterator[str]:
    """What must not stand in the log; what it says of recovering is told."""
    recovered = torn = 0
    for line in log.read_text().splitlines():
        if "Traceback" in line or '"exception"' in line:
            yield f"the log says {line[:500]}"
        if line.startswith("{"):
            said = json.loads(line)
            recovered += said.get("event") == "recovered the journals of processes that died" and said["rows"]
            torn += said.get("lines", 0) if "not whole" in said.get("event", "") else 0
    section.notes.append(f"{recovered:,} requests were in journals of the dead; lines that were torn: {torn}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-1500:] if log.exists() else "it said nothing"
