"""What of limits is taken: windows, places and money, counted in one place for all who serve.

A request takes from every limit that it falls under, or from none: between looking and taking nobody else has a turn.
Of a budget it takes the most that it can cost; once it is over, what it has cost is spent instead. What is spent is
what the ledger says, and what it is about to say. A worker that dies gives back its places at once, and its money when
what it left is in the ledger and has been read from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from aiwm.domain.costs import Picodollars
from aiwm.domain.limits import Limit, Standing, usd
from aiwm.domain.times import Clock

_WINDOW_SECONDS: Final = 60


class Refusal(NamedTuple):
    """Why a request must wait."""

    subject: str
    limit: str
    """What of the subject's limit is used up, by its callers' name."""
    message: str
    wait: int
    """Seconds."""


Spending = tuple[str, int, Picodollars | None, Sequence[str]]
"""Of a row that has come into the ledger: request, when it began, its cost, and the limits that it falls under."""


class Counting(Protocol):
    """What a gate asks of counts, wherever they are."""

    async def take(
        self, limit_ids: Sequence[str], request_id: str, likely_tokens: int, most: Picodollars
    ) -> Refusal | None:
        """From all of these limits, or from none. To be given back with `leave`. Raises Unavailable."""

    def leave(self, request_id: str, tokens: int | None, cost: Picodollars | None) -> None:
        """It is over. `tokens` is None for one that never got to the provider; `cost` when it is not known."""

    def put(self, limit: Limit) -> None:
        """A new limit, or a changed one: what is counted of it goes on. What was spent is told by `spent`."""

    def remove(self, limit_id: str) -> None: ...

    def keep(self, limit_ids: Sequence[str]) -> None:
        """Removes all others."""

    def spent(self, limit_id: str, begin: int, amount: Picodollars) -> None:
        """What the ledger says was spent under a limit since `begin`, the beginning of its day or month."""

    def saved(self, rows: Sequence[Spending]) -> None:
        """These rows have come into the ledger."""

    async def standing(self, limit_id: str) -> Standing: ...


class Window:
    """A sum over the last minute. What came in a second leaves when the whole second is a minute old."""

    __slots__ = ("_seconds", "_sum")

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque()
        self._sum = 0

    def sum(self, now: int) -> int:
        """`now` is in milliseconds, like all times."""
        while self._seconds and self._seconds[0][0] + _WINDOW_SECONDS < now // 1000:
            self._sum -= self._seconds.popleft()[1]
        return self._sum

    def add(self, now: int, amount: int) -> None:
        self._sum += amount
        second = now // 1000
        if self._seconds and self._seconds[-1][0] >= second:
            second, before = self._seconds.pop()
            amount += before
        self._seconds.append((second, amount))

    def seconds_until(self, now: int, most: int) -> int:
        """Until no more than `most` is left; at least 1."""
        left, wait = self.sum(now), 1
        for second, amount in self._seconds:
            if left <= most:
                break
            left -= amount
            wait = second + _WINDOW_SECONDS + 1 - now // 1000
        return max(1, wait)


class _Money:
    """A budget's present day or month."""

    __slots__ = ("_costs", "_most", "begin", "reserved", "settled", "spent", "unknown")

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.spent: Picodollars = 0
        """By the ledger."""
        self.settled: Picodollars = 0
        """By answers that the ledger does not have yet."""
        self.unknown: Picodollars = 0
        """The most that those answers can have cost of whose cost the ledger says that it is not known."""
        self.reserved: Picodollars = 0
        """The most that requests under way can cost."""
        self._most: dict[str, Picodollars] = {}
        self._costs: dict[str, Picodollars] = {}
        """By request, what `reserved` and `settled` are the sums of."""

    @property
    def gone(self) -> Picodollars:
        return self.spent + self.settled + self.unknown

    def reserve(self, request_id: str, most: Picodollars) -> None:
        self._most[request_id] = most
        self.reserved += most

    def release(self, request_id: str) -> Picodollars | None:
        """What was reserved; None if nothing is: the day or month of it is over, or the ledger was quicker."""
        most = self._most.pop(request_id, None)
        self.reserved -= most or 0
        return most

    def settle(self, request_id: str, cost: Picodollars) -> None:
        if self.release(request_id) is not None:
            self._costs[request_id] = cost
            self.settled += cost

    def book(self, request_id: str, started_at: int, cost: Picodollars | None) -> None:
        """The ledger has it, and its cost."""
        most = self.forget(request_id)
        if started_at < self.begin:
            return
        if cost is None:
            self.unknown += most
        else:
            self.spent += cost

    def forget(self, request_id: str) -> Picodollars:
        """What was reserved of it still."""
        self.settled -= self._costs.pop(request_id, 0)
        return self.release(request_id) or 0


