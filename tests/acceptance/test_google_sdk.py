"""Google's own SDK, unmodified: only the base URL, a deployment's, and the key, the AIWM token, are ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from aiwm.simulator import words
from gateway import Gateway

from .conftest import Deploy, Deployed

HELLO = "Hello there, gateway"
ANSWER = words.OPENING + HELLO
ASKED: Any = {"model": "gemini-2.5-flash", "contents": HELLO}
WEATHER: Any = {
    "function_declarations": [
        {
            "name": "weather",
            "parameters_json_schema": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        }
    ]
}


@pytest.fixture
def deployed(deploy: Deploy) -> Deployed:
    return deploy("google", model="gemini-2.5-pro")


@pytest.fixture
def client(deployed: Deployed) -> Iterator[genai.Client]:
    client = connected(deployed.url, deployed.token)
    yield client
    client.close()


def connected(url: str, key: str) -> genai.Client:
    return genai.Client(api_key=key, vertexai=False, http_options=types.HttpOptions(base_url=url))


def simulate(switches: str, **config: Any) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(http_options=types.HttpOptions(headers={"x-simulate": switches}), **config)


def total(answer: types.GenerateContentResponse) -> int:
    assert answer.usage_metadata is not None
    return answer.usage_metadata.total_token_count or 0


# -- answers, and that what they say of their tokens is what is counted


def test_content_is_generated_and_counted(deployed: Deployed, client: genai.Client) -> None:
    answer = client.models.generate_content(**ASKED, config=simulate("cached=7; reasoning=5"))
    assert answer.text == ANSWER
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.thoughts_token_count == 5
    assert deployed.used == (1, total(answer))


def test_the_deployments_id_as_the_model_means_the_deployed_one(deployed: Deployed, client: genai.Client) -> None:
    assert client.models.generate_content(model=deployed.id, contents=HELLO).model_version == "gemini-2.5-pro"


def test_a_stream_counts_what_its_last_record_says(deployed: Deployed, client: genai.Client) -> None:
    records = list(client.models.generate_content_stream(**ASKED, config=simulate("cached=7; reasoning=5")))
    assert "".join(record.text or "" for record in records) == ANSWER
    assert deployed.used == (1, total(records[-1]))


def test_a_function_is_called(deployed: Deployed, client: genai.Client) -> None:
    config: Any = {"tools": [WEATHER], "tool_config": {"function_calling_config": {"mode": "ANY"}}}
    answer = client.models.generate_content(**ASKED, config=config)
    assert answer.function_calls is not None
    assert answer.function_calls[0].args == {"city": "simulated"}
    assert deployed.used == (1, total(answer))


def test_texts_are_embedded(deployed: Deployed, client: genai.Client) -> None:
    embedded = client.models.embed_content(
        model="gemini-embedding-001",
        contents=[HELLO, "Bye"],
        config=types.EmbedContentConfig(output_dimensionality=8),
    )
    assert embedded.embeddings is not None
    assert [len(embedding.values or []) for embedding in embedded.embeddings] == [8, 8]
    assert deployed.used[0] == 1


def test_tokens_are_told_beforehand_and_none_are_used(deployed: Deployed, client: genai.Client) -> None:
    told = client.models.count_tokens(**ASKED)
    assert told.total_tokens
    assert deployed.used == (1, 0)


def test_the_providers_models_are_listed(deployed: Deployed, client: genai.Client) -> None:
    assert [model.name for model in client.models.list()]
    assert deployed.used == (1, 0)


async def test_the_asynchronous_client_is_answered_the_same(deployed: Deployed, client: genai.Client) -> None:
    async with client.aio as aio:
        answer = await aio.models.generate_content(**ASKED)
        records = [record async for record in await aio.models.generate_content_stream(**ASKED)]
        told = await aio.models.count_tokens(**ASKED)
    assert answer.text == "".join(record.text or "" for record in records) == ANSWER
    assert told.total_tokens
    assert deployed.used == (3, total(answer) + total(records[-1]))


# -- errors: AIWM's own and the provider's


def test_a_token_that_is_not_good_is_refused(deployed: Deployed) -> None:
    client = connected(deployed.url, "AIzaNobodys")
    with pytest.raises(errors.ClientError, match="Unauthorized") as caught:
        client.models.generate_content(**ASKED)
    client.close()
    assert caught.value.code == 401
    assert deployed.used == (0, 0)


def test_a_provider_key_that_is_wrong_is_the_providers_own_error(deploy: Deploy) -> None:
    deployed = deploy("google", config={"apiKey": "AIza-invalid-0123456789"})
    client = connected(deployed.url, deployed.token)
    with pytest.raises(errors.ClientError, match="API_KEY_INVALID") as caught:
        client.models.generate_content(**ASKED, config=simulate("quote-key"))
    client.close()
    assert caught.value.code == 400
    assert "AIza-invalid-0123456789" not in str(caught.value)
    assert deployed.used == (1, 0)


def test_a_deployment_that_is_not_there_is_not_found(shared_gateway: Gateway, deployed: Deployed) -> None:
    client = connected(shared_gateway.inference("0" * 24), deployed.token)
    with pytest.raises(errors.ClientError, match=r"Deployment with ID 0{24} not found") as caught:
        client.models.generate_content(**ASKED)
    client.close()
    assert caught.value.code == 404


@pytest.mark.parametrize(
    ("status", "error", "name"),
    [
        (403, errors.ClientError, "PERMISSION_DENIED"),
        (404, errors.ClientError, "NOT_FOUND"),
        (429, errors.ClientError, "RESOURCE_EXHAUSTED"),
        (500, errors.ServerError, "INTERNAL"),
        (503, errors.ServerError, "UNAVAILABLE"),
    ],
)
def test_the_providers_refusal_is_the_sdks_error_and_no_tokens(
    deployed: Deployed, client: genai.Client, status: int, error: type[errors.APIError], name: str
) -> None:
    with pytest.raises(error) as caught:
        client.models.generate_content(**ASKED, config=simulate(f"status={status}"))
    assert (caught.value.code, caught.value.status) == (status, name)
    assert deployed.used == (1, 0)


def test_an_error_in_mid_stream_is_raised(deployed: Deployed, client: genai.Client) -> None:
    stream = client.models.generate_content_stream(**ASKED, config=simulate("error-mid-stream"))
    with pytest.raises(errors.APIError, match="overloaded"):
        list(stream)
    assert deployed.used[0] == 1
