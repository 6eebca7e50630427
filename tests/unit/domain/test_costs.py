"""domain/costs.py: money adds up exactly, and a row's cost can be told from the price that it keeps."""

from __future__ import annotations

from decimal import Decimal

import pytest

from aiwm.domain.costs import charges, dollars
from aiwm.domain.usage import Usage

PRICE = (
    '{"rates":{"fresh_tokens":"2.5","cache_read_tokens":1.25,"output_tokens":"10"},"from":"a book",'
    '"pieces":{"perRequest":"0.001","webSearch":0.01,"perMoon":1}}'
)


def test_dollars_are_the_nearest_number_that_json_can_say() -> None:
    assert dollars(1) == 1e-12
    assert dollars(10**12) == 1
    assert dollars(123_456_789_012_345_678) == 123456.789012345678


def test_a_cost_is_told_line_by_line() -> None:
    usage = Usage(input_tokens=1_100, output_tokens=200, cache_read_tokens=1_000, web_searches=3)
    lines = charges(usage, PRICE)
    assert [(line.count, line.number, line.per, line.cost) for line in lines] == [
        ("fresh_tokens", 100, 1_000_000, Decimal("0.00025")),
        ("cache_read_tokens", 1_000, 1_000_000, Decimal("0.00125")),
        ("output_tokens", 200, 1_000_000, Decimal("0.002")),
        ("requests", 1, 1, Decimal("0.001")),
        ("web_searches", 3, 1, Decimal("0.03")),
    ]


@pytest.mark.parametrize(
    "price",
    [None, "", "no json", "[]", "{}", '{"rates":3}', '{"rates":{"total":"1"}}', '{"rates":{"output_tokens":"much"}}'],
)
def test_a_price_that_is_missing_or_cannot_be_read_explains_nothing(price: str | None) -> None:
    assert charges(Usage(output_tokens=5), price) == []
