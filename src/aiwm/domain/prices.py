"""Prices: what each kind of token costs, and what an answer costs by that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import mul
from typing import Any

import orjson
from msgspec.structs import astuple, replace

from aiwm.domain.usage import Usage

TOKEN_AXES = (
    "input",
    "output",
    "cacheRead",
    "cacheWrite5m",
    "cacheWrite1h",
    "reasoning",
    "inputAudio",
    "outputAudio",
    "inputImage",
    "outputImage",
    "cacheReadAudio",
    "cacheReadImage",
)
"""What has a price by the million tokens, as callers name it. A part without one costs what its whole does; only writes
that a cache keeps for an hour are not taken to cost what those for five minutes do."""
PIECE_AXES = ("perRequest", "webSearch")
"""What has a price by the piece."""

_SCALE = 10**18
"""Rates are whole multiples of 10^-18 USD for a million tokens, which is finer than any price that was ever set."""
_PICODOLLAR = 10**12
"""In multiples of 10^-24 USD: what a rate is for one token."""
LARGEST_COST = 10**18
"""A million dollars in picodollars. No answer costs more: its numbers are wrong."""

_UNPAYABLE = (LARGEST_COST + 1) * _PICODOLLAR
"""The rate of what has no price: a single one of it makes a cost larger than any."""

_MODAL = slice(*map(Usage.__struct_fields__.index, ("input_audio_tokens", "web_searches")))
"""Where a usage has its audio and images."""
_PLAIN = Usage(100, 100, 20, 20, 10, 10)
"""Without any, and all parts smaller than what they are a part of."""

_MODAL_INPUT = ("inputAudio", "inputImage", "cacheReadAudio", "cacheReadImage")
_READ = ("fresh_", "cache_")
_WRITTEN = ("output_", "visible_", "reasoning_")
"""What the counts of input, and those of output, are called."""
_PARTS_OF_OUTPUT = ("reasoning", "outputAudio", "outputImage")

Rates = Mapping[str, Decimal]
"""Axis -> USD, by the million tokens or by the piece."""


@dataclass(frozen=True, slots=True)
class PriceEntry:
    """Prices that an operator has set for a model, from a time on."""

    since: int
    """Milliseconds since the epoch; 0 for ever."""
    rates: tuple[tuple[str, Decimal], ...]


@dataclass(frozen=True, slots=True)
class OwnPrices:
    """All that an operator has set for a model."""

    model: str | None
    """The provider's name for it, if it is a provider's: callers may ask for others, which these are not for."""
    entries: Sequence[PriceEntry]

    def at(self, time: int) -> PriceEntry | None:
        """The one that counts then."""
        begun = [entry for entry in self.entries if entry.since <= time]
        return max(begun, key=lambda entry: entry.since, default=None)


class Price:
    """Rates made ready to be multiplied. What they give is exact until its last step, the rounding to a picodollar."""

    __slots__ = ("_all_rates", "_per_request", "_rates", "_slopes", "_unknown", "text")

    def __init__(self, rates: Rates, about: Mapping[str, Any]) -> None:
        """`about` says whose price it is, for those who read the ledger."""
        by_count = _by_count(rates)
        known = {count: rate for count, rate in by_count.items() if rate is not None}
        pieces = {axis: rates[axis] for axis in PIECE_AXES if axis in rates}
        self._rates = tuple((count, _scaled(rate)) for count, rate in known.items())
        self._unknown = tuple(count for count in by_count if count not in known)
        if "webSearch" in pieces:
            self._rates += (("web_searches", _scaled(pieces["webSearch"] * 1_000_000)),)
        else:
            self._unknown += ("web_searches",)
        self._per_request = _scaled(pieces.get("perRequest", Decimal(0)) * 1_000_000)
        self._all_rates = (*self._rates, *((count, _UNPAYABLE) for count in self._unknown))
        flat = self._exact(_PLAIN)
        self._slopes = tuple(
            self._exact(replace(_PLAIN, **{name: getattr(_PLAIN, name) + 1})) - flat for name in Usage.__struct_fields__
        )
        """By how much the exact cost of a usage without audio and images grows with each of its numbers."""
        text: dict[str, object] = {**about, "rates": {count: plain(rate) for count, rate in known.items()}}
        if pieces:
            text["pieces"] = {axis: plain(rate) for axis, rate in pieces.items()}
        self.text = orjson.dumps(text).decode()
        """What a row keeps of it: the price that it was made with."""

    def cost(self, usage: Usage) -> int | None:
        """In picodollars, half ones rounded up; None if there is anything in it that has no price."""
        numbers = astuple(usage)
        if any(numbers[_MODAL]):
            if not usage.adds_up:
                return None
            exact = self._exact(usage)
        else:
            # Nearly every usage, and a multiplication for each number of it.
            read, written, cached, kept, kept_1h, reasoning, *_ = numbers
            if cached + kept > read or kept_1h > kept or reasoning > written:
                return None
            exact = self._per_request + sum(map(mul, self._slopes, numbers))
        cost = (exact + _PICODOLLAR // 2) // _PICODOLLAR
        return cost if cost <= LARGEST_COST else None

    def _exact(self, usage: Usage) -> int:
        """Of a usage that adds up, in multiples of 10^-24 USD."""
        exact: int = self._per_request + sum([getattr(usage, count) * rate for count, rate in self._all_rates])
        return exact

    def most(self, *, input_tokens: int, output_tokens: int, web_searches: int) -> int:
        """In picodollars: no usage of so much, of whatever kinds, costs more. What has no price adds nothing."""
        read = max((rate for count, rate in self._rates if count.startswith(_READ)), default=0)
        written = max((rate for count, rate in self._rates if count.startswith(_WRITTEN)), default=0)
        searched = dict(self._rates).get("web_searches", 0)
        exact = self._per_request + input_tokens * read + output_tokens * written + web_searches * searched
        return (exact + _PICODOLLAR // 2) // _PICODOLLAR

    @property
    def cost_without_tokens(self) -> int | None:
        """Of a request whose tokens nobody knows: known only where tokens cost nothing."""
        tokens_are_free = not any(rate for _, rate in self._rates) and set(self._unknown) <= {"web_searches"}
        return self.cost(Usage()) if tokens_are_free else None


def _by_count(rates: Rates) -> dict[str, Decimal | None]:
    """Rates by counts of `Usage` that have no token in common; None where none is known."""
    whole, written = rates.get("input"), rates.get("output")
    cached = rates.get("cacheRead", whole)
    by_count: dict[str, Decimal | None]
    if any(axis in rates for axis in _MODAL_INPUT):
        audio, image = rates.get("inputAudio", whole), rates.get("inputImage", whole)
        by_count = {
            "fresh_text_tokens": whole,
            "fresh_audio_tokens": audio,
            "fresh_image_tokens": image,
            "cache_read_text_tokens": cached,
            "cache_read_audio_tokens": rates.get("cacheReadAudio", rates.get("cacheRead", audio)),
            "cache_read_image_tokens": rates.get("cacheReadImage", rates.get("cacheRead", image)),
        }
    else:
        by_count = {"fresh_tokens": whole, "cache_read_tokens": cached}
    by_count["cache_write_5m_tokens"] = rates.get("cacheWrite5m", whole)
    by_count["cache_write_1h_tokens"] = rates.get("cacheWrite1h", None if "cacheWrite5m" in rates else whole)
    if any(axis in rates for axis in _PARTS_OF_OUTPUT):
        return by_count | {
            "visible_text_tokens": written,
            "reasoning_tokens": rates.get("reasoning", written),
            "output_audio_tokens": rates.get("outputAudio", written),
            "output_image_tokens": rates.get("outputImage", written),
        }
    return by_count | {"output_tokens": written}


def _scaled(rate: Decimal) -> int:
    return int((rate * _SCALE).to_integral_value())


def plain(number: Decimal) -> str:
    """As people write it: no exponent, no zeros at the end."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
