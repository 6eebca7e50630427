"""Ollama: https://docs.ollama.com/api. Its own API in NDJSON under /api, and OpenAI's under /v1."""

from dataclasses import replace

from aiwm.providers import openai
from aiwm.providers.base import Counts

PROVIDER = replace(
    openai.PROVIDER,
    name="ollama",
    endpoint="http://localhost:11434",
    config_headers={},
    model_in_body=openai.PROVIDER.model_in_body | {"api/chat", "api/generate", "api/embed", "api/embeddings"},
    usage=replace(
        openai.PROVIDER.usage,
        # The native API counts on the record that says done, on top level.
        roots=[("usage",), ("response", "usage"), ()],
        top=["prompt_eval_count", "eval_count"],
        markers=[b'"usage"', b'"eval_count"', b'"prompt_eval_count"'],
        counts=[
            *openai.PROVIDER.usage.counts,
            Counts(input_tokens=[("prompt_eval_count",)], output_tokens=[("eval_count",)]),
        ],
        text=[*openai.PROVIDER.usage.text, ("message", "content"), ("message", "thinking"), ("response",)],
    ),
    price_list=None,
)
