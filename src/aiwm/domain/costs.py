"""Money: USD as whole picodollars (10^-12), of which every price of a token is a multiple: they add up exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from aiwm.domain.usage import Usage

Picodollars = int

_DOLLAR: Picodollars = 10**12
_TOKENS_OF_A_RATE = 1_000_000


def dollars(cost: Picodollars) -> float:
    """The nearest number that JSON can say."""
    return cost / _DOLLAR


@dataclass(frozen=True, slots=True)
class Charge:
    """One line of a row's bill."""

    count: str
    """Name of the count in `Usage`."""
    tokens: int
    rate: Decimal
    """USD per million tokens."""

    @property
    def cost(self) -> Decimal:
        """In USD."""
        return self.rate * self.tokens / _TOKENS_OF_A_RATE


def charges(usage: Usage, price: str | None) -> Sequence[Charge]:
    """How a row's cost came about, by the price that it keeps; none when that is unknown or names no rates."""
    rates = price_of(price).get("rates")
    if not isinstance(rates, Mapping):
        return []
    return [
        Charge(count, tokens, rate)
        for count, given in rates.items()
        if (tokens := _counted(usage, count)) is not None and (rate := _rate(given)) is not None
    ]


def price_of(text: str | None) -> Mapping[str, Any]:
    """The price that a row keeps; empty when it has none, or one that can't be read."""
    try:
        found = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _counted(usage: Usage, name: str) -> int | None:
    return getattr(usage, name, None) if name.endswith("_tokens") else None


def _rate(given: object) -> Decimal | None:
    try:
        return Decimal(str(given))
    except InvalidOperation:
        return None
