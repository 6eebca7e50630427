"""domain/prices: costs are exact, add up, and are unknown wherever anything in them has no price."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from aiwm.domain.costs import charges
from aiwm.domain.prices import TOKEN_AXES, OwnPrices, Price, PriceEntry
from aiwm.domain.usage import Usage


def price(**rates: str) -> Price:
    return Price({axis: Decimal(rate) for axis, rate in rates.items()}, {})


def cost(usage: Usage, **rates: str) -> Decimal | None:
    """In USD."""
    found = price(**rates).cost(usage)
    return None if found is None else Decimal(found).scaleb(-12)


counts = st.integers(0, 10**9)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Whose parts add up to its wholes."""
    part = [draw(counts) for _ in range(11)]
    _, audio, image, cached, cached_audio, cached_image, short, long, visible, reasoning, drawn = part
    return Usage(
        input_tokens=sum(part[:8]),
        output_tokens=visible + reasoning + drawn,
        cache_read_tokens=cached + cached_audio + cached_image,
        cache_write_tokens=short + long,
        cache_write_1h_tokens=long,
        reasoning_tokens=reasoning,
        input_audio_tokens=audio + cached_audio,
        output_audio_tokens=0,
        input_image_tokens=image + cached_image,
        output_image_tokens=drawn,
        cache_read_audio_tokens=cached_audio,
        cache_read_image_tokens=cached_image,
    )


rates = st.decimals(0, 1000, places=6)
some_rates = st.dictionaries(st.sampled_from(TOKEN_AXES), rates).map(
    lambda found: {"input": Decimal("0.25"), "output": Decimal(2), "cacheWrite1h": Decimal(3), **found}
)


@given(usages(), usages(), some_rates)
def test_the_cost_of_two_answers_is_the_sum_of_their_costs(one: Usage, other: Usage, given_rates) -> None:
    of = Price(given_rates, {}).cost
    both = of(one + other)
    if both is not None:  # More than a million dollars is not believed.
        assert both == of(one) + of(other)


@given(usages(), some_rates, st.data())
def test_more_of_anything_never_costs_less_and_nothing_costs_less_than_nothing(
    usage: Usage, given_rates, data: st.DataObject
) -> None:
    of = Price(given_rates, {}).cost
    before = of(usage)
    whole = data.draw(st.sampled_from(["input_tokens", "output_tokens"]))
    after = of(replace(usage, **{whole: getattr(usage, whole) + data.draw(counts)}))
    if before is not None and after is not None:
        assert 0 <= before <= after


@given(usages(), some_rates, rates, rates)
def test_the_charges_that_a_price_explains_are_the_cost(
    usage: Usage, given_rates, each: Decimal, search: Decimal
) -> None:
    usage = replace(usage, web_searches=7)
    made = Price({**given_rates, "perRequest": each, "webSearch": search}, {})
    found = made.cost(usage)
    if found is not None:
        assert sum(charge.cost for charge in charges(usage, made.text)) == Decimal(found).scaleb(-12)


@given(st.lists(st.integers(0, 9), min_size=6, max_size=6), some_rates, rates)
def test_a_usage_without_audio_and_images_costs_what_its_charges_do_or_does_not_add_up(
    numbers: list[int], given_rates, search: Decimal
) -> None:
    usage = Usage(*numbers, web_searches=numbers[0])
    made = Price({**given_rates, "webSearch": search}, {})
    found = made.cost(usage)
    assert (found is not None) == usage.adds_up
    if found is not None:
        exact = sum(charge.cost for charge in charges(usage, made.text)).scaleb(12)
        assert abs(exact - found) <= Decimal("0.5")


@given(usages())
def test_the_counts_that_have_rates_have_no_token_in_common_and_leave_none_out(usage: Usage) -> None:
    for axes in ({}, {"inputAudio": "1"}, {"outputImage": "1"}, {"cacheReadImage": "1", "reasoning": "1"}):
        made = price(**{"input": "1", "output": "1", "cacheWrite5m": "1", "cacheWrite1h": "1", **axes})
        assert sum(charge.number for charge in charges(usage, made.text)) == usage.total_tokens


def test_a_part_costs_what_its_whole_costs_unless_it_has_a_rate_of_its_own() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000, cache_read_tokens=400_000, reasoning_tokens=250_000)
    assert cost(usage, input="1", output="8") == 9
    assert cost(usage, input="1", output="8", cacheRead="0.1") == Decimal("8.64")
    assert cost(usage, input="1", output="8", cacheRead="0.1", reasoning="4") == Decimal("7.64")