class _Counter:
    """What of one limit is taken."""

    def __init__(self, limit: Limit, now: int) -> None:
        self.limit = limit
        self.requests = Window()
        self.tokens = Window()
        self.tokens_under_way = 0
        self.concurrent = 0
        self.money = _Money(0)
        self.turned(now)

    def turned(self, now: int) -> _Money:
        """The money of the time that it is now: a new day has a new budget."""
        budget = self.limit.budget
        if budget is not None and self.money.begin != (begin := budget.per.begin(now)):
            self.money = _Money(begin)
        return self.money

    def refusal(self, now: int, likely_tokens: int, most: Picodollars) -> Refusal | None:
        """Why a request must wait; None if there is room for it."""
        limit = self.limit
        if limit.requests_per_minute is not None and self.requests.sum(now) >= limit.requests_per_minute:
            wait = self.requests.seconds_until(now, limit.requests_per_minute - 1)
            what = _counted(limit.requests_per_minute, "request", "per minute")
            return self._refused("requestsPerMinute", what, wait)
        if limit.concurrent_requests is not None and self.concurrent >= limit.concurrent_requests:
            what = _counted(limit.concurrent_requests, "request", "at the same time")
            return self._refused("concurrentRequests", what, 1)
        if limit.tokens_per_minute is not None:
            room = limit.tokens_per_minute - min(likely_tokens, limit.tokens_per_minute) - self.tokens_under_way
            if self.tokens.sum(now) > room:
                wait = self.tokens.seconds_until(now, max(0, room))
                what = _counted(limit.tokens_per_minute, "token", "per minute")
                return self._refused("tokensPerMinute", what, wait)
        if limit.budget is not None:
            money = self.turned(now)
            if money.gone + money.reserved + most > limit.budget.most:
                return self._overdrawn(now, money, most)
        return None

    def _refused(self, name: str, what: str, wait: int) -> Refusal:
        subject = self.limit.subject
        return Refusal(subject.type, name, f"The limit of {subject} is {what}; try again in {wait} s", wait)

    def _overdrawn(self, now: int, money: _Money, most: Picodollars) -> Refusal:
        budget = self.limit.budget
        assert budget is not None  # noqa: S101 - narrows the type
        # What others have reserved may come back at any moment, what is spent not before the next day or month.
        wait = 1 if money.gone + most <= budget.most else -(-(budget.per.end(now) - now) // 1000)
        message = (
            f"The budget of {self.limit.subject} is {budget}: {usd(money.gone)} USD are spent, "
            f"{usd(money.reserved)} USD reserved for requests under way, and this one may cost {usd(most)} USD; "
            f"try again in {wait} s, or allow fewer tokens to be written (such as max_tokens)"
        )
        return Refusal(self.limit.subject.type, "budget", message, wait)


def _counted(number: int, noun: str, when: str) -> str:
    return f"{number} {noun} {when}" if number == 1 else f"{number} {noun}s {when}"


class _Taken:
    """By one request."""

    __slots__ = ("booked", "counters", "likely_tokens", "owner", "under_way")

    def __init__(self, owner: int, counters: Sequence[_Counter], likely_tokens: int) -> None:
        self.owner = owner
        self.counters = counters
        self.likely_tokens = likely_tokens
        self.under_way = True
        self.booked = not any(counter.limit.budget is not None for counter in counters)
        """Whether no money waits for the ledger."""


class Counts:
    """`owner` is the worker that a request is with."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counters: dict[str, _Counter] = {}
        self._taken: dict[str, _Taken] = {}

    def take(
        self, owner: int, limit_ids: Sequence[str], request_id: str, likely_tokens: int, most: Picodollars
    ) -> Refusal | None:
        counters = [counter for id_ in limit_ids if (counter := self._counters.get(id_)) is not None]
        now = self._clock()
        for counter in counters:
            refusal = counter.refusal(now, likely_tokens, most)
            if refusal is not None:
                return refusal
        self._taken[request_id] = _Taken(owner, counters, likely_tokens)
        for counter in counters:
            counter.requests.add(now, 1)
            counter.concurrent += 1
            counter.tokens_under_way += likely_tokens
            if counter.limit.budget is not None:
                counter.turned(now).reserve(request_id, most)
        return None

    def leave(self, request_id: str, tokens: int | None, cost: Picodollars | None) -> None:
        taken = self._taken.get(request_id)
        if taken is None or not taken.under_way:
            return
        self._left(request_id, taken)
        at = self._clock()
        for counter in taken.counters:
            if tokens is not None:
                counter.tokens.add(at, tokens)
            if tokens is None:
                counter.money.release(request_id)
            elif counter.limit.budget is not None and cost is not None:
                counter.money.settle(request_id, cost)
        if tokens is None:
            self._taken.pop(request_id, None)

    def saved(self, rows: Iterable[Spending]) -> None:
        now = self._clock()
        for request_id, started_at, cost, limit_ids in rows:
            for id_ in limit_ids:
                counter = self._counters.get(id_)
                if counter is not None and counter.limit.budget is not None:
                    counter.turned(now).book(request_id, started_at, cost)
            taken = self._taken.get(request_id)
            if taken is not None:
                taken.booked = True
                self._drop_if_over(request_id, taken)

    def died(self, owner: int) -> Sequence[str]:
        """Its requests hold no places any more. Those whose money is still held: `mourned` gives that back."""
        for request_id, taken in [each for each in self._taken.items() if each[1].owner == owner]:
            if taken.under_way:
                self._left(request_id, taken)
        return [request_id for request_id, taken in self._taken.items() if taken.owner == owner]

    def mourned(self, request_ids: Iterable[str]) -> None:
        """What those have cost is in the ledger, and was read from there."""
        for request_id in request_ids:
            taken = self._taken.pop(request_id, None)
            for counter in () if taken is None else taken.counters:
                counter.money.forget(request_id)

    def put(self, limit: Limit) -> None:
        before = self._counters.get(limit.id)
        if before is None:
            self._counters[limit.id] = _Counter(limit, self._clock())
        else:
            before.limit = limit
            before.turned(self._clock())

    def remove(self, limit_id: str) -> None:
        self._counters.pop(limit_id, None)

    def keep(self, limit_ids: Iterable[str]) -> None:
        kept = frozenset(limit_ids)
        self._counters = {id_: counter for id_, counter in self._counters.items() if id_ in kept}

    def spent(self, limit_id: str, begin: int, amount: Picodollars) -> None:
        counter = self._counters.get(limit_id)
        if counter is not None and counter.turned(self._clock()).begin == begin:
            counter.money.spent = amount

    def standing(self, limit_id: str) -> Standing:
        counter = self._counters.get(limit_id)
        if counter is None:
            return Standing()
        now = self._clock()
        money = counter.turned(now)
        return Standing(
            requests=counter.requests.sum(now),
            tokens=counter.tokens.sum(now) + counter.tokens_under_way,
            concurrent=counter.concurrent,
            spent=money.gone,
            reserved=money.reserved,
        )

    def _left(self, request_id: str, taken: _Taken) -> None:
        taken.under_way = False
        for counter in taken.counters:
            counter.concurrent -= 1
            counter.tokens_under_way -= taken.likely_tokens
        self._drop_if_over(request_id, taken)

    def _drop_if_over(self, request_id: str, taken: _Taken) -> None:
        if taken.booked and not taken.under_way:
            self._taken.pop(request_id, None)


class OwnCounts:
    """`Counting` in the process that serves, when there is one."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.leave = counts.leave
        self.put = counts.put
        self.remove = counts.remove
        self.keep = counts.keep
        self.spent = counts.spent
        self.saved = counts.saved

    async def take(
        self, limit_ids: Sequence[str], request_id: str, likely_tokens: int, most: Picodollars
    ) -> Refusal | None:
        return self._counts.take(0, limit_ids, request_id, likely_tokens, most)

    async def standing(self, limit_id: str) -> Standing:
        return self._counts.standing(limit_id)
