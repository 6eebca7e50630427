"""OpenAI's own SDK, unmodified: only the base URL, a deployment's, and the key, the AIWM token, are ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from aiwm.simulator import words
from gateway import Gateway

from .conftest import Deploy, Deployed

HELLO = "Hello there, gateway"
MESSAGES: Any = [{"role": "user", "content": HELLO}]
ANSWER = words.OPENING + HELLO
CHAT: Any = {"model": "gpt-4o", "messages": MESSAGES}
READ = -(-len("gpt-4o" + "user" + HELLO) // 4)
"""Tokens that a chat is taken to have cost when its answer never came: a token for four characters."""

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
RESPONSES_TOOL: Any = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}

INVALID_KEY = {"apiKey": "sk-invalid-0123456789abcdef"}


@pytest.fixture
def deployed(deploy: Deploy) -> Deployed:
    return deploy("openai", model="gpt-4o-mini")


@pytest.fixture
def client(deployed: Deployed) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{deployed.url}/v1", api_key=deployed.token, max_retries=0) as client:
        yield client


def simulate(switches: str) -> dict[str, Any]:
    return {"extra_headers": {"x-simulate": switches}}


# -- answers, and that what they say of their tokens is what is counted


def test_a_chat_is_answered_and_counted(deployed: Deployed, client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(**CHAT, **simulate("cached=7; reasoning=5"))
    assert completion.choices[0].message.content == ANSWER
    assert completion.model == "gpt-4o"
    assert completion.usage is not None
    assert completion.usage.total_tokens > 12
    assert deployed.used == (1, completion.usage.total_tokens)


def test_the_deployments_id_as_the_model_means_the_deployed_one(deployed: Deployed, client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model=deployed.id, messages=MESSAGES)
    assert completion.model == "gpt-4o-mini"


def test_a_streamed_chat_counts_what_its_last_chunk_says(deployed: Deployed, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert last.usage is not None
    assert deployed.used == (1, last.usage.total_tokens)


def test_a_streamed_chat_that_asks_for_no_usage_sees_none_and_is_counted(
    deployed: Deployed, client: openai.OpenAI
) -> None:
    usage = client.chat.completions.create(**CHAT).usage
    chunks = list(client.chat.completions.create(**CHAT, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert all(chunk.choices and "usage" not in chunk.model_fields_set for chunk in chunks)
    assert usage is not None
    assert deployed.used == (2, 2 * usage.total_tokens)


@pytest.mark.parametrize("options", [None, {"include_usage": True}, {"include_usage": False}, {}], ids=str)
@pytest.mark.parametrize("route", ["chat", "completions"])
def test_a_stream_is_what_the_provider_itself_would_have_sent(
    deployed: Deployed, client: openai.OpenAI, simulator: str, route: str, options: Any
) -> None:
    asked: Any = {} if options is None else {"stream_options": options}

    def streamed(client: openai.OpenAI) -> list[dict[str, Any]]:
        if route == "chat":
            chunks: Any = client.chat.completions.create(**CHAT, stream=True, **asked)
        else:
            chunks = client.completions.create(model="gpt-4o", prompt=HELLO, stream=True, **asked)
        # Of each answer's own: its number and its time.
        return [{**chunk.model_dump(exclude_unset=True), "id": "", "created": 0} for chunk in chunks]

    with openai.OpenAI(base_url=f"{simulator}/v1", api_key="sk-provider-key-0123456789abcdef") as direct:
        expected = streamed(direct)
    assert streamed(client) == expected
    assert ("usage" in expected[0]) is (options == {"include_usage": True})
    assert deployed.used[1] > 0


def test_a_tool_is_called_whole_and_streamed(deployed: Deployed, client: openai.OpenAI) -> None:
    asked: Any = {**CHAT, "tools": [CHAT_TOOL], "tool_choice": "required"}
    whole = client.chat.completions.create(**asked)
    with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        streamed = stream.get_final_completion()
    total = 0
    for completion in (whole, streamed):
        [call] = completion.choices[0].message.tool_calls
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments) == {"city": "simulated"}
        total += completion.usage.total_tokens
    assert deployed.used == (2, total)


def test_a_response_is_answered_and_counted(deployed: Deployed, client: openai.OpenAI) -> None:
    response = client.responses.create(model="gpt-4o", input=HELLO, instructions="Be brief")
    assert response.output_text == ANSWER
    assert response.usage is not None
    assert deployed.used == (1, response.usage.total_tokens)


def test_a_streamed_response_counts_what_it_says_when_completed(deployed: Deployed, client: openai.OpenAI) -> None:
    with client.responses.stream(model="gpt-4o", input=HELLO) as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert response.output_text == ANSWER
    assert response.usage is not None
    assert deployed.used == (1, response.usage.total_tokens)


def test_a_response_calls_a_tool(deployed: Deployed, client: openai.OpenAI) -> None:
    response = client.responses.create(
        model="gpt-4o", input=HELLO, tools=[RESPONSES_TOOL], tool_choice={"type": "function", "name": "weather"}
    )
    assert response.output[0].type == "function_call"
    assert json.loads(response.output[0].arguments) == {"city": "simulated"}
    assert response.usage is not None
    assert deployed.used == (1, response.usage.total_tokens)


def test_texts_are_embedded_and_counted(deployed: Deployed, client: openai.OpenAI) -> None:
    embedded = client.embeddings.create(model="text-embedding-3-small", input=[HELLO, "Bye"], dimensions=8)
    assert [len(item.embedding) for item in embedded.data] == [8, 8]
    assert deployed.used == (1, embedded.usage.total_tokens)


def test_an_upload_arrives_whole_and_its_transcript_is_counted(deployed: Deployed, client: openai.OpenAI) -> None:
    upload = ("talk.wav", bytes(range(256)) * 4000)
    transcript = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=upload)
    assert "talk.wav has 1024000 bytes" in transcript.text
    assert transcript.usage is not None
    assert transcript.usage.type == "tokens"
    assert deployed.used == (1, transcript.usage.total_tokens)


def test_a_streamed_transcript_is_counted(deployed: Deployed, client: openai.OpenAI) -> None:
    stream = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("t.wav", bytes(40_000)), stream=True)
    *_, done = stream
    assert done.type == "transcript.text.done"
    assert done.usage is not None
    assert deployed.used == (1, done.usage.total_tokens)


def test_the_providers_models_are_listed(deployed: Deployed, client: openai.OpenAI) -> None:
    models = client.models.list()
    assert "gpt-4o" in [model.id for model in models]
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"
    assert deployed.used == (2, 0)


async def test_the_asynchronous_client_is_answered_the_same(deployed: Deployed) -> None:
    async with openai.AsyncOpenAI(base_url=f"{deployed.url}/v1", api_key=deployed.token, max_retries=0) as client:
        completion = await client.chat.completions.create(**CHAT)
        stream = await client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        response = await client.responses.create(model="gpt-4o", input=HELLO)
        async with client.responses.stream(model="gpt-4o", input=HELLO) as events:
            streamed = await events.get_final_response()
        embedded = await client.embeddings.create(model="text-embedding-3-small", input=HELLO)
        upload = ("t.wav", bytes(40_000))
        transcript = await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=upload)
    assert completion.choices[0].message.content == response.output_text == streamed.output_text == ANSWER
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == ANSWER
    answers: list[Any] = [completion, chunks[-1], response, streamed, embedded, transcript]
    assert deployed.used == (6, sum(answer.usage.total_tokens for answer in answers))


# -- errors: AIWM's own and the provider's, each as the SDK's own class


def our_message(error: openai.APIStatusError) -> str:
    """The SDK has no words for an error that is not its provider's; the answer is in its hands."""
    assert error.response.headers["x-aiwm-error"] == "gateway"
    answer = error.response.json()
    assert answer["statusCode"] == error.status_code
    return str(answer["message"])


