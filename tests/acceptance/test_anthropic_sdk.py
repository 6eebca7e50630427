"""Anthropic's own SDK, unmodified: only the base URL, a deployment's, and the key, the AIWM token, are ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest

from aiwm.simulator import words
from gateway import Gateway, post

from .conftest import Deploy, Deployed

HELLO = "Hello there, gateway"
ASKED: Any = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 200,
    "messages": [{"role": "user", "content": HELLO}],
}
ANSWER = words.OPENING + HELLO
WEATHER: Any = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture
def deployed(deploy: Deploy) -> Deployed:
    return deploy("anthropic", model="claude-haiku-5-5")


@pytest.fixture
def client(deployed: Deployed) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=deployed.url, api_key=deployed.token, max_retries=0) as client:
        yield client


def simulate(switches: str) -> dict[str, Any]:
    return {"extra_headers": {"x-simulate": switches}}


def total(usage: Any) -> int:
    """All tokens: what was read from a cache or written to one is not in `input_tokens`."""
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    return int(usage.input_tokens + cached + usage.output_tokens)


# -- answers, and that what they say of their tokens is what is counted


def test_a_message_is_answered_and_counted_with_its_cache(deployed: Deployed, client: anthropic.Anthropic) -> None:
    message = client.messages.create(**ASKED, **simulate("cached=7; cache-write=3; reasoning=5"))
    assert message.content[0].type == "text"
    assert message.content[0].text == ANSWER
    assert message.usage.cache_read_input_tokens == 7
    assert deployed.used == (1, total(message.usage))


def test_the_deployments_id_as_the_model_means_the_deployed_one(
    deployed: Deployed, client: anthropic.Anthropic
) -> None:
    assert client.messages.create(**{**ASKED, "model": deployed.id}).model == "claude-haiku-5-5"


def test_the_stream_helper_adds_up_a_message_and_it_is_counted(deployed: Deployed, client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ASKED, **simulate("cached=7")) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == ANSWER
    assert message.usage.cache_read_input_tokens == 7
    assert deployed.used == (1, total(message.usage))


def test_raw_events_come_in_their_order(deployed: Deployed, client: anthropic.Anthropic) -> None:
    events = list(client.messages.create(**ASKED, stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert set(kinds[1:-2]) <= {"ping", "content_block_start", "content_block_delta", "content_block_stop"}
    assert deployed.used == (1, total(events[-2].usage))


def test_a_tool_is_used_whole_and_streamed(deployed: Deployed, client: anthropic.Anthropic) -> None:
    asked = {**ASKED, "tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        assert message.stop_reason == "tool_use"
        assert message.content[0].type == "tool_use"
        assert message.content[0].input == {"city": "simulated"}
    assert deployed.used == (2, total(whole.usage) + total(streamed.usage))


def test_thinking_is_shown_and_counted(deployed: Deployed, client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ASKED, thinking={"type": "enabled", "budget_tokens": 1024}) as stream:
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert deployed.used == (1, total(message.usage))


def test_tokens_are_told_beforehand_and_none_are_used(deployed: Deployed, client: anthropic.Anthropic) -> None:
    told = client.messages.count_tokens(model="claude-sonnet-5-5", messages=ASKED["messages"])
    assert told.input_tokens == client.messages.create(**ASKED).usage.input_tokens
    requests, used = deployed.used
    assert requests == 2
    assert used == total(client.messages.create(**ASKED).usage)


def test_the_providers_models_are_listed(deployed: Deployed, client: anthropic.Anthropic) -> None:
    assert [model.id for model in client.models.list()]
    assert deployed.used == (1, 0)


async def test_the_asynchronous_client_is_answered_the_same(deployed: Deployed) -> None:
    async with anthropic.AsyncAnthropic(base_url=deployed.url, api_key=deployed.token, max_retries=0) as client:
        message = await client.messages.create(**ASKED)
        async with client.messages.stream(**ASKED) as stream:
            streamed = await stream.get_final_message()
    assert message.content[0].type == streamed.content[0].type == "text"
    assert message.content[0].text == streamed.content[0].text == ANSWER
    assert deployed.used == (2, total(message.usage) + total(streamed.usage))


# -- the caller's credential, wherever a version of the SDK puts it


@pytest.mark.parametrize("given", ["api_key", "auth_token"])
def test_the_token_is_taken_as_either_credential_of_the_sdk(deployed: Deployed, given: str) -> None:
    credential: Any = {given: deployed.token}
    with anthropic.Anthropic(base_url=deployed.url, max_retries=0, **credential) as client:
        assert client.messages.create(**ASKED).usage.output_tokens


def test_the_token_is_taken_from_the_header_that_older_versions_use(deployed: Deployed) -> None:
    with anthropic.Anthropic(
        base_url=deployed.url,
        api_key="",
        default_headers={"X-Api-Key": deployed.token, "Authorization": anthropic.Omit()},
        max_retries=0,
    ) as client:
        message = client.messages.with_raw_response.create(**ASKED)
    sent = message.http_response.request.headers
    assert sent["x-api-key"] == deployed.token
    assert "authorization" not in sent
    assert deployed.used == (1, total(message.parse().usage))


def test_a_bare_request_with_the_token_as_x_api_key_is_answered(deployed: Deployed) -> None:
    answer = post(f"{deployed.url}/v1/messages", json=ASKED, headers={"x-api-key": deployed.token})
    assert answer.json()["content"][0]["text"] == ANSWER


# -- errors: AIWM's own and the provider's, each as the SDK's own class


def test_a_token_that_is_not_good_is_an_authentication_error(deployed: Deployed) -> None:
    with (
        anthropic.Anthropic(base_url=deployed.url, api_key="sk-ant-nobodys", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        client.messages.create(**ASKED)
    assert caught.value.response.headers["x-aiwm-error"] == "gateway"
    assert caught.value.response.json()["message"] == "Unauthorized"
    assert deployed.used == (0, 0)


def test_a_provider_key_that_is_wrong_is_the_providers_own_error(deploy: Deploy) -> None:
    deployed = deploy("anthropic", config={"x-api-key": "sk-ant-invalid-0123456789abcdef"})
    with (
        anthropic.Anthropic(base_url=deployed.url, api_key=deployed.token, max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key") as caught,
    ):
        client.messages.create(**ASKED, **simulate("quote-key"))
    assert "sk-ant-invalid-0123456789abcdef" not in str(caught.value.body)
    assert deployed.used == (1, 0)


def test_a_deployment_that_is_not_there_is_not_found(shared_gateway: Gateway, deployed: Deployed) -> None:
    with (
        anthropic.Anthropic(
            base_url=shared_gateway.inference("0" * 24), api_key=deployed.token, max_retries=0
        ) as client,
        pytest.raises(anthropic.NotFoundError) as caught,
    ):
        client.messages.create(**ASKED)
    assert caught.value.response.json()["message"] == "Deployment with ID 000000000000000000000000 not found"


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (403, anthropic.PermissionDeniedError, "permission_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (529, anthropic.InternalServerError, "overloaded_error"),
    ],
)
def test_the_providers_refusal_is_the_sdks_error_and_no_tokens(
    deployed: Deployed, client: anthropic.Anthropic, status: int, error: type[anthropic.APIStatusError], kind: str
) -> None:
    with pytest.raises(error) as caught:
        client.messages.create(**ASKED, **simulate(f"status={status}"))
    assert caught.value.status_code == status
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == kind
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("req_")
    assert caught.value.response.headers.get("retry-after") == ("1" if status == 429 else None)
    assert deployed.used == (1, 0)


def test_an_overload_in_mid_stream_is_raised_and_its_input_counted(
    deployed: Deployed, client: anthropic.Anthropic
) -> None:
    stream = client.messages.create(**ASKED, stream=True, **simulate("error-mid-stream"))
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        list(stream)
    requests, used = deployed.used
    assert requests == 1
    assert used > 0


def test_a_provider_that_breaks_off_is_never_a_clean_end(deployed: Deployed, client: anthropic.Anthropic) -> None:
    stream = client.messages.create(**ASKED, stream=True, **simulate("cut=3"))
    with pytest.raises((anthropic.APIConnectionError, httpx2.RemoteProtocolError)):
        list(stream)
    assert deployed.used[0] == 1
