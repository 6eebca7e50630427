"""The price list of genai-prices, in the version that is installed: what a model costs on a day.

Loading it takes a tenth of a second and some megabytes, so `prices.py` imports it when it asks for the first time, or
beside the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from importlib.metadata import version
from typing import NamedTuple

from genai_prices import data
from genai_prices.data_snapshot import find_provider_by_id
from genai_prices.types import ModelInfo, TieredPrices, TimeOfDateConstraint
from genai_prices.types import Provider as ListedProvider

from aiwm.domain.prices import Price
from aiwm.providers.base import Provider

LIST = f"genai-prices {version('genai-prices')}"

_AXES: Mapping[str, tuple[str, int]] = {
    "input_mtok": ("input", 1),
    "output_mtok": ("output", 1),
    "cache_read_mtok": ("cacheRead", 1),
    "cache_write_mtok": ("cacheWrite5m", 1),
    "cache_write_1h_mtok": ("cacheWrite1h", 1),
    "output_reasoning_mtok": ("reasoning", 1),
    "input_audio_mtok": ("inputAudio", 1),
    "output_audio_mtok": ("outputAudio", 1),
    "input_image_mtok": ("inputImage", 1),
    "output_image_mtok": ("outputImage", 1),
    "cache_audio_read_mtok": ("cacheReadAudio", 1),
    "cache_image_read_mtok": ("cacheReadImage", 1),
    "requests_kcount": ("perRequest", 1000),
    "web_searches_kcount": ("webSearch", 1000),
}
"""The list's name of a price -> ours, and how many of ours it is for. A model with any other price has costs that its
answers do not tell (seconds, pages, video)."""
_APART = frozenset({"storage_searches_kcount"})
"""Prices of what no answer's usage tells either, but is a tool beside the model: searches in the provider's storage."""

_DAY_MS = 24 * 3600 * 1000


class Bracket(NamedTuple):
    above: int
    """Input tokens; the largest that is exceeded counts, for all tokens of the request."""
    price: Price


Tariff = Sequence[Bracket]
"""Prices of a model at a time, by the length of its input, the longest first; none where nobody knows them."""


def day(provider: Provider, model: str, tier: str | None, number: int) -> Sequence[tuple[int, Tariff]]:
    """The prices of a day by its number: (end in milliseconds of it, prices until then). Some change by the hour."""
    context = _context(provider, tier)
    listed = None if provider.price_list is None else find_provider_by_id(data.providers, provider.price_list)
    if context is None or listed is None:
        return [(_DAY_MS, ())]
    found = listed.find_model(model, all_providers=data.providers)
    if found is None:
        return [(_DAY_MS, ())]
    midnight = datetime.fromtimestamp(number * _DAY_MS / 1000, UTC)
    begins = sorted({0, *_changes(found)})
    return [
        (until, _at(listed, found, context, midnight + timedelta(milliseconds=begin)))
        for begin, until in zip(begins, [*begins[1:], _DAY_MS], strict=True)
    ]


def _context(provider: Provider, tier: str | None) -> dict[str, str] | None:
    """What a tier means to the list; None if it is one whose price nobody knows."""
    context: dict[str, str] = {}
    for word in tier.split("+") if tier else ():
        meaning = provider.usage.tiers.get(word)
        if meaning is None:
            return None
        context |= meaning
    return context


def _changes(model: ModelInfo) -> set[int]:
    """The times of the day at which prices change, in milliseconds."""
    conditional = model.prices if isinstance(model.prices, list) else []
    constraints = [each.constraint for each in (*conditional, *(model.price_variants or ()))]
    return {
        _milliseconds(border)
        for constraint in constraints
        if isinstance(constraint, TimeOfDateConstraint)
        for border in (constraint.start_time, constraint.end_time)
    }


def _milliseconds(border: time) -> int:
    moment = datetime.combine(datetime(1970, 1, 2), border)  # noqa: DTZ001 - the list's times carry their own zone
    utc = moment.astimezone(UTC) if moment.tzinfo else moment
    return (utc.hour * 3600 + utc.minute * 60 + utc.second) * 1000


def _at(listed: ListedProvider, model: ModelInfo, context: Mapping[str, str], at: datetime) -> Tariff:
    if context and not _has_tier(listed, model, context, at):
        return ()
    prices = model.get_prices(at, context)
    given = {name: value for name, value in vars(prices).items() if value is not None and name not in _APART}
    if not given.keys() <= _AXES.keys():
        return ()
    about = {"list": LIST, "model": f"{listed.id}/{model.id}", **context}
    borders = {tier.start for value in given.values() if isinstance(value, TieredPrices) for tier in value.tiers}
    return [
        Bracket(above, Price(_rates(given, above), about | ({"above": above} if above >= 0 else {})))
        for above in sorted({-1, *borders}, reverse=True)
    ]


def _has_tier(listed: ListedProvider, model: ModelInfo, context: Mapping[str, str], at: datetime) -> bool:
    """Whether the list has this model's price in a tier, then. It has none for what another provider serves."""
    return any(own is model for own in listed.models) and any(
        variant.when.items() <= context.items() and (variant.constraint is None or variant.constraint.active(at))
        for variant in model.price_variants or ()
    )


def _rates(given: Mapping[str, Decimal | TieredPrices], above: int) -> dict[str, Decimal]:
    rates = {}
    for name, value in given.items():
        axis, number = _AXES[name]
        if isinstance(value, TieredPrices):
            begun = [tier.price for tier in value.tiers if tier.start <= above]
            value = begun[-1] if begun else value.base
        rates[axis] = value / number
    return rates
