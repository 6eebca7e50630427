"""The measurements. Each gives figures: numbers of nginx and AIWM side by side, one for each round."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import uvloop

from bench import exchanges, wrk
from bench.callers import Tally, ask_all, whole_answers
from bench.subjects import Gateway, Nginx, Provider, Subject

_SETTLE_SECONDS = 0.3
"""After a load, before the CPU time is read: AIWM's ledger is written a little later than the answers."""
_EVENTS, _INTERVAL = 100, 0.01
_SOAK_EVENTS, _SOAK_INTERVAL = 20, 0.005
_SOAK_SECONDS = 100
_SOAK_WARM_UP = 2000

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often."""

    rounds: int
    seconds: int
    streams: int
    """Streams on each connection in a round."""
    starts: int
    soak: int
    idle_seconds: int
    """How long connections may take to go after the soak; 0 does not wait. AIWM keeps those to a provider for 30 s."""


@dataclass(slots=True)
class Figure:
    """One number of both. `nginx` is empty where there is nothing to compare with."""

    name: str
    unit: str
    aiwm: list[float] = field(default_factory=list)
    nginx: list[float] = field(default_factory=list)
    target: float | None = None
    """What the ratio should not exceed."""

    @property
    def ratios(self) -> list[float]:
        """Of rounds that ran one right after the other: what else the machine does meets both."""
        return [aiwm / nginx for aiwm, nginx in zip(self.aiwm, self.nginx, strict=False) if nginx]

    @property
    def met(self) -> bool | None:
        return None if self.target is None or not self.ratios else median(self.ratios) <= self.target


@dataclass(slots=True)
class Section:
    title: str
    figures: list[Figure]
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What must not happen under any load: answers lost, counts that are not exact."""


