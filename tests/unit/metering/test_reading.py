"""What a provider's answer says of its tokens, wherever in it that stands."""

import pytest

from aiwm.metering.reading import Reading
from aiwm.providers import anthropic, google, openai
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


def test_the_records_of_a_list_are_read_one_after_the_other():
    records = (
        b'[{"usageMetadata":{"promptTokenCount":2}},\n {"modelVersion":"g","usageMetadata":'
        b'{"promptTokenCount":2,"candidatesTokenCount":5}}]'
    )
    reading = read(google.PROVIDER, records)
    assert reading.usage.total_tokens == 7
    assert reading.model == "g"