def test_writes_for_an_hour_have_no_price_where_only_those_for_five_minutes_have_one() -> None:
    usage = Usage(input_tokens=1000, cache_write_tokens=1000, cache_write_1h_tokens=1)
    assert cost(usage, input="3", output="15", cacheWrite5m="3.75") is None
    assert cost(usage, input="3", output="15", cacheWrite5m="3.75", cacheWrite1h="6") == Decimal("0.00375225")
    assert cost(usage, input="3", output="15") == Decimal("0.003")


def test_what_is_cached_of_audio_has_the_price_of_cached_audio() -> None:
    usage = Usage(input_tokens=1000, input_audio_tokens=900, cache_read_tokens=500, cache_read_audio_tokens=450)
    rates = {"input": "1", "output": "1", "inputAudio": "10", "cacheRead": "0.5"}
    assert cost(usage, **rates, cacheReadAudio="2") == Decimal("0.005475")
    assert cost(usage, **rates) == Decimal("0.0048")


def test_nothing_is_known_of_a_count_without_a_rate() -> None:
    assert cost(Usage(input_tokens=5), input="1") == Decimal("0.000005")
    assert cost(Usage(input_tokens=5, output_tokens=1), input="1") is None
    assert cost(Usage(input_tokens=5, web_searches=1), input="1", output="1") is None
    assert cost(Usage(input_tokens=5, web_searches=1), input="1", output="1", webSearch="0.01") == Decimal("0.010005")


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=5, cache_read_tokens=6),
        Usage(input_tokens=5, cache_read_tokens=3, cache_write_tokens=3),
        Usage(input_tokens=5, cache_write_1h_tokens=1),
        Usage(input_tokens=5, input_audio_tokens=6),
        Usage(input_tokens=5, cache_read_audio_tokens=1, input_audio_tokens=5),
        Usage(output_tokens=5, reasoning_tokens=6),
    ],
)
def test_numbers_that_do_not_add_up_have_no_cost(usage: Usage) -> None:
    assert cost(usage, input="1", output="1") is None


def test_a_cost_is_rounded_once_to_a_picodollar_and_half_ones_up() -> None:
    third = "0.0833333333333333"
    assert price(input=third, output="1").cost(Usage(input_tokens=1)) == 83_333
    assert price(input=third, output="1").cost(Usage(input_tokens=2)) == 166_667
    assert price(input=third, output=third).cost(Usage(input_tokens=1, output_tokens=1)) == 166_667
    assert price(input="0.0000005", output="1").cost(Usage(input_tokens=1)) == 1
    assert price(input="0.00000049", output="1").cost(Usage(input_tokens=1)) == 0


def test_numbers_that_nobody_can_believe_have_no_cost() -> None:
    assert price(input="1", output="1").cost(Usage(input_tokens=10**12)) == 10**18
    assert price(input="1", output="1").cost(Usage(input_tokens=1 << 49)) is None


def test_a_request_without_tokens_has_a_cost_where_tokens_cost_nothing() -> None:
    assert price(input="0", output="0", perRequest="0.04").cost_without_tokens == 40_000_000_000
    assert price(input="0", output="0").cost_without_tokens == 0
    assert price(perRequest="0.04").cost_without_tokens is None
    assert price(input="0", output="1", perRequest="0.04").cost_without_tokens is None


def test_the_text_of_a_price_is_short_and_plain() -> None:
    made = Price({"input": Decimal("2.50"), "output": Decimal("1E+1"), "perRequest": Decimal("0.010")}, {"set": "here"})
    assert made.text == (
        '{"set":"here","rates":{"fresh_tokens":"2.5","cache_read_tokens":"2.5","cache_write_5m_tokens":"2.5",'
        '"cache_write_1h_tokens":"2.5","output_tokens":"10"},"pieces":{"perRequest":"0.01"}}'
    )


def test_the_latest_entry_that_has_begun_counts() -> None:
    entries = [PriceEntry(since, (("input", Decimal(since)),)) for since in (200, 0, 100)]
    own = OwnPrices("m", entries)
    assert [own.at(time).since for time in (0, 99, 100, 199, 200, 999)] == [0, 0, 100, 100, 200, 200]
    assert OwnPrices("m", entries[:1]).at(199) is None


def test_usage_has_no_count_that_these_tests_do_not_know() -> None:
    assert len(astuple(Usage())) == 13