class Bench:
    """Both subjects behind one provider, and the load that is put on them."""

    def __init__(self, nginx: Nginx, gateway: Gateway, provider: Provider, effort: Effort, folder: Path) -> None:
        self._nginx = nginx
        self._gateway = gateway
        self._provider = provider
        self._effort = effort
        self._folder = folder

    def chat(self) -> Section:
        cpu = Figure("CPU a request", "us", target=4.0)
        rate = Figure("requests/s", "")
        p50, p99 = Figure("latency p50", "ms"), Figure("latency p99", "ms")
        section = Section("chat: 1 kB in, 1.2 kB out, 64 connections at full speed", [cpu, rate, p50, p99])

        def measured(subject: Subject) -> None:
            run, spent = self._wrk(subject, exchanges.CHAT_PATH, exchanges.chat_request(), 64, self._effort.seconds)
            _put(cpu, subject, spent / run.requests * 1e6)
            _put(rate, subject, run.per_second)
            _put(p50, subject, run.p50_ms)
            _put(p99, subject, run.p99_ms)
            _failed(section, subject, run.failed)

        self._wrk(self._nginx, exchanges.CHAT_PATH, exchanges.chat_request(), 64, 1)
        self._wrk(self._gateway, exchanges.CHAT_PATH, exchanges.chat_request(), 64, 1)
        self._in_turns(measured)
        return section

    def streams(self) -> Section:
        cpu = Figure("CPU an event", "us")
        section = Section(
            f"streams: 64 at once, {_EVENTS} events of 210 bytes each, one every {_INTERVAL * 1000:g} ms", [cpu]
        )
        whole = self._whole(_EVENTS)

        def measured(subject: Subject) -> None:
            spent, tally = self._streams(subject, self._effort.streams, whole)
            _put(cpu, subject, spent / max(tally.events, 1) * 1e6)
            _lost(section, subject.name, tally)

        for subject in (self._nginx, self._gateway):
            self._streams(subject, 1, whole)
        self._in_turns(measured)
        return section

    def _streams(self, subject: Subject, each: int, whole: Collection[bytes] | None) -> tuple[float, Tally]:
        headers = exchanges.headers(self._gateway.token, events=_EVENTS, interval=_INTERVAL)
        request = exchanges.whole_request(subject.streams + exchanges.CHAT_PATH, headers, exchanges.stream_request())
        before = subject.child.cpu_seconds()
        # Not all in the same millisecond, or one wake-up would serve them all.
        tally = _run(
            ask_all(
                subject.port,
                [request] * (64 * each),
                connections=64,
                whole=whole,
                spread=_INTERVAL,
                seconds=30 + each * _EVENTS * _INTERVAL * 5,
            )
        )
        time.sleep(_SETTLE_SECONDS)
        return subject.child.cpu_seconds() - before, tally

    def large(self) -> Section:
        cpu, rate = Figure("CPU a MB", "us"), Figure("MB/s", "")
        section = Section("large: answers of 5 MB, 4 connections at full speed", [cpu, rate])

        def measured(subject: Subject) -> None:
            run, spent = self._wrk(subject, exchanges.LARGE_PATH, exchanges.large_request(), 4, self._effort.seconds)
            megabytes = run.bytes / 1e6
            _put(cpu, subject, spent / megabytes * 1e6)
            _put(rate, subject, megabytes / run.duration)
            _failed(section, subject, run.failed)

        self._in_turns(measured)
        return section

    def start(self) -> Section:
        """Leaves both running."""
        first = Figure("first start: to the first answer", "ms", aiwm=[self._gateway.first_start() * 1000])
        start = Figure("start: to the first answer of a model", "ms")
        idle = Figure("RSS, idle", "MiB")
        files = Figure("open files, idle", "")
        for _ in range(self._effort.starts):
            for subject in (self._nginx, self._gateway):
                subject.child.stop()
                _put(start, subject, subject.start() * 1000)
        time.sleep(1)
        for subject in (self._nginx, self._gateway):
            _put(idle, subject, subject.child.rss_mib())
            _put(files, subject, subject.child.descriptors())
        return Section("start and memory", [first, start, idle, files])

    def soak(self) -> Section:
        """Every answer is looked at, and what they say is compared with what AIWM has counted."""
        gateway, number, child = self._gateway, self._effort.soak, self._gateway.child
        when = "before, after, idle again" if self._effort.idle_seconds else "before, after"
        memory = Figure(f"RSS {when}", "MiB")
        files = Figure(f"open files {when}", "")
        links = Figure(f"connections {when}", "")
        section = Section(f"soak: {number:,} requests, 256 at once, every other one a stream", [memory, files, links])

        def look() -> None:
            memory.aiwm.append(child.rss_mib())
            files.aiwm.append(child.descriptors())
            links.aiwm.append(child.connections())

        # The heap that the first load of this width takes stays; what grows after it would be a leak.
        self._half_streams(gateway.deployed, _SOAK_WARM_UP)
        look()
        began = time.perf_counter()
        tally = self._half_streams(gateway.soaked, number)
        seconds = time.perf_counter() - began
        _lost(section, gateway.name, tally)
        counted = gateway.call("GET", f"/deployments/{gateway.soaked}")
        for name, said in (("requestCount", tally.answers), ("totalTokens", tally.tokens)):
            if counted[name] != said:
                section.wrong.append(f"{name} is {counted[name]:,}, and the answers say {said:,}")
        section.notes.append(
            f"{tally.answers:,} answers whole in {seconds:.1f} s, {len(tally.lost)} lost; "
            f"AIWM counted {counted['requestCount']:,} requests and {counted['totalTokens']:,} tokens, "
            f"the answers say {tally.answers:,} and {tally.tokens:,}"
        )
        look()
        if self._effort.idle_seconds:
            deadline = time.monotonic() + self._effort.idle_seconds
            while child.connections() and time.monotonic() < deadline:
                time.sleep(0.5)
            look()
        return section

    def _half_streams(self, deployment: str, number: int) -> Tally:
        path, token = self._gateway.inference(deployment) + exchanges.CHAT_PATH, self._gateway.token
        streaming = exchanges.headers(token, events=_SOAK_EVENTS, interval=_SOAK_INTERVAL)
        chat = exchanges.whole_request(path, exchanges.headers(token), exchanges.chat_request())
        stream = exchanges.whole_request(path, streaming, exchanges.stream_request())
        whole = self._whole(_SOAK_EVENTS)
        return _run(
            ask_all(
                self._gateway.port,
                [chat, stream] * (number // 2),
                connections=256,
                whole=whole,
                seconds=_SOAK_SECONDS,
            )
        )

    def _wrk(self, subject: Subject, path: str, body: bytes, connections: int, seconds: int) -> tuple[wrk.Run, float]:
        """The run, and the CPU seconds that it cost."""
        url = f"http://127.0.0.1:{subject.port}{subject.base}{path}"
        before = subject.child.cpu_seconds()
        headers = exchanges.headers(self._gateway.token)
        run = wrk.run(self._folder, url, headers, body, connections=connections, seconds=seconds)
        time.sleep(_SETTLE_SECONDS)
        return run, subject.child.cpu_seconds() - before

    def _whole(self, events: int) -> frozenset[bytes] | None:
        """The answers that may come; None if the provider makes them up."""
        return whole_answers(events) if self._provider.kind == "stand-in" else None

    def _in_turns(self, measured: Callable[[Subject], None]) -> None:
        subjects: Sequence[Subject] = (self._nginx, self._gateway)
        for _ in range(self._effort.rounds):
            for subject in subjects:
                measured(subject)
            subjects = subjects[::-1]


def _put(figure: Figure, subject: Subject, value: float) -> None:
    (figure.nginx if subject.name == "nginx" else figure.aiwm).append(value)


def _failed(section: Section, subject: Subject, number: int) -> None:
    if number:
        section.wrong.append(f"{subject.name}: {number} requests failed")


def _lost(section: Section, name: str, tally: Tally) -> None:
    if tally.lost:
        section.wrong.append(f"{name}: {len(tally.lost)} answers lost, the first one: {tally.lost[0]}")


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
