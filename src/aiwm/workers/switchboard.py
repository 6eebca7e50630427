"""What workers have in common, kept where none of them can take it along when it dies: in their parent.

It passes words from one worker to the others, gives each lock to one at a time, and knows who leads. A worker hears
what others say from `join` on, which it says before it reads anything from the database: so what it has read is never
older than what it was told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiwm.domain import times
from aiwm.domain.times import Clock
from aiwm.errors import Unavailable
from aiwm.metering.counts import Counts
from aiwm.metering.tallies import Tally, added
from aiwm.workers.line import Gone, Hear, Line
from aiwm.workers.shared import words

PATIENCE_SECONDS: Final = 30.0
"""How long a worker may take to follow what another one has changed."""

LEADER: Final = 1
"""The number of the worker that does what only one may do."""

Told = tuple[bool, Any]
"""Whether a word went well, and the value or the reason."""


class Lock:
    """One at a time, in the order of asking; `None` is nobody."""

    def __init__(self) -> None:
        self._holder: int | None = None
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, who: int) -> None:
        if self._holder is None:
            self._holder = who
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((who, turn))
        await turn

    def give_back(self, who: int) -> None:
        if self._holder != who:
            return
        self._holder = None
        while self._waiting and self._holder is None:
            self._holder, turn = self._waiting.popleft()
            turn.set_result(None)

    def forget(self, who: int) -> None:
        """It has died, waiting or not."""
        self._waiting = deque(each for each in self._waiting if each[0] != who)
        self.give_back(who)


class Switchboard:
    def __init__(
        self, *, stuck: Callable[[int], None], clock: Clock = times.now, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """`stuck` ends a worker that did not follow a change: what it would go on to do would be wrong."""
        self._stuck = stuck
        self._patience_seconds = patience_seconds
        self._joined: dict[int, Line] = {}
        self._parting: set[int] = set()
        """Those of them who hear nothing any more, but have not come to their end."""
        self._locks: dict[str, Lock] = {}
        self._left = asyncio.Condition()
        self._deaths = 0
        self._counts = Counts(clock)
        self._tallies: dict[int, Tally] = {}
        """What each worker had counted when it was asked last."""
        self._departed: Tally = {}
        """What those had counted that are no more, when they were asked last: a sum never becomes less."""
        self._unmourned: dict[int, Sequence[str]] = {}
        """Deaths of workers whose journals nobody has moved into the ledger yet, and the requests that hold money."""

    def words(self, me: int, line: Callable[[], Line]) -> Hear:
        """What the worker `me`, at the other end of `line`, may say."""
        return {
            "join": lambda: self._join(me, line()),
            "part": lambda: self._parting.add(me),
            "tell": lambda name, *values: self._tell(me, name, values),
            "others": lambda name, *values: self._others(me, name, values),
            "changed": lambda what, *values: self._changed(me, what, values),
            "lead": lambda name, *values: self._lead(me, name, values),
            "lock": lambda name: self._lock(name).take(me),
            "unlock": lambda name: self._lock(name).give_back(me),
            "alone": lambda: self._alone(me),
            "deaths": lambda: sorted(self._unmourned),
            "mourned": self._mourned,
            "tallies": lambda own: self._all_tallies(me, own),
            **words(me, self._counts),
        }

    async def left(self, me: int) -> None:
        """Its process is no more, and may have changed things without telling anybody."""
        self._parting.discard(me)
        if self._joined.pop(me, None) is not None:
            self._deaths += 1
            self._unmourned[self._deaths] = self._counts.died(me)
        last = self._tallies.pop(me, None)
        if last is not None:
            self._departed = added(self._departed, {"counters": last["counters"]})
        for lock in self._locks.values():
            lock.forget(me)
        for _, line in self._hearing(me):
            line.tell("died")
        async with self._left:
            self._left.notify_all()

    def _join(self, me: int, line: Line) -> None:
        self._joined[me] = line
        self._lead(me, "joined", ())

    def _tell(self, me: int, name: str, values: Sequence[Any]) -> None:
        for _, line in self._hearing(me):
            line.tell(name, *values)

    def _hearing(self, me: int) -> list[tuple[int, Line]]:
        """The others, as far as they hear anything."""
        return [each for each in self._joined.items() if each[0] != me and each[0] not in self._parting]

    async def _others(self, me: int, name: str, values: Sequence[Any]) -> list[Told]:
        """Asks all others, at the same time. Who dies over it says nothing."""
        return await self._from_others(me, lambda line, _: line.ask(name, *values))

    async def _changed(self, me: int, what: str, values: Sequence[Any]) -> None:
        """Returns when no worker does any more what it did before the change."""

        async def follows(line: Line, number: int) -> None:
            following = asyncio.ensure_future(line.ask(what, *values))
            try:
                await asyncio.wait_for(asyncio.shield(following), self._patience_seconds)
            except TimeoutError:
                self._stuck(number)
                await following

        await self._from_others(me, follows)

    async def _from_others(self, me: int, asked: Callable[[Line, int], Awaitable[Any]]) -> list[Told]:
        async def one(number: int, line: Line) -> Told | None:
            try:
                return True, await asked(line, number)
            except Gone:
                await self._until(lambda: number not in self._joined)
                return None  # What it has left behind can be found now.
            except Unavailable as error:
                return False, str(error)

        others = [one(number, line) for number, line in self._hearing(me)]
        return [told for told in await asyncio.gather(*others) if told is not None]

    def _lead(self, me: int, name: str, values: Sequence[Any]) -> None:
        """To the leader. While there is none it is nothing: the next one looks at everything when it begins."""
        for number, line in self._hearing(me):
            if number == LEADER:
                line.tell(name, *values)

    def _lock(self, name: str) -> Lock:
        return self._locks.setdefault(name, Lock())

    async def _alone(self, me: int) -> None:
        await self._until(lambda: not self._joined.keys() - {me})

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with self._left:
            await self._left.wait_for(holds)

    async def _all_tallies(self, me: int, own: Tally) -> list[Tally]:
        self._tallies[me] = own

        async def asked(line: Line, number: int) -> None:
            self._tallies[number] = await line.ask("tally")

        await self._from_others(me, asked)
        return [self._departed, *(tally for number, tally in self._tallies.items() if number != me)]

    def _mourned(self, deaths: Sequence[int]) -> None:
        for death in deaths:
            self._counts.mourned(self._unmourned.pop(death, ()))