@pytest.mark.parametrize("bad", ["of another's making", "with another signature"])
def test_a_token_that_is_not_good_is_an_authentication_error(deployed: Deployed, bad: str) -> None:
    token = "sk-nobodys" if bad == "of another's making" else f"{deployed.token[:-8]}AAAAAAAA"
    with (
        openai.OpenAI(base_url=f"{deployed.url}/v1", api_key=token, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(**CHAT)
    assert our_message(caught.value) == "Unauthorized"
    assert deployed.used == (0, 0)


def test_a_provider_key_that_is_wrong_is_the_providers_own_error(deploy: Deploy) -> None:
    deployed = deploy("openai", config=INVALID_KEY)
    with (
        openai.OpenAI(base_url=f"{deployed.url}/v1", api_key=deployed.token, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="Incorrect API key provided") as caught,
    ):
        client.chat.completions.create(**CHAT, **simulate("quote-key"))
    assert caught.value.code == "invalid_api_key"
    assert "x-aiwm-error" not in caught.value.response.headers
    assert INVALID_KEY["apiKey"] not in str(caught.value)
    assert deployed.used == (1, 0)


def test_a_deployment_that_is_not_there_is_not_found(shared_gateway: Gateway, deployed: Deployed) -> None:
    with (
        openai.OpenAI(
            base_url=f"{shared_gateway.inference('0' * 24)}/v1", api_key=deployed.token, max_retries=0
        ) as client,
        pytest.raises(openai.NotFoundError) as caught,
    ):
        client.chat.completions.create(**CHAT)
    assert our_message(caught.value) == "Deployment with ID 000000000000000000000000 not found"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_the_providers_refusal_is_the_sdks_error_and_no_tokens(
    deployed: Deployed, client: openai.OpenAI, status: int, error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**CHAT, **simulate(f"status={status}"))
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"]
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("req_")
    assert caught.value.response.headers.get("retry-after") == ("1" if status == 429 else None)
    assert deployed.used == (1, 0)


def test_what_the_sdk_tries_again_is_counted_each_time(deployed: Deployed, client: openai.OpenAI) -> None:
    retrying = client.with_options(max_retries=1)
    with pytest.raises(openai.InternalServerError):
        retrying.chat.completions.create(**CHAT, **simulate("status=500"))
    assert deployed.used == (2, 0)


def test_an_error_in_mid_stream_is_raised(deployed: Deployed, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(**CHAT, stream=True, **simulate("error-mid-stream"))
    with pytest.raises(openai.APIError, match="had an error"):
        list(stream)
    assert deployed.used == (1, 0)


def test_a_provider_that_breaks_off_is_never_a_clean_end(deployed: Deployed, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(**CHAT, stream=True, **simulate("cut=3"))
    with pytest.raises(openai.APIConnectionError):
        list(stream)
    requests, tokens = deployed.used
    assert (requests, tokens > READ) == (1, True)


def test_a_client_that_loses_patience_is_counted_with_what_it_sent(deployed: Deployed, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1).chat.completions.create(**CHAT, **simulate("hang"))
    assert deployed.eventually_used(1, READ)


def test_a_provider_that_never_answers_is_our_504(deploy: Deploy) -> None:
    deployed = deploy("openai", config={"apiKey": "sk-provider-key-0123456789", "timeout": "0.2"})
    with (
        openai.OpenAI(base_url=f"{deployed.url}/v1", api_key=deployed.token, max_retries=0) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.chat.completions.create(**CHAT, **simulate("hang"))
    assert caught.value.status_code == 504
    assert our_message(caught.value) == "Request to AI provider timed out"
    assert deployed.used == (1, READ)


def test_a_provider_that_is_not_there_is_our_502(deploy: Deploy) -> None:
    deployed = deploy("openai", "http://127.0.0.1:1")
    with (
        openai.OpenAI(base_url=f"{deployed.url}/v1", api_key=deployed.token, max_retries=0) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.chat.completions.create(**CHAT)
    assert caught.value.status_code == 502
    assert our_message(caught.value) == "AI provider is unreachable"
    assert deployed.used == (0, 0)


# -- Azure's client: its paths name a deployment of Azure's, its key goes in a header of its own

AZURE: Any = {"api_version": "2024-10-21", "max_retries": 0}


@pytest.fixture
def azure(deploy: Deploy, simulator: str) -> Deployed:
    return deploy("azure", f"{simulator}/openai", config={"apiKey": "azure-key-0123456789"})


@pytest.mark.parametrize("credential", ["api_key", "azure_ad_token"])
def test_azures_client_is_answered_and_counted(azure: Deployed, credential: str) -> None:
    asked: Any = {"model": "mine", "messages": MESSAGES}
    given: Any = {**AZURE, credential: azure.token}
    with openai.AzureOpenAI(base_url=f"{azure.url}/deployments/mine", **given) as client:
        completion = client.chat.completions.create(**asked)
        stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        filtered, *chunks, last = stream
    assert completion.choices[0].message.content == ANSWER
    assert filtered.choices == []
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert completion.usage is not None
    assert last.usage is not None
    assert azure.used == (2, completion.usage.total_tokens + last.usage.total_tokens)


def test_azures_client_finds_the_resource_behind_a_deployment(deploy: Deploy) -> None:
    deployed = deploy("azure", config={"apiKey": "azure-key-0123456789"})
    with openai.AzureOpenAI(
        azure_endpoint=deployed.url, azure_deployment="mine", api_key=deployed.token, **AZURE
    ) as client:
        completion = client.chat.completions.create(model="mine", messages=MESSAGES)
    assert completion.usage is not None
    assert deployed.used == (1, completion.usage.total_tokens)


async def test_azures_asynchronous_client_is_answered_too(azure: Deployed) -> None:
    async with openai.AsyncAzureOpenAI(
        base_url=f"{azure.url}/deployments/mine", api_key=azure.token, **AZURE
    ) as client:
        completion = await client.chat.completions.create(model="mine", messages=MESSAGES)
    assert completion.choices[0].message.content == ANSWER


def test_a_wrong_azure_key_is_azures_own_error(deploy: Deploy, simulator: str) -> None:
    deployed = deploy("azure", f"{simulator}/openai", config=INVALID_KEY)
    with (
        openai.AzureOpenAI(base_url=f"{deployed.url}/deployments/mine", api_key=deployed.token, **AZURE) as client,
        pytest.raises(openai.AuthenticationError, match="invalid subscription key"),
    ):
        client.chat.completions.create(model="mine", messages=MESSAGES)


def test_the_plain_client_reaches_azures_v1_paths(azure: Deployed) -> None:
    with openai.OpenAI(base_url=f"{azure.url}/v1", api_key=azure.token, max_retries=0) as client:
        completion = client.chat.completions.create(**CHAT)
    assert completion.usage is not None
    assert azure.used == (1, completion.usage.total_tokens)
