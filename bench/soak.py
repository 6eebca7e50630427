"""Many requests, a third of them streams, a tenth of them of callers who leave before the end: whether memory stays,
whether everything that was opened is closed again, and whether the books are exact.

Each request has a number. The provider remembers which it was asked, the callers which they received whole, and the
ledger must say the same.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import uvloop

from bench import exchanges
from bench.callers import Answer, Caller, Lost
from bench.figures import Figure, Section, Target, growth
from bench.subjects import Asked, Gateway

_CONNECTIONS = 256
_WARM_UP = 5000
_EVENTS, _INTERVAL = 10, 0.005
_LOOKS = 10
"""At memory, one after each tenth of the requests."""
_ENOUGH = 100_000
"""Requests; after fewer, the heap has not found its size yet, and nothing can be said of its growth."""
_SAYS_EVERY = 10.0
_SLOWEST = 300
"""Requests a second: below it, what is missing is lost."""
_SETTLE_SECONDS = 20
_SHOWN = 5

_ROWS = """
SELECT correlation_id, input_tokens, output_tokens, "end", source, status
FROM ledger l JOIN ledger_labels w ON w.id = l.labels_id WHERE deployment_id = ?
"""


def streams(number: int) -> bool:
    return number % 3 == 0


def leaves(number: int) -> bool:
    """A tenth, of chats and streams alike."""
    return number % 10 == 7


def tokens(number: int) -> tuple[int, int]:
    """Of input and output, in the answer to that request."""
    variant = number % exchanges.VARIANTS
    return exchanges.stream_tokens(_EVENTS, variant) if streams(number) else exchanges.chat_tokens(variant)


def goes_within(number: int) -> bool:
    """Who leaves does it in the middle of a stream, or before anything came."""
    return streams(number) and number % 4 == 3


@dataclass(slots=True)
class Seen:
    """What happened, as the callers say."""

    whole: bytearray
    """By number: 1 where an answer was received whole."""
    answered: int = 0
    left_before: int = 0
    """Callers who went before the first byte of the body."""
    left_within: int = 0
    lost: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        return self.answered + self.left_before + self.left_within + len(self.lost)


class Soak:
    def __init__(self, gateway: Gateway, asked: Asked, requests: int, idle_seconds: int) -> None:
        self._gateway = gateway
        self._child = gateway.child
        self._asked = asked
        self._requests = requests
        self._idle_seconds = idle_seconds
        self._chats = [exchanges.chat_answer(variant) for variant in range(exchanges.VARIANTS)]
        self._streams = [b"".join(exchanges.stream_answer(_EVENTS, each)) for each in range(exchanges.VARIANTS)]
        path = gateway.inference(gateway.soaked)
        self._templates = (
            self._template(path, {}, exchanges.chat_request()),
            self._template(path, exchanges.switches(_EVENTS, _INTERVAL), exchanges.stream_request()),
        )

    def run(self) -> Section:
        number = self._requests
        memory = Figure("memory after each tenth", "MiB", series=True)
        grown = Figure("growth since the first tenth", "%")
        if number >= _ENOUGH:
            grown.target = Target(2, 1, absolute=True)
        when = "before, after, idle again" if self._idle_seconds else "before, after"
        files = Figure(f"open files {when}", "", series=True)
        links = Figure(f"connections {when}", "", series=True)
        section = Section(
            f"soak: {number:,} requests, {_CONNECTIONS} at once, a third streams, a tenth of the callers leave early",
            [memory, grown, files, links],
        )

        def look() -> None:
            files.aiwm.append(self._child.descriptors())
            links.aiwm.append(self._child.connections())

        seen = Seen(bytearray(_WARM_UP + number))
        # The heap that the first load of this width takes stays; what grows after it would be a leak.
        self._load(seen, range(_WARM_UP), [])
        look()
        before, began, spent = self._child.rss_mib(), time.perf_counter(), self._spent()
        self._load(seen, range(_WARM_UP, _WARM_UP + number), memory.aiwm)
        seconds = time.perf_counter() - began
        of_aiwm, of_load = (after - before for after, before in zip(self._spent(), spent, strict=True))
        look()
        grown.aiwm.append(growth(memory.aiwm[0], memory.aiwm[-1]))
        section.notes.append(
            f"{number / seconds:,.0f} requests/s for {seconds:,.0f} s after {_WARM_UP:,} to warm up, and "
            f"{before:.1f} MiB; {seen.answered:,} answers whole, {seen.left_before:,} callers left before the first "
            f"byte of a body, {seen.left_within:,} within it, {len(seen.lost)} answers lost"
        )
        section.notes.append(
            f"CPU a request: {of_aiwm / number * 1e6:.0f} us, and {of_load / number * 1e6:.0f} us of load and provider"
        )
        if seen.lost:
            section.wrong.append(f"{len(seen.lost)} answers lost, the first one: {seen.lost[0]}")
        self._compare(seen, section)
        if self._idle_seconds:
            deadline = time.monotonic() + self._idle_seconds
            while self._child.connections() and time.monotonic() < deadline:
                time.sleep(0.5)
            look()
            if links.aiwm[-1]:
                section.wrong.append(f"{links.aiwm[-1]:.0f} connections are still open")
        return section

    def _spent(self) -> tuple[float, float]:
        """CPU seconds so far: of AIWM, and of the load with its provider."""
        return self._child.cpu_seconds(), time.process_time() + self._asked.child.cpu_seconds()

    # -- the load

    def _template(self, path: str, switches: dict[str, str], body: bytes) -> bytes:
        """A request with `%d` where its number goes."""
        headers = switches | exchanges.headers(self._gateway.token) | {"x-correlation-id": "n@"}
        request = exchanges.whole_request(f"{path}{exchanges.CHAT_PATH}?n=@", headers, body)
        return request.replace(b"%", b"%%").replace(b"@", b"%d")

    def _load(self, seen: Seen, numbers: range, memory: list[float]) -> None:
        waiting = iter(numbers)

        async def load() -> None:
            watching = asyncio.create_task(self._watch(seen, len(numbers), memory))
            before = seen.done
            try:
                async with asyncio.timeout(60 + len(numbers) / _SLOWEST):
                    await asyncio.gather(*(self._caller(seen, waiting) for _ in range(_CONNECTIONS)))
            except TimeoutError:
                seen.lost += ["no answer in time"] * (len(numbers) - (seen.done - before))
            finally:
                watching.cancel()
            memory.append(self._child.rss_mib())

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(load())

    async def _caller(self, seen: Seen, waiting: Iterator[int]) -> None:
        caller = await Caller.connected(self._gateway.port)
        try:
            for number in waiting:
                try:
                    ended = caller.asked(self._templates[streams(number)] % (number, number))
                    if not leaves(number) or await self._is_over(caller, ended, number):
                        self._receive(seen, number, await ended)
                        continue
                    if caller.has_begun:
                        seen.left_within += 1
                    else:
                        seen.left_before += 1
                    ended.cancel()
                    # Some say goodbye, of others the machine goes.
                    if number % 20 == 7:
                        caller.abort()
                except Lost as error:
                    seen.lost.append(f"request {number}: {error}")
                caller.close()
                caller = await Caller.connected(self._gateway.port)
        finally:
            caller.close()

    async def _is_over(self, caller: Caller, ended: asyncio.Future[Answer], number: int) -> bool:
        """Whether the answer was whole before its caller left: each stays for another while."""
        if goes_within(number):
            await asyncio.wait((caller.begun(), ended), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((ended,), timeout=number % 100 * _INTERVAL * _EVENTS / 100)
        return ended.done()

    def _receive(self, seen: Seen, number: int, answer: Answer) -> None:
        if answer.status != 200:
            raise Lost(f"status {answer.status}: {answer.body[:200]!r}")
        expected = (self._streams if streams(number) else self._chats)[number % exchanges.VARIANTS]
        if answer.body != expected and self._asked.kind == "stand-in":
            raise Lost(f"{len(answer.body)} bytes that are not the provider's, ending {answer.body[-60:]!r}")
        seen.whole[number] = 1
        seen.answered += 1

    async def _watch(self, seen: Seen, number: int, memory: list[float]) -> None:
        """Takes memory at each tenth but the last, and says how far it is."""
        began, said, counted = seen.done, time.monotonic(), seen.done
        while True:
            await asyncio.sleep(0.1)
            done = seen.done - began
            if done >= number * (len(memory) + 1) / _LOOKS and len(memory) < _LOOKS - 1:
                memory.append(self._child.rss_mib())
            now = time.monotonic()
            if now - said >= _SAYS_EVERY:
                print(
                    f"  {done:,} of {number:,}, {(seen.done - counted) / (now - said):,.0f}/s, "
                    f"{self._child.rss_mib():.1f} MiB, {self._child.descriptors()} files, {len(seen.lost)} lost",
                    file=sys.stderr,
                    flush=True,
                )
                said, counted = now, seen.done

    # -- the books

    def _compare(self, seen: Seen, section: Section) -> None:
        if self._asked.kind != "stand-in":
            section.notes.append("the books are not compared: only the stand-in knows what it was asked")
            return
        counted = self._settled()
        with closing(sqlite3.connect(self._gateway.data / "aiwm.db")) as database:
            rows = database.execute(_ROWS, (self._gateway.soaked,)).fetchall()
        section.notes += compare(rows, seen.whole, self._asked.reached(), section.wrong)
        totals = {"requestCount": len(rows), "totalTokens": sum(row[1] + row[2] for row in rows)}
        section.wrong += [
            f"{name} is {counted[name]:,}, and the rows are {said:,}"
            for name, said in totals.items()
            if counted[name] != said
        ]

    def _settled(self) -> dict[str, int]:
        """The deployment's counts, when they do not change any more."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        counted: dict[str, int] = {}
        while True:
            before, counted = counted, self._gateway.call("GET", f"/deployments/{self._gateway.soaked}")
            if before.get("requestCount") == counted["requestCount"] or time.monotonic() > deadline:
                return counted
            time.sleep(0.5)


