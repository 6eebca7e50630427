"""The measurements. Each gives figures: numbers of nginx and AIWM side by side, one for each round."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from bench import crowd, exchanges, wrk
from bench.callers import Tally, ask_all, open_streams, whole_answers
from bench.figures import Figure, Section, Target, added, growth, percentile
from bench.nginx import Nginx
from bench.processes import Cores, pinned
from bench.soak import Soak
from bench.steady import Overrun, Times, steady
from bench.subjects import Asked, Gateway, Provider, Subject, has_workers
from bench.wrk import Crowd

_SETTLE_SECONDS = 0.3
"""After a load, before the CPU time is read: AIWM's ledger is written a little later than the answers."""
_EVENTS = 100
_NARROW, _NARROW_INTERVAL = 64, 0.01
_WIDE, _WIDE_INTERVAL = 1000, 0.1
_STREAMS_A_SECOND = 20
_RATES = (200, 1000)
_OPEN = (1000, 5000)
_FOREVER = 3600.0
_BODIES = ((100_000, "100 kB", None), (5_000_000, "5 MB", Target(reach=1.5, aim=1.1)))
_MANY = 10_000

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often."""

    rounds: int
    seconds: int
    """Of full speed in a round."""
    streams: int
    """Streams on each connection in a round."""
    steady: int
    """Seconds of load at a constant rate in a round."""
    starts: int
    growth: int
    """Seconds of full speed that memory is watched for."""
    soak: int
    idle_seconds: int
    """How long connections may take to go after the soak; 0 does not wait. AIWM keeps those to a provider for 30 s."""

    @property
    def few(self) -> int:
        """Rounds of what takes long."""
        return min(self.rounds, 3)


class Bench:
    """All subjects before the same providers, and the load that is put on them."""

    def __init__(
        self,
        *,
        nginx: Nginx,
        gateway: Gateway,
        peers: Sequence[Subject],
        fixed: Provider,
        asked: Asked,
        cores: Cores,
        effort: Effort,
        folder: Path,
    ) -> None:
        self._nginx = nginx
        self._gateway = gateway
        self._peers = peers
        self._fixed = fixed
        self._asked = asked
        self._cores = cores
        self._effort = effort
        self._folder = folder
        self._more = ExitStack()
        self._children = [nginx.child, gateway.child, *(peer.child for peer in peers), fixed.child, asked.child]

    def close(self) -> None:
        self._more.close()

    def start(self) -> Section:
        """Leaves all running."""
        first = Figure("first start: to the first answer", "ms", aiwm=[self._gateway.first_start() * 1000])
        start = Figure("start: to the first answer of a model", "ms", target=Target(1200, 500, absolute=True))
        idle = Figure("memory, idle", "MiB", target=Target(100, 70, absolute=True))
        files = Figure("open files, idle", "")
        section = Section("start and memory", [first, start, idle, files])
        for _ in range(self._effort.starts):
            for subject in self._everybody[:2]:
                subject.child.stop()
                start.put(subject.name, subject.start() * 1000)
        for peer in self._peers:
            start.put(peer.name, peer.start() * 1000)
        for subject in self._everybody:
            subject.child.settle()
            idle.put(subject.name, subject.child.rss_mib())
            files.put(subject.name, subject.child.descriptors())
        return section

    def chat(self) -> Section:
        cpu = Figure("CPU a request", "us", target=Target(3.0, 2.0))
        rate = Figure("requests/s on one core", "")
        busy = Figure("of which it took", "%")
        p50, p99 = Figure("latency p50", "ms"), Figure("latency p99", "ms")
        section = Section("chat: 1 kB in, 1.2 kB out, 64 connections at full speed", [cpu, rate, busy, p50, p99])

        def measured(subject: Subject) -> None:
            run, spent = self._wrk(subject, subject.base + exchanges.CHAT_PATH, exchanges.chat_request())
            if not run.requests:
                self._say(section, subject, f"no answer within {run.duration:.0f} s")
                return
            cpu.put(subject.name, spent / run.requests * 1e6)
            rate.put(subject.name, run.per_second)
            busy.put(subject.name, spent / run.duration * 100)
            p50.put(subject.name, run.p50_ms)
            p99.put(subject.name, run.p99_ms)
            self._failed(section, subject, run.failed)

        for subject in self._everybody:
            # Some compile what they run while they run it.
            seconds = 2 * self._effort.seconds if subject in self._peers else 1
            self._wrk(subject, subject.base + exchanges.CHAT_PATH, exchanges.chat_request(), seconds=seconds)
        self._in_turns(measured, self._everybody)
        return section

    def streams(self) -> Section:
        narrow = Figure(f"{_NARROW} at once: CPU an event", "us", target=Target(2.2, 1.5))
        wide = Figure(f"{_WIDE:,} at once: CPU an event", "us", target=Target(2.2, 1.5))
        first = Figure(f"{_STREAMS_A_SECOND} a second: added to the first event, p50", "us", target=Target(3.0, 1.5))
        section = Section(
            f"streams: {_EVENTS} events of 210 bytes; one every {_NARROW_INTERVAL * 1000:g} ms, "
            f"of {_WIDE:,} streams every {_WIDE_INTERVAL * 1000:g} ms",
            [narrow, wide, first],
        )

        def at_once(figure: Figure, number: int, interval: float, each: int) -> Callable[[Subject], None]:
            def measured(subject: Subject) -> None:
                spent, tally = self._streams(subject, number, interval, each)
                if tally.events:
                    figure.put(subject.name, spent / tally.events * 1e6)
                self._lost(section, subject, tally.lost)

            return measured

        for subject in self._everybody:
            self._streams(subject, _NARROW, _NARROW_INTERVAL, 1)
        self._in_turns(at_once(narrow, _NARROW, _NARROW_INTERVAL, self._effort.streams), self._everybody)
        self._in_turns(at_once(wide, _WIDE, _WIDE_INTERVAL, 1), rounds=self._effort.few)
        self._first_events(first, section)
        return section

    def _first_events(self, figure: Figure, section: Section) -> None:
        paths = {subject.name: subject.streams + exchanges.CHAT_PATH for subject in (self._nginx, self._gateway)}
        body = exchanges.stream_request()
        for _ in range(self._effort.rounds):
            found = self._steadily(paths, body, _STREAMS_A_SECOND, self._asked.port, section, events=10, interval=0.01)
            if found is None:
                continue
            direct, through = found
            firsts = {name: times.first for name, times in through.items()}
            for name, seconds in added(firsts, direct.first, 50).items():
                figure.put(name, seconds * 1e6)

    def latency(self) -> Section:
        section = Section("latency: chats at a constant rate, each timed from when it was due", [])
        paths = {subject.name: subject.base + exchanges.CHAT_PATH for subject in (self._nginx, self._gateway)}
        for rate in _RATES:
            target = Target(2.5, 1.5) if rate == _RATES[0] else None
            p50 = Figure(f"{rate:,}/s: added p50", "us", target=target)
            p99, p999 = Figure(f"{rate:,}/s: added p99", "us"), Figure(f"{rate:,}/s: added p99.9, all rounds", "us")
            all_direct: list[float] = []
            all_through: dict[str, list[float]] = {name: [] for name in paths}
            for _ in range(self._effort.rounds):
                found = self._steadily(paths, exchanges.chat_request(), rate, self._fixed.port, section)
                if found is None:
                    continue
                direct, through = found
                times = {name: each.whole for name, each in through.items()}
                for figure, percent in ((p50, 50), (p99, 99)):
                    for name, seconds in added(times, direct.whole, percent).items():
                        figure.put(name, seconds * 1e6)
                all_direct += direct.whole
                for name in times:
                    all_through[name] += times[name]
            if not all_direct:
                continue
            for name, seconds in added(all_through, all_direct, 99.9).items():
                p999.put(name, seconds * 1e6)
            section.figures += [p50, p99, p999]
            section.notes.append(
                f"{rate:,}/s without any gateway: p50 {percentile(all_direct, 50) * 1e6:.0f} us, "
                f"p99 {percentile(all_direct, 99) * 1e6:.0f} us, p99.9 {percentile(all_direct, 99.9) * 1e6:.0f} us"
            )
        return section

    def _steadily(
        self,
        paths: Mapping[str, str],
        body: bytes,
        rate: float,
        provider: int,
        section: Section,
        *,
        events: int = 0,
        interval: float = 0,
    ) -> tuple[Times, dict[str, Times]] | None:
        """One round: the provider asked directly, and through each of the subjects; None if one can't keep up."""
        headers = exchanges.headers(self._gateway.token, events=events, interval=interval)
        ports = {"nginx": self._nginx.port, "AIWM": self._gateway.port}

        def ask(name: str, port: int, path: str) -> Times:
            request = exchanges.whole_request(path, headers, body)
            steady(port, request, rate=rate, seconds=0.2)
            times = steady(port, request, rate=rate, seconds=self._effort.steady)
            if times.lost:
                section.wrong.append(f"{name}: {len(times.lost)} answers lost, the first one: {times.lost[0]}")
            return times

        name = "the provider"
        through = {}
        try:
            direct = ask(name, provider, exchanges.CHAT_PATH)
            for name, path in paths.items():
                through[name] = ask(name, ports[name], path)
        except Overrun as error:
            section.notes.append(f"a round is missing: {name} {error}")
            return None
        return direct, through

    def memory(self) -> Section:
        """Of processes that have just started, so that no earlier load has left room for this one."""
        figures = {
            number: Figure(f"each of {number:,} open idle streams", "kB", target=Target(40, 15, absolute=True))
            for number in _OPEN
        }
        before = Figure("memory before", "MiB")
        after = Figure("memory after they have gone", "MiB")
        grown = Figure("growth in requests at full speed after that", "%", target=Target(2, 1, absolute=True))
        section = Section("memory", [before, *figures.values(), after, grown])
        for subject in (self._nginx, self._gateway):
            subject.child.stop()
            subject.start()
            subject.child.settle()
            self._wrk(subject, subject.base + exchanges.CHAT_PATH, exchanges.chat_request(), seconds=1, connections=8)
            empty = subject.child.rss_mib()
            before.put(subject.name, empty)
            for number, figure in figures.items():
                figure.put(subject.name, (self._holding(subject, number) - empty) * 1024 / number)
            subject.child.settle()
            after.put(subject.name, subject.child.rss_mib())
            self._growth(subject, grown, section)
        return section

    def _holding(self, subject: Subject, number: int) -> float:
        """MiB while so many streams are open. What was there before is used first: both numbers start from idle."""
        request = self._request(subject, subject.streams, events=2, interval=_FOREVER)

        async def held() -> float:
            async with open_streams(subject.port, request, number):
                await asyncio.sleep(_SETTLE_SECONDS)
                return subject.child.rss_mib()

        held_by: float = _run(held())
        return held_by

    def _growth(self, subject: Subject, figure: Figure, section: Section) -> None:
        """From when the heap has its size for such a load."""
        path, body = subject.base + exchanges.CHAT_PATH, exchanges.chat_request()
        self._wrk(subject, path, body, seconds=max(1, self._effort.growth // 4))
        warm = subject.child.rss_mib()
        run, _ = self._wrk(subject, path, body, seconds=self._effort.growth)
        figure.put(subject.name, growth(warm, subject.child.rss_mib()))
        section.notes.append(f"{subject.name} answered {run.requests:,} requests meanwhile")

    def bodies(self) -> Section:
        section = Section("bodies: 4 connections at full speed", [])
        for number, name, target in _BODIES:
            for way, length, answer in ((f"{name} up", number, 100), (f"{name} down", 100, number)):
                cpu, rate = Figure(f"{way}: CPU a body", "us", target=target), Figure(f"{way}: MB/s", "")
                body, path = exchanges.body_request(length), exchanges.body_path(answer)

                def measured(
                    subject: Subject, cpu: Figure = cpu, rate: Figure = rate, body: bytes = body, path: str = path
                ) -> None:
                    run, spent = self._wrk(
                        subject, subject.bodies + path, body, connections=4, seconds=min(2, self._effort.seconds)
                    )
                    cpu.put(subject.name, spent / max(run.requests, 1) * 1e6)
                    rate.put(subject.name, (run.bytes + run.requests * len(body)) / 1e6 / run.duration)
                    self._failed(section, subject, run.failed)

                for subject in (self._nginx, self._gateway):
                    self._wrk(subject, subject.bodies + path, body, connections=4, seconds=1)
                self._in_turns(measured, rounds=self._effort.few)
                section.figures += [cpu, rate]
        return section

    def many(self) -> Section:
        """A second AIWM with all of them, beside the one that has a few; both take turns."""
        crowded = self._crowded()
        data, token = crowded.data, crowded.token
        crowded.child.stop()
        ids = crowd.deployments(data, _MANY)
        start = Figure(f"start with {_MANY:,} deployments", "ms", aiwm=[crowded.start() * 1000])
        callers = list(crowd.tokens(data, token, _MANY))
        crowded.child.settle()
        paths = [crowded.inference(id_) + exchanges.CHAT_PATH for id_ in ids]
        crowds = {
            "100 deployments": [(path, token) for path in paths[:100]],
            f"{_MANY:,} deployments": [(path, token) for path in paths],
            f"{_MANY:,} tokens": [(paths[0], caller) for caller in callers],
            f"{_MANY:,} of both": list(zip(paths, callers, strict=True)),
        }
        one = Figure("one deployment, one token: CPU a request", "us")
        of_crowd = {name: Figure(f"{name}: CPU a request", "us") for name in crowds}
        cost = {name: Figure(f"{name}: more than one", "%", target=Target(10, 2, absolute=True)) for name in crowds}
        section = Section("many: chats at 64 connections, each for another deployment or from another caller", [start])
        section.figures.append(one)

        def asked(subject: Subject, members: Sequence[tuple[str, str]], *, warm: bool = False) -> float:
            run, spent = self._wrk(
                subject,
                "/",
                exchanges.chat_request(),
                seconds=max(3, _MANY // 800) if warm else self._effort.seconds,
                crowd=Crowd(members, in_turn=warm),
            )
            self._failed(section, subject, run.failed)
            return spent / max(run.requests, 1) * 1e6

        alone = [(self._gateway.base + exchanges.CHAT_PATH, self._gateway.token)]
        for name, members in crowds.items():
            # Each of them some times, one after the other: what a gateway remembers of them is there before.
            asked(crowded, members, warm=True)
            for _ in range(self._effort.few):
                one.put("AIWM", asked(self._gateway, alone))
                one.put("nginx", asked(self._nginx, alone))
                of_crowd[name].put("AIWM", asked(crowded, members))
                of_crowd[name].put("nginx", asked(self._nginx, members))
                cost[name].put("AIWM", growth(one.aiwm[-1], of_crowd[name].aiwm[-1]))
        section.figures += [figure for name in crowds for figure in (of_crowd[name], cost[name])]
        section.figures.append(Figure("memory with all of them", "MiB", aiwm=[crowded.child.rss_mib()]))
        crowded.child.stop()
        return section

    def _crowded(self) -> Gateway:
        return self._another("crowded", cores={self._cores.measured})

    def _another(self, name: str, *, cores: Collection[int], workers: int = 1) -> Gateway:
        """One more AIWM, with keys and tables of its own. It runs until it is stopped, or all is over."""
        gateway = Gateway(self._folder / name, self._fixed, self._asked, cores=cores, workers=workers)
        self._more.callback(gateway.child.stop)
        self._children.append(gateway.child)
        gateway.first_start()
        gateway.child.settle()
        return gateway

    def workers(self) -> Section:
        """With two cores, two workers share them with the load: what that takes is missing from the ratio."""
        section = Section("workers: chats at 64 connections, two workers on two cores beside one on one", [])
        if not has_workers():
            section.notes.append("not available: this `aiwm serve` has no --workers")
            return section
        if self._cores.number < 2:
            section.notes.append("not available: there is one core only")
            return section
        two = self._another("workers", cores=self._cores.two, workers=2)
        rate = Figure("one worker: requests/s", "")
        rates = Figure("two workers: requests/s", "")
        ratio = Figure("two beside one: requests/s", "x", target=Target(1.7, 1.95, absolute=True, at_least=True))
        cpu = Figure("two workers: CPU a request, more than one", "%")
        memory = Figure("two workers: memory", "MiB")
        for gateway in (self._gateway, two):
            self._wrk(gateway, gateway.base + exchanges.CHAT_PATH, exchanges.chat_request(), seconds=2, owner=gateway)
        for _ in range(self._effort.rounds):
            spent = []
            for gateway, figure, cores in ((self._gateway, rate, {self._cores.load}), (two, rates, self._cores.rest)):
                with pinned(cores):
                    run, seconds = self._wrk(
                        gateway, gateway.base + exchanges.CHAT_PATH, exchanges.chat_request(), owner=gateway
                    )
                figure.put("AIWM", run.per_second)
                spent.append(seconds / max(run.requests, 1))
                self._failed(section, gateway, run.failed)
            ratio.put("AIWM", rates.aiwm[-1] / rate.aiwm[-1])
            cpu.put("AIWM", growth(*spent))
        memory.put("AIWM", two.child.rss_mib())
        two.child.stop()
        section.figures += [rate, rates, ratio, cpu, memory]
        if self._cores.rest & self._cores.two:
            section.notes.append("load and provider run on the same cores as the two workers, and take from them")
        return section

    def soak(self) -> Section:
        return Soak(self._gateway, self._asked, self._effort.soak, self._effort.idle_seconds).run()

    @property
    def _everybody(self) -> Sequence[Subject]:
        return self._nginx, self._gateway, *self._peers

    def cpu_seconds(self) -> float:
        """Of all that runs."""
        return sum(child.cpu_seconds() for child in self._children if child.runs)

    def _streams(self, subject: Subject, number: int, interval: float, each: int) -> tuple[float, Tally]:
        request = self._request(subject, subject.streams, events=_EVENTS, interval=interval)
        before = subject.child.cpu_seconds()
        # Not all in the same millisecond, or one wake-up would serve them all.
        tally = _run(
            ask_all(
                subject.port,
                [request] * (number * each),
                connections=number,
                whole=self._whole(subject),
                spread=interval,
                seconds=30 + each * _EVENTS * interval * 5,
            )
        )
        time.sleep(_SETTLE_SECONDS)
        return subject.child.cpu_seconds() - before, tally

    def _request(self, subject: Subject, base: str, *, events: int, interval: float) -> bytes:
        headers = exchanges.headers(self._gateway.token, events=events, interval=interval)
        headers |= subject.headers(streamed=True)
        return exchanges.whole_request(base + exchanges.CHAT_PATH, headers, exchanges.stream_request())

    def _wrk(
        self,
        subject: Subject,
        path: str,
        body: bytes,
        *,
        seconds: int | None = None,
        connections: int = 64,
        crowd: Crowd | None = None,
        owner: Gateway | None = None,
    ) -> tuple[wrk.Run, float]:
        """The run, and the CPU seconds that it cost. `owner` is whose token is shown."""
        url = f"http://127.0.0.1:{subject.port}{path}"
        before = subject.child.cpu_seconds()
        headers = exchanges.headers((owner or self._gateway).token) | subject.headers(streamed=False)
        run = wrk.run(
            self._folder,
            url,
            headers,
            body,
            connections=connections,
            seconds=seconds or self._effort.seconds,
            crowd=crowd,
        )
        time.sleep(_SETTLE_SECONDS)
        return run, subject.child.cpu_seconds() - before

    def _whole(self, subject: Subject) -> frozenset[bytes] | None:
        """The answers that may come; None if the provider makes them up, or who passes them on makes them anew."""
        if self._asked.kind != "stand-in" or subject in self._peers:
            return None
        return whole_answers(_EVENTS)

    def _in_turns(
        self, measured: Callable[[Subject], None], subjects: Sequence[Subject] = (), *, rounds: int | None = None
    ) -> None:
        subjects = subjects or (self._nginx, self._gateway)
        for _ in range(rounds or self._effort.rounds):
            for subject in subjects:
                measured(subject)
            subjects = subjects[::-1]

    def _failed(self, section: Section, subject: Subject, number: int) -> None:
        if number:
            self._say(section, subject, f"{number} requests failed")

    def _lost(self, section: Section, subject: Subject, lost: Sequence[str]) -> None:
        if lost:
            self._say(section, subject, f"{len(lost)} answers lost, the first one: {lost[0]}")

    def _say(self, section: Section, subject: Subject, text: str) -> None:
        """What a peer does wrong is worth knowing, and no fault of ours."""
        (section.notes if subject in self._peers else section.wrong).append(f"{subject.name}: {text}")


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
