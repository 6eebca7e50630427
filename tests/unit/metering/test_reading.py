"""What a provider's answer says of its tokens, wherever in it that stands."""

import pytest

from aiwm.metering.reading import Reading
from aiwm.providers import anthropic, google, openai, registry
from aiwm.providers.base import Provider


def read(provider: Provider, *documents: bytes) -> Reading:
    reading = Reading(provider.usage)
    for document in documents:
        reading.document(document)
    return reading


@pytest.mark.parametrize("space", [b"", b" \n "])
def test_usage_and_model_are_found_below_another_object(space: bytes):
    event = b'{"type":"response.completed","response":@{"model":@"m","usage":@{"input_tokens":3,"output_tokens":4}}}'
    reading = read(openai.PROVIDER, event.replace(b"@", space))
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (3, 4)
    assert reading.model == "m"


def test_the_last_number_of_a_stream_wins_and_what_it_leaves_out_stays():
    reading = read(
        anthropic.PROVIDER,
        b'{"type":"message_start","message":{"model":"m","usage":{"input_tokens":3,"cache_read_input_tokens":2,'
        b'"output_tokens":1}}}',
        b'{"type":"message_delta","usage":{"output_tokens":9}}',
    )
    assert reading.model == "m"
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (5, 9)


@pytest.mark.parametrize(
    "text", [b'{"response":1}', b'{"response":null}', b'{"response":"usage"}', b'{"response":[1]}']
)
def test_another_thing_where_an_object_should_be_says_nothing(text: bytes):
    assert not read(openai.PROVIDER, text).found


@pytest.mark.parametrize(
    "text", [b'{"usage":{"\xff":1}}', b'{"usage":{"prompt_tokens":"\xff"}}', b'{"model":"\xff","usage":{}}']
)
def test_what_is_no_utf8_says_nothing(text: bytes):
    reading = Reading(registry.provider("openai").usage)
    assert not reading.document(text)
    assert not reading.found


def test_the_records_of_a_list_are_read_one_after_the_other():
    records = (
        b'[{"usageMetadata":{"promptTokenCount":2}},\n {"modelVersion":"g","usageMetadata":'
        b'{"promptTokenCount":2,"candidatesTokenCount":5}}]'
    )
    reading = read(google.PROVIDER, records)
    assert reading.usage.total_tokens == 7
    assert reading.model == "g"


def test_objects_of_a_list_are_chosen_by_a_value_and_several_add_up():
    details = (
        b'[{"modality":"AUDIO","tokenCount":3},{"modality":"TEXT","tokenCount":9},{"modality":"AUDIO","tokenCount":4},'
        b'5,null,"AUDIO",{"modality":"AUDIO"},{"modality":["AUDIO"],"tokenCount":1}]'
    )
    usage = read(google.PROVIDER, b'{"usageMetadata":{"promptTokenCount":16,"promptTokensDetails":%b}}' % details).usage
    assert (usage.input_tokens, usage.input_audio_tokens, usage.input_image_tokens) == (16, 7, 0)


@pytest.mark.parametrize("count", ["true", "-3", "1.5", '"3"', "null", "[3]", str(1 << 50), str(10**30), "1e999"])
def test_what_is_no_count_counts_as_nothing(count: str):
    usage = read(openai.PROVIDER, b'{"usage":{"prompt_tokens":7,"completion_tokens":%b}}' % count.encode()).usage
    assert (usage.input_tokens, usage.output_tokens) in {(7, 0), (0, 0)}


def test_fields_of_one_dialect_do_not_add_to_those_of_another():
    both = b'{"usage":{"prompt_tokens":173306,"input_tokens":250,"cache_read_input_tokens":173056,"output_tokens":9}}'
    for provider in (anthropic.PROVIDER, registry.provider("moonshot")):
        assert read(provider, both).usage.input_tokens == 173306
    both = b'{"usage":{"prompt_tokens":20,"cached_tokens":8,"prompt_tokens_details":{"cached_tokens":8}}}'
    assert read(registry.provider("moonshot"), both).usage.cache_read_tokens == 8


def test_what_stands_beside_the_usage_is_read_with_it_and_never_alone():
    searched = b'"tool_usage":{"web_search":{"num_requests":2}}'
    assert not read(openai.PROVIDER, b'{"usage":null,%b}' % searched).found
    assert read(openai.PROVIDER, b'{"usage":{"input_tokens":5},%b}' % searched).usage.web_searches == 2


@pytest.mark.parametrize(
    ("provider", "document", "tier"),
    [
        (openai.PROVIDER, b'{"service_tier":"flex","usage":{}}', "flex"),
        (openai.PROVIDER, b'{"response":{"service_tier":"default","usage":{}}}', "default"),
        (openai.PROVIDER, b'{"service_tier":null,"usage":{}}', None),
        (openai.PROVIDER, b'{"service_tier":5,"usage":{"service_tier":"flex"}}', None),
        (anthropic.PROVIDER, b'{"usage":{"service_tier":"standard","inference_geo":"global"}}', "standard"),
        (
            anthropic.PROVIDER,
            b'{"usage":{"service_tier":"priority","speed":"fast","inference_geo":"us"}}',
            "priority+fast+us",
        ),
        (anthropic.PROVIDER, b'{"usage":{"service_tier":"standard","speed":"standard"}}', "standard"),
        (anthropic.PROVIDER, b'{"usage":{"service_tier":"standard","speed":"standard","inference_geo":"eu"}}', "eu"),
        (google.PROVIDER, b'{"usageMetadata":{"trafficType":"ON_DEMAND"}}', "ON_DEMAND"),
    ],
)
def test_the_tier_is_what_decides_the_price(provider: Provider, document: bytes, tier: str | None):
    assert read(provider, document).service_tier == tier


def test_a_tier_is_fit_for_the_ledger():
    long = b'{"service_tier":"a\\u0000%b","usage":{"input_tokens":1}}' % (b"x" * 400)
    assert len(read(openai.PROVIDER, long).service_tier or "") <= 50
    long = b'{"usage":{"input_tokens":1,"service_tier":"a\\u0000%b"}}' % (b"x" * 400)
    assert read(anthropic.PROVIDER, long).service_tier == "a" + "x" * 49