def compare(
    rows: list[tuple[str, int, int, str, str, int | None]], whole: bytearray, reached: bytes, wrong: list[str]
) -> list[str]:
    """Rows (name, input, output, end, source, status) with what callers received and what the provider was asked,
    both by number; what does not fit goes to `wrong`, and the answer tells what there is."""
    found = Counter[int]()
    ends = Counter[str]()
    faults: Counter[str] = Counter()
    examples: dict[str, str] = {}

    def fault(kind: str, example: str) -> None:
        faults[kind] += 1
        examples.setdefault(kind, example)

    booked = 0
    for name, taken, given, end, source, status in rows:
        number = int(name[1:])
        found[number] += 1
        ends[end] += 1
        booked += taken + given
        shown = f"request {number}: {taken} and {given} tokens from the {source}, {end}, {status}"
        if found[number] > 1:
            fault("rows too many", shown)
        if end == "complete" and ((taken, given) != tokens(number) or source != "provider"):
            fault("answers with other tokens than the provider's", shown)
        if number < len(whole) and whole[number] and end != "complete":
            fault("rows that say of a whole answer that it was not", shown)
        if number >= len(reached) or not reached[number]:
            fault("rows of requests that never reached the provider", shown)
    for number, times in enumerate(itertools.islice(reached, len(whole))):
        if times and not found[number]:
            fault("requests that reached the provider and have no row", f"request {number}")
        if times > 1:
            fault("requests that reached the provider more than once", f"request {number}: {times} times")
        if whole[number] and not times:
            fault("answers that the provider knows nothing of", f"request {number}")
    wrong += [f"{number:,} {kind}, for one {examples[kind]}" for kind, number in faults.most_common(_SHOWN)]
    received = sum(whole)
    said = sum(sum(tokens(number)) for number, is_whole in enumerate(whole) if is_whole)
    booked_whole = sum(row[1] + row[2] for row in rows if int(row[0][1:]) < len(whole) and whole[int(row[0][1:])])
    if said != booked_whole:
        wrong.append(f"answers received whole say {said:,} tokens, their rows {booked_whole:,}")
    return [
        f"{len(rows):,} rows for {sum(map(bool, reached)):,} requests that reached the provider, "
        + ", ".join(f"{number:,} {end}" for end, number in ends.most_common()),
        f"{received:,} answers received whole say {said:,} tokens, their rows {booked_whole:,}; all rows {booked:,}",
    ]
