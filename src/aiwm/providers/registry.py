"""All providers that are known by name. One that is not is taken to speak OpenAI's API, as most do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from aiwm.providers import anthropic, azure, cohere, google, ollama, openai, xai
from aiwm.providers.base import Provider, StatedCost

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

PRICE_LISTS: Mapping[str, str] = {
    "cerebras": "cerebras",
    "deepseek": "deepseek",
    "fireworks": "fireworks",
    "groq": "groq",
    "mistral": "mistral",
    "moonshot": "moonshotai",
    "openrouter": "openrouter",
    "together": "together",
}
"""Of these, who is in the price list, and under which name. Perplexity is, but bills each request by the size of its
search too, which an answer tells only with its cost."""

STATED_COSTS: Mapping[str, StatedCost] = {
    "openrouter": StatedCost(path=("cost",), unless="is_byok"),
    "perplexity": StatedCost(path=("cost", "total_cost")),
}
"""Of these, who tells in an answer what it bills for it."""

_BASE = openai.PROVIDER
_USAGE = replace(
    _BASE.usage,
    # Many answer Anthropic's Messages too.
    roots=[*_BASE.usage.roots, ("message", "usage")],
    model=[*_BASE.usage.model, ("message", "model")],
    beside=(),
    counts=[
        replace(anthropic.MESSAGES, signs=frozenset({"input_tokens", "cache_read_input_tokens"})),
        # Moonshot's and Together's way of saying what DeepSeek says in the next, beside or instead of OpenAI's.
        replace(
            openai.CHAT, signs=frozenset({"prompt_tokens", "cached_tokens"}), cache_read_tokens=[("cached_tokens",)]
        ),
        replace(
            openai.CHAT,
            signs=frozenset({"prompt_tokens", "prompt_cache_hit_tokens"}),
            cache_read_tokens=[("prompt_cache_hit_tokens",)],
        ),
        openai.CHAT,
        openai.RESPONSES,
    ],
    tiers={"default": {}, "standard": {}, "on_demand": {}},
)


def _compatible(name: str, endpoint: str) -> Provider:
    return replace(
        _BASE,
        name=name,
        endpoint=endpoint,
        config_headers={},
        model_in_body=_BASE.model_in_body | {"messages"},
        stream_usage_in_body=frozenset() if name in REPORT_UNASKED else _BASE.stream_usage_in_body,
        usage=replace(_USAGE, stated_cost=STATED_COSTS[name]) if name in STATED_COSTS else _USAGE,
        price_list=PRICE_LISTS.get(name),
    )


PROVIDERS: Mapping[str, Provider] = {
    **{module.PROVIDER.name: module.PROVIDER for module in OWN_FILE},
    **{name: _compatible(name, endpoint) for name, endpoint in OPENAI_COMPATIBLE.items()},
}


def provider(name: str) -> Provider:
    """The provider of this name; an unknown one as OpenAI-compatible, its organization headers included."""
    return PROVIDERS.get(name) or _unknown(name)


@lru_cache(maxsize=256)
def _unknown(name: str) -> Provider:
    return replace(_compatible(name, ""), config_headers=_BASE.config_headers)
