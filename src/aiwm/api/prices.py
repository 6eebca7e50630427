"""A model's `prices` over HTTP: dated entries of USD, by the million tokens or by the piece."""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from aiwm.domain import times
from aiwm.domain.prices import PIECE_AXES, TOKEN_AXES, PriceEntry
from aiwm.web.schemas import Body

_LARGEST = 100_000
_DECIMALS = 9
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _number(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError("must be a number, in USD")


def _day(value: object) -> object:
    if isinstance(value, str) and _DAY.fullmatch(value):
        return value
    raise ValueError("must be a day, such as 2026-01-01")


_Day = Annotated[date, BeforeValidator(_day), Field(ge=date(2000, 1, 1))]
_Rate = Annotated[Decimal, BeforeValidator(_number), Field(ge=0, le=_LARGEST, decimal_places=_DECIMALS)]


class ModelPrice(Body):
    """USD for a million tokens of each kind, and for each request (`perRequest`) and web search (`webSearch`).

    A kind that is left out costs what the kind costs that it is a part of: `cacheRead` what `input` does, `reasoning`
    what `output` does. What has no price at all makes the cost of an answer unknown; a price of 0 makes it free.
    """

    model_config = ConfigDict(json_schema_extra={"example": {"from": "2026-01-01", "input": 0.25, "output": 2}})

    since: Annotated[_Day | None, Field(alias="from")] = None
    """The first day, UTC; without it, since ever."""
    input: _Rate | None = None
    output: _Rate | None = None
    cache_read: _Rate | None = None
    cache_write_5m: Annotated[_Rate | None, Field(alias="cacheWrite5m")] = None
    cache_write_1h: Annotated[_Rate | None, Field(alias="cacheWrite1h")] = None
    reasoning: _Rate | None = None
    input_audio: _Rate | None = None
    output_audio: _Rate | None = None
    input_image: _Rate | None = None
    output_image: _Rate | None = None
    cache_read_audio: _Rate | None = None
    cache_read_image: _Rate | None = None
    per_request: _Rate | None = None
    web_search: _Rate | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.rates:
            raise ValueError(f"give at least one of {', '.join((*TOKEN_AXES, *PIECE_AXES))}")
        return self

    @property
    def rates(self) -> tuple[tuple[str, Decimal], ...]:
        given = self.model_dump(by_alias=True)
        return tuple((axis, given[axis]) for axis in (*TOKEN_AXES, *PIECE_AXES) if given[axis] is not None)

    @property
    def begin(self) -> int:
        """Milliseconds since the epoch."""
        since = self.since
        return 0 if since is None else int(datetime(since.year, since.month, since.day, tzinfo=UTC).timestamp()) * 1000


def _different_days(given: list[ModelPrice]) -> list[ModelPrice]:
    if len({entry.begin for entry in given}) < len(given):
        raise ValueError("two entries begin on the same day")
    return given


Prices = Annotated[list[ModelPrice], Field(max_length=100), AfterValidator(_different_days)]


def entries(given: Sequence[ModelPrice] | None) -> tuple[PriceEntry, ...] | None:
    """In the order of time; None for none."""
    made = [PriceEntry(price.begin, price.rates) for price in given or ()]
    return tuple(sorted(made, key=lambda entry: entry.since)) or None


def prices_json(prices: Sequence[PriceEntry]) -> list[dict[str, Any]]:
    return [
        {
            **({"from": times.iso(entry.since)[:10]} if entry.since else {}),
            **{axis: float(rate) for axis, rate in entry.rates},
        }
        for entry in prices
    ]
