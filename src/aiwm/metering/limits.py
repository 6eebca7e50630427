"""The gate that requests pass before they go out: what limits say is counted here, in memory, by one process.

A request takes from every limit that it falls under, or from none: between looking and taking nobody else has a turn.
Of a budget it takes the most that it can cost; once it is over, what it has cost is spent instead. What is spent is
what the ledger says, and what it is about to say: so a process that dies leaves no reservation behind. Its own are
forgotten with it, and the next one reads what was spent.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from aiwm.domain.costs import Picodollars
from aiwm.domain.limits import Limit, Standing, Subject, SubjectType, usd
from aiwm.domain.times import Clock
from aiwm.domain.usage import End, UsageRow
from aiwm.domain.users import Principal
from aiwm.errors import TooManyRequests, WrongState
from aiwm.metering.prices import Prices, Question
from aiwm.metering.worst_case import NOTHING, Ceilings, WorstCase, worst_case
from aiwm.targets import Target

_WINDOW_SECONDS: Final = 60
_ASKS_NOTHING = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE"})
"""Methods that no model answers."""


class Pass(Protocol):
    """Of one request that was let through."""

    def leave(self, row: UsageRow | None) -> None:
        """It is over; None if it never reached the provider. Only the first call counts."""


class Gate(Protocol):
    """What the data plane asks. To count for several machines is another one of these: `enter` may wait."""

    def limits(self, principal: Principal, target: Target) -> bool:
        """Whether there may be a limit for such a request: for most there is none, and nothing more is asked."""

    async def enter(
        self,
        principal: Principal,
        target: Target,
        *,
        request_id: str,
        method: bytes,
        asked: str | None,
        body: bytes | None,
        length: int | None,
    ) -> Pass:
        """`body` is None for one that is passed on as it comes; `length` is then what its caller says it is.

        Raises TooManyRequests, which says which limit and until when; WrongState when a budget can't be kept.
        """


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

    def book(self, row: UsageRow) -> None:
        """The ledger has it, and its cost."""
        self.settled -= self._costs.pop(row.request_id, 0)
        most = self.release(row.request_id) or 0
        if row.started_at < self.begin:
            return
        if row.cost is None:
            self.unknown += most
        else:
            self.spent += row.cost


class _Refusal(NamedTuple):
    """Why a request must wait."""

    limit: str
    """What of the limit is used up, by its callers' name."""
    error: TooManyRequests


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

    def refusal(self, now: int, likely_tokens: int, most: Picodollars) -> _Refusal | None:
        """None if there is room for the request."""
        limit = self.limit
        if limit.requests_per_minute is not None and self.requests.sum(now) >= limit.requests_per_minute:
            wait = self.requests.seconds_until(now, limit.requests_per_minute - 1)
            what = _counted(limit.requests_per_minute, "request", "per minute")
            return _Refusal("requestsPerMinute", self._refused(what, wait))
        if limit.concurrent_requests is not None and self.concurrent >= limit.concurrent_requests:
            what = _counted(limit.concurrent_requests, "request", "at the same time")
            return _Refusal("concurrentRequests", self._refused(what, 1))
        if limit.tokens_per_minute is not None:
            room = limit.tokens_per_minute - min(likely_tokens, limit.tokens_per_minute) - self.tokens_under_way
            if self.tokens.sum(now) > room:
                wait = self.tokens.seconds_until(now, max(0, room))
                what = _counted(limit.tokens_per_minute, "token", "per minute")
                return _Refusal("tokensPerMinute", self._refused(what, wait))
        if limit.budget is not None:
            money = self.turned(now)
            if money.gone + money.reserved + most > limit.budget.most:
                return _Refusal("budget", self._overdrawn(now, money, most))
        return None

    def _refused(self, what: str, wait: int) -> TooManyRequests:
        return TooManyRequests(f"The limit of {self.limit.subject} is {what}; try again in {wait} s", retry_after=wait)

    def _overdrawn(self, now: int, money: _Money, most: Picodollars) -> TooManyRequests:
        budget = self.limit.budget
        assert budget is not None  # noqa: S101 - narrows the type
        # What others have reserved may come back at any moment, what is spent not before the next day or month.
        wait = 1 if money.gone + most <= budget.most else -(-(budget.per.end(now) - now) // 1000)
        return TooManyRequests(
            f"The budget of {self.limit.subject} is {budget}: {usd(money.gone)} USD are spent, "
            f"{usd(money.reserved)} USD reserved for requests under way, and this one may cost {usd(most)} USD; "
            f"try again in {wait} s, or allow fewer tokens to be written (such as max_tokens)",
            retry_after=wait,
        )


def _counted(number: int, noun: str, when: str) -> str:
    return f"{number} {noun} {when}" if number == 1 else f"{number} {noun}s {when}"


class _Pass:
    __slots__ = ("_cost", "_counters", "_left", "_likely_tokens", "_most", "_now", "_request_id")

    def __init__(
        self,
        counters: Sequence[_Counter],
        *,
        request_id: str,
        likely_tokens: int,
        most: Picodollars,
        cost: Callable[[UsageRow], Picodollars | None],
        now: Clock,
    ) -> None:
        self._counters = counters
        self._request_id = request_id
        self._likely_tokens = likely_tokens
        self._most = most
        self._cost = cost
        self._now = now
        self._left = False
        at = now()
        for counter in counters:
            counter.requests.add(at, 1)
            counter.concurrent += 1
            counter.tokens_under_way += likely_tokens
            if counter.limit.budget is not None:
                counter.turned(at).reserve(request_id, most)

    def leave(self, row: UsageRow | None) -> None:
        if self._left:
            return
        self._left = True
        at = self._now()
        for counter in self._counters:
            counter.concurrent -= 1
            counter.tokens_under_way -= self._likely_tokens
            if row is not None:
                counter.tokens.add(at, row.usage.total_tokens)
            if row is None or _was_not_reached(row):
                counter.money.release(self._request_id)
            elif counter.limit.budget is not None and (cost := self._cost(row)) is not None:
                counter.money.settle(self._request_id, cost)


def _was_not_reached(row: UsageRow) -> bool:
    """Whether the provider had nothing of the request, so that nothing of unknown cost can have come of it."""
    return row.status is None and row.end is End.PROVIDER_BROKE


class Limiter:
    """A `Gate` that counts in memory. What changes limits, and tells what was spent, is `control.limits`."""

    def __init__(self, *, prices: Prices, ceilings: Ceilings, clock: Clock) -> None:
        self._prices = prices
        self._ceilings = ceilings
        self._clock = clock
        self._counters: dict[str, dict[Subject, list[_Counter]]] = {}
        """By organization: most have none, and then this is all that a request costs here."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """How many requests had to wait, by what the limit is for and what of it was used up."""

    def limits(self, principal: Principal, target: Target) -> bool:  # noqa: ARG002 - others may look closer
        return target.org_id in self._counters

    async def enter(
        self,
        principal: Principal,
        target: Target,
        *,
        request_id: str,
        method: bytes,
        asked: str | None,
        body: bytes | None,
        length: int | None,
    ) -> Pass:
        counters = self._met(target.org_id, principal.user_id, principal.api_key_id, target.deployment_id)
        has_budget = any(counter.limit.budget is not None for counter in counters)
        worst = NOTHING
        if method not in _ASKS_NOTHING and (
            has_budget or any(counter.limit.tokens_per_minute is not None for counter in counters)
        ):
            worst = worst_case(body, length, self._ceilings)
        most = self._most(target, asked, worst, asks=method not in _ASKS_NOTHING) if has_budget else 0
        now = self._clock()
        for counter in counters:
            refusal = counter.refusal(now, worst.likely_tokens, most)
            if refusal is not None:
                self.refused[counter.limit.subject.type, refusal.limit] += 1
                raise refusal.error
        return _Pass(
            counters,
            request_id=request_id,
            likely_tokens=worst.likely_tokens,
            most=most,
            cost=lambda row: self._prices.cost(row, target.prices),
            now=self._clock,
        )

    def _most(self, target: Target, asked: str | None, worst: WorstCase, *, asks: bool) -> Picodollars:
        most = self._prices.most(
            Question(
                provider=target.provider,
                model=asked,
                at=self._clock(),
                input_tokens=worst.input_tokens,
                output_tokens=worst.output_tokens,
                web_searches=worst.web_searches,
            ),
            target.prices,
        )
        if most is None and asks and not target.base.origin.ours:
            named = "it names no model" if asked is None else f'nobody knows a price of the model "{asked[:200]}"'
            raise WrongState(
                f"The request can't be held to the budget that it falls under: {named}. Set `prices` of the model"
            )
        return most or 0

    # -- for control

    def put(self, limit: Limit) -> None:
        """A new limit, or a changed one: what is counted of it goes on. What was spent is told by `spent`."""
        before = self._found(limit)
        if before is not None:
            before.limit = limit
            before.turned(self._clock())
            return
        of_organization = self._counters.setdefault(limit.org_id, {})
        of_organization.setdefault(limit.subject, []).append(_Counter(limit, self._clock()))

    def remove(self, limit: Limit) -> None:
        of_organization = self._counters.get(limit.org_id, {})
        kept = [each for each in of_organization.get(limit.subject, []) if each.limit.id != limit.id]
        if kept:
            of_organization[limit.subject] = kept
        elif of_organization.pop(limit.subject, None) is not None and not of_organization:
            del self._counters[limit.org_id]

    def keep(self, limit_ids: Iterable[str]) -> None:
        """Removes all others."""
        kept = frozenset(limit_ids)
        every = [each for subjects in self._counters.values() for counters in subjects.values() for each in counters]
        for counter in every:
            if counter.limit.id not in kept:
                self.remove(counter.limit)

    def spent(self, limit: Limit, begin: int, amount: Picodollars) -> None:
        """What the ledger says was spent under a limit since `begin`, the beginning of its day or month."""
        counter = self._found(limit)
        if counter is not None and counter.turned(self._clock()).begin == begin:
            counter.money.spent = amount

    def saved(self, rows: Iterable[UsageRow]) -> None:
        """These rows have come into the ledger, with their costs."""
        for row in rows:
            for counter in self._met(row.org_id, row.user_id, row.api_key_id, row.deployment_id):
                if counter.limit.budget is not None:
                    counter.turned(self._clock()).book(row)

    def standing(self, limit: Limit) -> Standing:
        counter = self._found(limit)
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

    def _found(self, limit: Limit) -> _Counter | None:
        counters = self._counters.get(limit.org_id, {}).get(limit.subject, ())
        return next((counter for counter in counters if counter.limit.id == limit.id), None)

    def _met(self, org_id: str, user_id: str, api_key_id: str | None, deployment_id: str) -> Sequence[_Counter]:
        """All that a request falls under, the narrowest first: it is the one to be told of."""
        of_organization = self._counters.get(org_id)
        if of_organization is None:
            return ()
        named = [
            Subject(SubjectType.API_KEY, api_key_id or ""),
            Subject(SubjectType.USER, user_id),
            Subject(SubjectType.DEPLOYMENT, deployment_id),
            Subject(SubjectType.ORGANIZATION, org_id),
        ]
        return [counter for subject in named for counter in of_organization.get(subject, ())]
