"""All providers that are known by name. One that is not is taken to speak OpenAI's API, as most do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from aiwm.providers import anthropic, azure, cohere, google, ollama, openai, xai
from aiwm.providers.base import Provider

OWN_FILE = (openai, anthropic, google, azure, xai, cohere, ollama)
"""Providers with facts of their own, one file each."""

OPENAI_COMPATIBLE: Mapping[str, str] = {
    "deepinfra": "https://api.deepinfra.com/v1/openai",
    "deepseek": "https://api.deepseek.com",
    "cerebras": "https://api.cerebras.ai",
    "fireworks": "https://api.fireworks.ai/inference",
    "groq": "https://api.groq.com/openai",
    "llamacpp": "http://localhost:8080",
    "lmstudio": "http://localhost:1234",
    "mistral": "https://api.mistral.ai",
    "moonshot": "https://api.moonshot.ai",
    "nvidia": "https://integrate.api.nvidia.com",
    "openrouter": "https://openrouter.ai/api",
    "perplexity": "https://api.perplexity.ai",
    "sglang": "http://localhost:30000",
    "together": "https://api.together.xyz",
    "vllm": "http://localhost:8000",
}
"""Vendors that speak OpenAI's API: a row each, name -> the address people use."""

REPORT_UNASKED = frozenset({"mistral", "perplexity"})
"""Of these, whose streams report usage without `stream_options`; Mistral refuses a body that has them."""


def _compatible(name: str, endpoint: str) -> Provider:
    asked = frozenset() if name in REPORT_UNASKED else openai.PROVIDER.stream_usage_in_body
    return replace(openai.PROVIDER, name=name, endpoint=endpoint, config_headers={}, stream_usage_in_body=asked)


PROVIDERS: Mapping[str, Provider] = {
    **{module.PROVIDER.name: module.PROVIDER for module in OWN_FILE},
    **{name: _compatible(name, endpoint) for name, endpoint in OPENAI_COMPATIBLE.items()},
}


def provider(name: str) -> Provider:
    """The provider of this name; an unknown one as OpenAI-compatible, its organization headers included."""
    return PROVIDERS.get(name) or replace(openai.PROVIDER, name=name, endpoint="")
