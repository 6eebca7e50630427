"""metering/prices: what recorded answers cost to the picodollar, by hand; and when nobody knows."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import store_rows as rows
from aiwm.domain.prices import OwnPrices, PriceEntry
from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.metering.price_list import LIST
from aiwm.metering.prices import Prices, Question
from aiwm.metering.reading import Reading
from aiwm.providers import registry
from aiwm.wire.sse import EventSplitter

RECORDED = Path(__file__).parents[2] / "recorded"


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOON = at("2026-11-01T12:00")


def prices(**own: OwnPrices) -> Prices:
    async def given(ids: Collection[str]) -> Mapping[str, OwnPrices]:
        return {id_: entries for id_, entries in own.items() if id_ in ids}

    return Prices(given)


async def priced(row: UsageRow, *, by: Prices | None = None) -> UsageRow:
    [found] = await (by or prices()).priced([row])
    return found


async def micros(row: UsageRow, *, by: Prices | None = None) -> Decimal | None:
    """The cost in millionths of a dollar: tokens times USD per million."""
    cost = (await priced(row, by=by)).cost
    return None if cost is None else Decimal(cost).scaleb(-6)


def row(provider: str, model: str | None, *usage: int, **changes: object) -> UsageRow:
    fields = {
        "provider": provider,
        "model_answered": model,
        "usage": Usage(*usage),
        "started_at": NOON,
        "raw_usage": None,
    }
    return rows.usage_row("d" * 24, **fields | changes)


def recorded(name: str, **changes: object) -> UsageRow:
    path = RECORDED / name
    provider = registry.provider(path.parent.name)
    reading = Reading(provider.usage)
    text = path.read_bytes()
    for document in EventSplitter(provider.usage.markers).feed(text) if path.suffix == ".sse" else [text]:
        reading.document(document)
    return row(
        provider.name,
        reading.model,
        **{
            "model_asked": None,
            "usage": reading.usage,
            "raw_usage": reading.raw,
            "service_tier": reading.service_tier,
            **changes,
        },
    )


@pytest.mark.parametrize(
    ("name", "asked", "cost"),
    [
        # fresh 86 * 0.25 + cached 1920 * 0.025 + written 300 * 2
        ("openai/chat.json", None, "669.5"),
        ("openai/chat.sse", None, "669.5"),
        # fresh 72 * 1.25 + cached 256 * 0.125 + written 52 * 10
        ("openai/responses.sse", None, "642"),
        # 9120 * 1.25 + 340 * 10, and two searches at 0.01 USD
        ("openai/responses-web-search.sse", None, "34800"),
        ("openai/embeddings.json", None, "0.16"),
        # text 10 * 5 + images 40 * 10 + written 4160 * 40
        ("openai/images.json", "gpt-image-1", "166850"),
        ("openai/images.sse", "gpt-image-1", "63270"),
        # without a split all that is written is images: text 14 * 5 + images 48 * 8 + written 1568 * 32
        ("openai/images.sse", "gpt-image-1.5", "50630"),
        # text 10 * 5 + images 40 * 8 + written as text 60 * 10 and as images 4100 * 32
        ("openai/images-split.json", "gpt-image-1.5", "132170"),
        # text 8 * 2.5 + speech 93 * 6 + written 44 * 10
        ("openai/transcription.json", "gpt-4o-transcribe", "1018"),
        ("openai/transcription.sse", "gpt-4o-transcribe", "1018"),
        ("openai/speech.sse", "gpt-4o-mini-tts", "1220.4"),
        # text 17 * 2.5 + speech 100 * 32, text 33 * 10 + speech 150 * 64
        ("openai/chat-audio.json", None, "13172.5"),
        # fresh 21 * 3 + read 2051 * 0.3 + for 5 minutes 100 * 3.75 + for an hour 88 * 6 + written 393 * 15
        ("anthropic/messages.json", None, "7476.3"),
        ("anthropic/messages.sse", None, "7476.3"),
        # the same, and a search at 0.01 USD
        ("anthropic/messages-restated.sse", None, "17476.3"),
        # fresh 203000 * 5 + read 1000 * 0.5 + written to the cache 500 * 6.25 + written 4500 * 25
        ("anthropic/messages-compaction.json", None, "1131125"),
        # fresh 250 * 3 + read 173056 * 0.3 + written 97 * 15
        ("moonshot/messages.sse", None, "54121.8"),
        # fresh 1019 - 768 at 3, read 768 * 0.3, written 20 * 15
        ("moonshot/chat.sse", None, "1283.4"),
        # fresh text and image 324 * 0.3 + speech 800 * 1 + cached text 96 * 0.03 and speech 4000 * 0.1 + 32 * 2.5
        ("google/generate-audio.json", None, "1380.08"),
        # fresh 1225 - 1024 at 0.3, cached 1024 * 0.03, written 175 * 2.5
        ("google/generate.sse", None, "528.52"),
        ("google/generate-array.json", None, "528.52"),
        # 9 * 0.3 + text 10 * 2.5 + image 1290 * 30
        ("google/generate-image.sse", None, "38727.7"),
        # 9 * 0.5 + 96 * 3
        ("google/openai-chat.sse", None, "292.5"),
        # 27 * 2.5 + 9 * 10
        ("azure/chat.sse", None, "157.5"),
        # what is billed: 5 * 2.5 + 418 * 10
        ("cohere/chat.json", "command-a-03-2025", "4192.5"),
        # 276 * 0.15 + 1024 * 0.015 + 20 * 0.6
        ("mistral/chat.json", None, "68.76"),
        # 26 * 0.3 + 6 * 0.075 + (9 + 94) * 0.5
        ("xai/chat.json", None, "59.75"),
        # 72 * 3 + 256 * 0.75 + 52 * 15
        ("xai/responses.json", None, "1188"),
        # by day 8 * 0.27 + 8 * 0.07 + 10 * 1.1
        ("deepseek/chat.json", None, "13.72"),
        ("deepseek/chat-hits.json", None, "13.72"),
        # 41 * 0.59 + 3 * 0.79
        ("groq/chat.sse", None, "26.56"),
        # as they tell themselves in the answer
        ("openrouter/chat.json", None, "30.4"),
        ("xai/chat-with-cost.json", None, "3775.6"),
        ("perplexity/responses.json", None, "5100"),
    ],
)
async def test_recorded_answers_cost_what_they_cost_by_hand(name: str, asked: str | None, cost: str) -> None:
    assert await micros(recorded(name, model_asked=asked)) == Decimal(cost)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("openai/transcription-duration.json", "whisper-1"),  # billed by the second
        ("openai/chat-priority.sse", None),  # a model that is not in the list
        ("anthropic/messages-us.json", None),  # a region whose price is not in the list
        ("anthropic/messages-kimi.sse", None),  # another vendor's model
        ("openrouter/chat-own-key.json", None),  # another provider bills for it too
        ("cohere/rerank.json", "rerank-v3.5"),  # billed by the search
        ("ollama/chat.ndjson", None),
        ("vllm/chat-continuous.sse", None),
    ],
)
async def test_what_the_list_does_not_know_has_no_cost(name: str, asked: str | None) -> None:
    found = await priced(recorded(name, model_asked=asked))
    assert (found.cost, found.price) == (None, None)


# --- time, tiers, length -------------------------------------------------------------------------------------


async def test_the_price_is_that_of_the_row_s_time() -> None:
    usage = (1_000_000, 1_000_000)
    found = [
        await micros(row("deepseek", "deepseek-v4-flash", *usage, started_at=at(day)))
        for day in ("2026-08-16T23:59:59.999", "2026-08-17T00:00")
    ]
    assert found == [420_000, 880_000]


async def test_a_price_that_changes_with_the_hour_is_that_of_the_row_s_hour() -> None:
    found = [
        await micros(row("deepseek", "deepseek-chat", 1_000_000, started_at=at(f"2026-11-01T{time}")))
        for time in ("00:29:59.999", "00:30", "16:29:59.999", "16:30")
    ]
    assert found == [135_000, 270_000, 270_000, 135_000]


async def test_a_tier_has_its_own_price_from_the_day_that_it_is_known() -> None:
    usage = Usage(input_tokens=328, output_tokens=52, cache_read_tokens=256)
    chat = row("openai", "gpt-5-mini", usage=usage)
    assert await micros(replace(chat, service_tier="default")) == Decimal("128.4")
    assert await micros(chat) == Decimal("128.4")
    assert await micros(replace(chat, service_tier="priority")) == Decimal("231.12")
    assert await micros(replace(chat, service_tier="flex")) == Decimal("64.2")
    assert await micros(replace(chat, service_tier="priority", started_at=at("2026-10-11"))) is None


async def test_a_tier_that_nobody_knows_has_no_price() -> None:
    for provider, model, tier in (
        ("openai", "gpt-5-mini", "scale"),
        ("openai", "gpt-4o-mini", "flex"),
        ("azure", "gpt-5-mini", "priority"),
        ("anthropic", "claude-sonnet-4-5", "priority"),
        ("anthropic", "claude-sonnet-4-5", "standard+fast"),
        ("google", "gemini-2.5-flash", "PROVISIONED_THROUGHPUT"),
    ):
        assert await micros(row(provider, model, 10, 10, service_tier=tier)) is None, (provider, tier)


async def test_a_long_input_has_its_own_price_for_all_of_it() -> None:
    assert await micros(row("google", "gemini-2.5-pro", 200_000, 100)) == 200_000 * Decimal("1.25") + 100 * 10
    found = await priced(row("google", "gemini-2.5-pro", 200_001, 100))
    assert found.cost == int((200_001 * Decimal("2.5") + 100 * 15) * 10**6)
    assert '"above":200000' in str(found.price)


# --- whose price ---------------------------------------------------------------------------------------------


def set_for(model: str, *entries: tuple[int, dict[str, str]]) -> OwnPrices:
    return OwnPrices(
        model,
        [PriceEntry(since, tuple((axis, Decimal(rate)) for axis, rate in rates.items())) for since, rates in entries],
    )


OWN = set_for("gpt-4o-mini", (0, {"input": "1", "output": "2"}), (NOON, {"input": "10", "output": "20"}))


async def test_what_is_set_for_a_model_comes_before_the_list() -> None:
    by = prices(**{"a" * 24: OWN})
    chat = row("openai", "gpt-4o-mini-2024-07-18", 10, 5, model_asked="gpt-4o-mini")
    assert await micros(replace(chat, started_at=NOON - 1), by=by) == 20
    assert await micros(chat, by=by) == 200
    assert await micros(replace(chat, model_id="b" * 24), by=by) == Decimal("4.5")


async def test_what_is_set_for_a_model_is_not_for_others_that_callers_ask_for() -> None:
    by = prices(**{"a" * 24: OWN})
    assert await micros(row("openai", "gpt-5-mini", 8, 1, model_asked="gpt-5-mini"), by=by) == 4
    assert await micros(row("openai", None, 10, 5, model_asked=None), by=by) == 200


async def test_before_the_first_entry_the_list_counts() -> None:
    by = prices(**{"a" * 24: set_for("gpt-4o-mini", (NOON, {"input": "1", "output": "1"}))})
    assert await micros(row("openai", "gpt-4o-mini", 10, started_at=NOON - 1), by=by) == Decimal("1.5")


async def test_a_model_of_any_provider_can_have_a_price_set() -> None:
    by = prices(**{"a" * 24: set_for("llama3.2", (0, {"input": "0.1", "output": "0.2", "perRequest": "0.000001"}))})
    assert await micros(recorded("ollama/generate.json", model_id="a" * 24), by=by) == Decimal("5.7")


async def test_a_row_keeps_the_price_that_it_was_made_with() -> None:
    found = await priced(row("openai", "gpt-4o-mini", 10, 5))
    assert found.price == (
        f'{{"list":"{LIST}","model":"openai/gpt-4o-mini","rates":{{"fresh_tokens":"0.15","cache_read_tokens":"0.075",'
        '"cache_write_5m_tokens":"0.15","cache_write_1h_tokens":"0.15","output_tokens":"0.6"},'
        '"pieces":{"webSearch":"0.01"}}'
    )
    own = await priced(row("openai", "gpt-4o-mini", 10, 5), by=prices(**{"a" * 24: OWN}))
    assert str(own.price).startswith('{"set":"for the model","from":"2026-11-01","rates":{"fresh_tokens":"10"')


async def test_what_a_provider_told_comes_after_what_is_set_and_before_the_list() -> None:
    told = recorded("openrouter/chat.json")
    assert (await priced(told)).price == '{"stated":"by the provider"}'
    by = prices(**{"a" * 24: set_for("openai/gpt-4o-mini", (0, {"input": "1", "output": "0"}))})
    assert await micros(told, by=by) == 194
    assert await micros(replace(told, raw_usage=None)) == Decimal("30.3")


@pytest.mark.parametrize("cost", ["-1", "true", '"0.1"', "null", "{}", "[1]", "1e300"])
async def test_a_cost_that_makes_no_sense_is_not_believed(cost: str) -> None:
    found = await priced(row("perplexity", "sonar", 5, 5, raw_usage=f'{{"cost":{{"total_cost":{cost}}}}}'))
    assert (found.cost, found.price) == (None, None)


async def test_a_told_cost_is_exact_to_the_picodollar() -> None:
    for text, cost in (
        ("1e-12", 1),
        ("5e-13", 1),
        ("4e-13", 0),
        ("0.1", 10**11),
        ("123.456789012345", 123456789012345),
    ):
        found = await priced(row("perplexity", "sonar", 5, 5, raw_usage=f'{{"cost":{{"total_cost":{text}}}}}'))
        assert found.cost == cost


# --- what is unknown, and what cost nothing ------------------------------------------------------------------


async def test_an_answer_without_numbers_has_no_cost() -> None:
    for end in (End.COMPLETE, End.CLIENT_GONE, End.GATEWAY_DIED):
        unread = row("openai", "gpt-4o-mini", source=Source.NONE, end=end)
        assert (await priced(unread)).cost is None
        assert (await priced(replace(unread, status=None))).cost is None


async def test_estimated_numbers_have_a_cost_as_others_have() -> None:
    assert await micros(row("openai", "gpt-4o-mini", 10, 5, source=Source.ESTIMATED, end=End.CLIENT_GONE)) == Decimal(
        "4.5"
    )


async def test_a_request_that_the_provider_refused_cost_nothing() -> None:
    refused = row("openai", None, status=429, source=Source.NONE)
    assert (await priced(refused)).cost == 0
    assert (await priced(replace(refused, provider="somebody"))).cost == 0
    assert (await priced(replace(refused, provider="azure"))).cost is None


async def test_rows_of_one_batch_go_by_the_price_of_their_own_time() -> None:
    """In whatever order they come: of an operator's price, of the list's hours, of what has one only from a time on."""
    borders = [NOON, NOON + 5000]
    own = OwnPrices(None, [PriceEntry(since, (("input", Decimal(n + 1)),)) for n, since in enumerate(borders)])
    of_model = {"model_id": "own", "usage": Usage(10)}
    times = [NOON + 4999, NOON + 5000, NOON, NOON - 1, NOON + 4999]
    found = await prices(own=own).priced([row("x", "m", started_at=time, **of_model) for time in times])
    assert [each.cost for each in found] == [10_000_000, 20_000_000, 10_000_000, None, 10_000_000]

    hours = [at(f"2025-09-01T{hour:02}:15:00") for hour in (0, 5, 12, 17, 23, 16, 1)]
    deepseek = [row("deepseek", "deepseek-chat", 1000, 500, started_at=time) for time in hours]
    together = await prices().priced(deepseek)
    assert together == [await priced(each) for each in deepseek]
    assert len({each.cost for each in together}) > 1


async def test_a_row_that_is_priced_again_forgets_its_old_price() -> None:
    old = row("ollama", "llama3.2", 10, 5, cost=7, price="{}")
    found = await priced(old)
    assert (found.cost, found.price) == (None, None)


async def test_a_row_of_a_known_model_takes_a_few_microseconds() -> None:
    by = prices()
    batch = [row("openai", "gpt-4o-mini", 2006, 300, 1920, 0, 0, 192) for _ in range(2000)]
    await by.priced(batch)
    fastest = min([await _seconds(by, batch) for _ in range(5)])
    assert fastest / len(batch) < 50e-6  # Several times what it takes.


async def _seconds(by: Prices, batch: list[UsageRow]) -> float:
    began = time.thread_time()  # What other programs take does not count.
    await by.priced(batch)
    return time.thread_time() - began


# --- the most that an answer can cost --------------------------------------------------------------------------


def most(provider: str, model: str | None, read: int, written: int, *, by: Prices, own: OwnPrices | None = None) -> Any:
    question = Question(
        provider=registry.provider(provider),
        model=model,
        at=NOON,
        input_tokens=read,
        output_tokens=written,
        web_searches=2,
    )
    return by.most(question, own)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o"), ("openai", "gpt-5"), ("openai", "gpt-4o-audio-preview"),
        ("anthropic", "claude-sonnet-4-5"), ("anthropic", "claude-opus-4-6"), ("google", "gemini-2.5-pro"),
        ("google", "gemini-2.5-flash"), ("xai", "grok-4"), ("deepseek", "deepseek-chat"),
        ("groq", "llama-3.3-70b-versatile"),
    ],
)  # fmt: skip
async def test_no_answer_costs_more_than_the_most_whatever_tier_serves_it(provider: str, model: str) -> None:
    choice, by, known = random.Random(7), prices(), 0
    tiers = [None, *registry.provider(provider).usage.tiers]
    for _ in range(300):
        read, written = choice.choice([10, 10_000, 500_000]), choice.choice([1, 5000])
        used = choice.randint(0, read)
        cached = choice.randint(0, used)
        kept = choice.randint(0, used - cached)
        usage = Usage(
            input_tokens=used,
            output_tokens=choice.randint(0, written),
            cache_read_tokens=cached,
            cache_write_tokens=kept,
            cache_write_1h_tokens=choice.randint(0, kept),
            web_searches=choice.randint(0, 2),
        )
        answer = row(provider, model, usage=usage, model_asked=model, service_tier=choice.choice(tiers))
        cost = by.cost(answer, None)
        if cost is not None:
            known += 1
            assert cost <= most(provider, model, read, written, by=by)
    assert known > 20


async def test_the_most_is_by_what_an_operator_has_set_and_else_by_the_list_and_else_unknown() -> None:
    rates = (("input", Decimal(1)), ("output", Decimal(2)), ("perRequest", Decimal(1)))
    own = OwnPrices("gpt-4o", [PriceEntry(0, rates)])
    assert most("openai", "gpt-4o", 1000, 500, by=prices(), own=own) == (1000 * 1 + 500 * 2 + 1_000_000) * 10**6
    listed = most("openai", "gpt-4o-mini", 1000, 500, by=prices())
    assert most("openai", "gpt-4o-mini", 1000, 500, by=prices(), own=own) == listed > 0
    assert most("openai", "nobody-knows-it", 1000, 500, by=prices()) is None
    assert most("openai", None, 1000, 500, by=prices()) is None
