"""What a row of the ledger costs: by what its operator has set for the model, else as the provider told it, else by the
price list, as of its time.

The list is that of genai-prices, in the version that is installed: the same rows have the same costs tomorrow. Looking
a model up in it takes some 50 microseconds, so what was found is kept for a day of rows. Most rows of a batch go by the
same prices: these are found once, and a row then takes a few multiplications.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from itertools import combinations
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from msgspec.structs import replace

from aiwm.domain import times
from aiwm.domain.prices import LARGEST_COST, OwnPrices, Price, PriceEntry
from aiwm.domain.usage import Source, UsageRow
from aiwm.providers import registry
from aiwm.providers.base import Provider, StatedCost

if TYPE_CHECKING:
    from aiwm.metering.price_list import Tariff

_DOLLAR = 10**12
_STATED = orjson.dumps({"stated": "by the provider"}).decode()
_UNKNOWN: dict[str, Any] = {"cost": None, "price": None}
_DAY_MS = 24 * 3600 * 1000
_AT_ONCE = 50
"""Rows that are priced before others have their turn: less than a millisecond."""
_MOST_KEPT = 4096
"""Names of models come from callers and providers, so what is kept of them has an end."""


_Key = tuple[str, str, str | None, int]
"""Provider, model, tier, day."""

_subject: Callable[[UsageRow], tuple[Any, ...]] = attrgetter(
    "model_id", "provider", "model_asked", "model_answered", "service_tier"
)
"""What decides, with the time, by which prices a row goes."""


class _Offer(NamedTuple):
    """What rows with the same subject go by that begin from `since` on, before `until`."""

    since: float
    until: float
    bills_errors: bool
    stated: StatedCost | None
    """Where a row may tell its cost itself."""
    tariff: Sequence[tuple[int, Price]]
    """See `Tariff`."""

    def priced(self, row: UsageRow) -> UsageRow:
        usage = row.usage
        tokens = usage.input_tokens + usage.output_tokens
        if not tokens and row.status is not None and row.status >= 400 and not self.bills_errors:
            # The provider answered that it did not do it: then nothing was read or written, and nothing is billed.
            return replace(row, cost=0, price=None)
        if self.stated is not None:
            stated = _stated(row, self.stated)
            if stated is not None:
                return replace(row, **stated)
        for above, offered in self.tariff:
            if usage.input_tokens > above:
                price = offered
                break
        else:
            return replace(row, **_UNKNOWN)
        # A usage without any tokens tells of something else: seconds of speech, searches, images by the piece.
        cost = price.cost(usage) if tokens and row.source is not Source.NONE else price.cost_without_tokens
        return replace(row, cost=cost, price=None if cost is None else price.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request that is not answered yet, by the most that its answer can take."""

    provider: Provider
    model: str | None
    """The one asked for."""
    at: int
    input_tokens: int
    output_tokens: int
    web_searches: int = 0


