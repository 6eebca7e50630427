"""API keys with the official SDKs, each of which sends its key in another header."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors as google_errors
from google.genai import types

from gateway import Caller

from .conftest import Deploy, Deployed

HELLO: Any = [{"role": "user", "content": "Hello there, gateway"}]


def _openai(deployed: Deployed, key: str) -> None:
    with openai.OpenAI(base_url=f"{deployed.url}/v1", api_key=key, max_retries=0) as client:
        assert client.chat.completions.create(model="gpt-4o", messages=HELLO).usage


def _anthropic(deployed: Deployed, key: str) -> None:
    with anthropic.Anthropic(base_url=deployed.url, api_key=key, max_retries=0) as client:
        assert client.messages.create(model="claude-sonnet-5-5", max_tokens=99, messages=HELLO).usage


def _google(deployed: Deployed, key: str) -> None:
    client = genai.Client(api_key=key, vertexai=False, http_options=types.HttpOptions(base_url=deployed.url))
    try:
        assert client.models.generate_content(model="gemini-2.5-flash", contents="Hello").usage_metadata
    finally:
        client.close()


CALLS: dict[str, Callable[[Deployed, str], None]] = {"openai": _openai, "anthropic": _anthropic, "google": _google}
REFUSED = (openai.AuthenticationError, anthropic.AuthenticationError, google_errors.ClientError)
FORBIDDEN = (openai.PermissionDeniedError, anthropic.PermissionDeniedError, google_errors.ClientError)


@pytest.fixture
def made(admin: Caller) -> Callable[..., dict[str, Any]]:
    """Makes keys."""

    def make(**fields: Any) -> dict[str, Any]:
        answer = admin.http.post("/api-keys", json={"name": "A program"} | fields)
        assert answer.status_code == 201, answer.text
        key: dict[str, Any] = answer.json()
        return key

    return make


@pytest.mark.parametrize("provider", CALLS)
def test_an_sdk_calls_with_a_key_until_it_is_revoked(
    deploy: Deploy, admin: Caller, made: Callable[..., dict[str, Any]], provider: str
) -> None:
    call, deployed, key = CALLS[provider], deploy(provider), made()
    call(deployed, key["apiKey"])
    call(deployed, key["apiKey"])
    assert deployed.used[0] == 2

    assert admin.http.delete(f"/api-keys/{key['_id']}").status_code == 200

    with pytest.raises(REFUSED):
        call(deployed, key["apiKey"])
    assert deployed.used[0] == 2


@pytest.mark.parametrize("provider", CALLS)
def test_a_key_for_another_deployment_is_the_sdks_permission_error(
    deploy: Deploy, made: Callable[..., dict[str, Any]], provider: str
) -> None:
    call, deployed, other = CALLS[provider], deploy(provider), deploy(provider)
    key = made(deployments=[other.id])
    call(other, key["apiKey"])

    with pytest.raises(FORBIDDEN):
        call(deployed, key["apiKey"])

    assert deployed.used == (0, 0)
