"""The gate that requests pass before they go out: which limits they fall under, and the most that they can cost.

What is taken of limits is counted by `counts`, in this process or, for several workers, in their parent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from aiwm.domain.costs import Picodollars
from aiwm.domain.limits import Limit, Standing, Subject, SubjectType
from aiwm.domain.times import Clock
from aiwm.domain.usage import End, UsageRow
from aiwm.domain.users import Principal
from aiwm.errors import TooManyRequests, WrongState
from aiwm.metering.counts import Counting, Counts, OwnCounts
from aiwm.metering.prices import Prices, Question
from aiwm.metering.worst_case import NOTHING, Ceilings, WorstCase, worst_case
from aiwm.targets import Target

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


class _Pass:
    __slots__ = ("_cost", "_counts", "_request_id")

    def __init__(self, counts: Counting, request_id: str, cost: Callable[[UsageRow], Picodollars | None]) -> None:
        self._counts = counts
        self._request_id = request_id
        self._cost = cost

    def leave(self, row: UsageRow | None) -> None:
        if row is None or _was_not_reached(row):
            self._counts.leave(self._request_id, None, None)
        else:
            self._counts.leave(self._request_id, row.usage.total_tokens, self._cost(row))


def _was_not_reached(row: UsageRow) -> bool:
    """Whether the provider had nothing of the request, so that nothing of unknown cost can have come of it."""
    return row.status is None and row.end is End.PROVIDER_BROKE


class Limiter:
    """The `Gate` of limits. What changes limits, and tells what was spent, is `control.limits`."""

    def __init__(self, *, prices: Prices, ceilings: Ceilings, clock: Clock, counts: Counting | None = None) -> None:
        self.counts = counts or OwnCounts(Counts(clock))
        self._prices = prices
        self._ceilings = ceilings
        self._clock = clock
        self._limits: dict[str, dict[Subject, list[Limit]]] = {}
        """By organization: most have none, and then this is all that a request costs here."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """How many requests had to wait, by what the limit is for and what of it was used up."""

    def limits(self, principal: Principal, target: Target) -> bool:  # noqa: ARG002 - others may look closer
        return target.org_id in self._limits

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
        met = self._met(target.org_id, principal.user_id, principal.api_key_id, target.deployment_id)
        has_budget = any(limit.budget is not None for limit in met)
        worst = NOTHING
        if method not in _ASKS_NOTHING and (has_budget or any(limit.tokens_per_minute is not None for limit in met)):
            worst = worst_case(body, length, self._ceilings)
        most = self._most(target, asked, worst, asks=method not in _ASKS_NOTHING) if has_budget else 0
        try:
            refusal = await self.counts.take([limit.id for limit in met], request_id, worst.likely_tokens, most)
        except BaseException:
            self.counts.leave(request_id, None, None)  # Whether it was taken is not known here.
            raise
        if refusal is not None:
            self.refused[refusal.subject, refusal.limit] += 1
            raise TooManyRequests(refusal.message, retry_after=refusal.wait)
        return _Pass(self.counts, request_id, lambda row: self._prices.cost(row, target.prices))

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

    def know(self, limit: Limit) -> None:
        """A new limit, or a changed one: who falls under it. `counts` is told by itself."""
        self.forget(limit.org_id, limit.id)
        self._limits.setdefault(limit.org_id, {}).setdefault(limit.subject, []).append(limit)

    def know_all(self, limits: Iterable[Limit]) -> None:
        """These and no others."""
        self._limits = {}
        for limit in limits:
            self.know(limit)

    def forget(self, org_id: str, limit_id: str) -> None:
        kept: dict[Subject, list[Limit]] = {}
        for subject, limits in self._limits.pop(org_id, {}).items():
            if others := [limit for limit in limits if limit.id != limit_id]:
                kept[subject] = others
        if kept:
            self._limits[org_id] = kept

    def saved(self, rows: Iterable[UsageRow]) -> None:
        """These rows have come into the ledger, with their costs."""
        if not self._limits:
            return
        spendings = []
        for row in rows:
            met = self._met(row.org_id, row.user_id, row.api_key_id, row.deployment_id)
            budgets = [limit.id for limit in met if limit.budget is not None]
            if budgets:
                spendings.append((row.request_id, row.started_at, row.cost, budgets))
        if spendings:
            self.counts.saved(spendings)

    async def standing(self, limit: Limit) -> Standing:
        return await self.counts.standing(limit.id)

    def _met(self, org_id: str, user_id: str, api_key_id: str | None, deployment_id: str) -> Sequence[Limit]:
        """All that a request falls under, the narrowest first: it is the one to be told of."""
        of_organization = self._limits.get(org_id)
        if of_organization is None:
            return ()
        named = [
            Subject(SubjectType.API_KEY, api_key_id or ""),
            Subject(SubjectType.USER, user_id),
            Subject(SubjectType.DEPLOYMENT, deployment_id),
            Subject(SubjectType.ORGANIZATION, org_id),
        ]
        return [limit for subject in named for limit in of_organization.get(subject, ())]