class Prices:
    """`own` gives what operators have set for models, by their ids; models without are left out. Raises Unavailable."""

    def __init__(self, own: Callable[[Collection[str]], Awaitable[Mapping[str, OwnPrices]]]) -> None:
        self._own = own
        self._days: dict[_Key, Sequence[tuple[int, Tariff]]] = {}

    async def load(self) -> None:
        """Reads the list, so that nobody waits for it later. It goes on beside others, on a thread."""
        await asyncio.to_thread(_listed)

    async def priced(self, rows: Sequence[UsageRow]) -> Sequence[UsageRow]:
        """The rows with their costs and the prices these were made with; None where that is not known."""
        own = await self._own({row.model_id for row in rows})
        offers: dict[tuple[Any, ...], _Offer] = {}
        found: list[UsageRow] = []
        for first in range(0, len(rows), _AT_ONCE):
            for row in rows[first : first + _AT_ONCE]:
                offer = offers.get(subject := _subject(row))
                if offer is None or not offer.since <= row.started_at < offer.until:
                    offer = offers[subject] = self._offer(row, own.get(row.model_id))
                found.append(offer.priced(row))
            await asyncio.sleep(0)
        return found

    def cost(self, row: UsageRow, own: OwnPrices | None) -> int | None:
        """What the row will cost in the ledger, if `own` stays what it is."""
        return self._offer(row, own).priced(row).cost

    def most(self, question: Question, own: OwnPrices | None) -> int | None:
        """In picodollars: no answer costs more, whatever tier serves it; None if nobody knows a price."""
        entry = own.at(question.at) if own is not None and _may_be_meant(own.model, question.model) else None
        prices = [_own_price(entry)] if entry is not None else self._any_listed(question)
        most = [
            price.most(
                input_tokens=question.input_tokens,
                output_tokens=question.output_tokens,
                web_searches=question.web_searches,
            )
            for price in prices
        ]
        return max(most, default=None)

    def _any_listed(self, question: Question) -> list[Price]:
        """Every price that an answer may turn out to have."""
        provider, model = question.provider, question.model
        if provider.price_list is None or model is None:
            return []
        words = [*provider.usage.tiers]
        tiers = [None, *words, *("+".join(pair) for pair in combinations(words, 2))]
        return [
            bracket.price
            for tier in tiers
            for _, tariff in self._hours(provider, model, tier, question.at // _DAY_MS)
            for bracket in tariff
            if question.input_tokens > bracket.above
        ]

    def _offer(self, row: UsageRow, own: OwnPrices | None) -> _Offer:
        provider = registry.provider(row.provider)
        since, until, entry = 0.0, inf, None
        if own is not None and _is_meant(own.model, row):
            entry = own.at(row.started_at)
            since = entry.since if entry is not None else 0
            until = min((each.since for each in own.entries if each.since > row.started_at), default=inf)
        if entry is not None:
            return _Offer(since, until, provider.bills_errors, None, [(-1, _own_price(entry))])
        begin, end, tariff = self._listed(row, provider)
        return _Offer(max(since, begin), min(until, end), provider.bills_errors, provider.usage.stated_cost, tariff)

    def _listed(self, row: UsageRow, provider: Provider) -> tuple[float, float, Tariff]:
        """By the model that answered: the one asked for may be an alias, or a name of the caller's own."""
        model = row.model_answered or row.model_asked
        if provider.price_list is None or model is None:
            return 0, inf, ()
        day, at = divmod(row.started_at, _DAY_MS)
        hours = self._hours(provider, model, row.service_tier, day)
        begin = max((until for until, _ in hours if until <= at), default=0)
        end, tariff = next(each for each in hours if at < each[0])
        return day * _DAY_MS + begin, day * _DAY_MS + end, tariff

    def _hours(self, provider: Provider, model: str, tier: str | None, day: int) -> Sequence[tuple[int, Tariff]]:
        key = provider.name, model, tier, day
        hours = self._days.get(key)
        if hours is None:
            if len(self._days) >= _MOST_KEPT:
                self._days.clear()
            hours = self._days[key] = _listed()(provider, model, tier, day)
        return hours


def _is_meant(model: str | None, row: UsageRow) -> bool:
    """Whether a row is about the model that a price was set for. One that names no model is."""
    named = {row.model_asked, row.model_answered} - {None}
    return model is None or model in named or not named


def _may_be_meant(model: str | None, asked: str | None) -> bool:
    """The same of a request that is not answered yet."""
    return model is None or asked is None or asked == model


@lru_cache(maxsize=1024)
def _own_price(entry: PriceEntry) -> Price:
    since = {"from": times.iso(entry.since)[:10]} if entry.since else {}
    return Price(dict(entry.rates), {"set": "for the model", **since})


def _stated(row: UsageRow, stated: StatedCost) -> dict[str, Any] | None:
    """The row's cost and price as the provider told them; None if it told nothing of that."""
    told: Any = orjson.loads(row.raw_usage) if row.raw_usage is not None else None
    if not isinstance(told, dict):
        return None
    if stated.unless is not None and told.get(stated.unless):
        return _UNKNOWN
    for name in stated.path:
        told = told.get(name) if isinstance(told, dict) else None
    if not isinstance(told, int | float) or isinstance(told, bool) or told < 0:
        return None
    cost = int((Decimal(str(told)) * _DOLLAR / stated.per_dollar).to_integral_value(ROUND_HALF_UP))
    return {"cost": cost, "price": _STATED} if cost <= LARGEST_COST else _UNKNOWN


def _listed() -> Callable[[Provider, str, str | None, int], Sequence[tuple[int, Tariff]]]:
    """What the list knows of a day. It takes long to load, so a start does not wait for it."""
    from aiwm.metering.price_list import day

    return day
