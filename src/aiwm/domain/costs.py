"""Money: USD as whole picodollars (10^-12), of which every price of a token is a multiple: they add up exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    """Name of the count in `Usage`; `requests` for what each request costs."""
    number: int
    rate: Decimal
    """In USD, for `per` of them."""
    per: int

    @property
    def cost(self) -> Decimal:
        """In USD."""
        return self.rate * self.number / self.per


def charges(usage: Usage, price: str | None) -> Sequence[Charge]:
    """How a row's cost came about, by the price that it keeps; none when that is unknown or names no rates."""
    kept = price_of(price)
    pieces = {"perRequest": ("requests", 1), "webSearch": ("web_searches", usage.web_searches)}
    return [
        *(
            Charge(count, number, rate, _TOKENS_OF_A_RATE)
            for count, rate in _rates(kept.get("rates"))
            if (number := _counted(usage, count)) is not None
        ),
        *(Charge(*pieces[axis], rate, 1) for axis, rate in _rates(kept.get("pieces")) if axis in pieces),
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


def _rates(given: object) -> Iterator[tuple[str, Decimal]]:
    for name, rate in given.items() if isinstance(given, Mapping) else ():
        try:
            yield name, Decimal(str(rate))
        except InvalidOperation:
            continue
