"""OpenAI: https://platform.openai.com/docs/api-reference. Most others speak this API too."""

from dataclasses import replace

from aiwm.providers.base import Counts, Provider, UsageFields

CHAT = Counts(
    signs=frozenset({"prompt_tokens"}),
    # Both include their parts: cached tokens in the input, reasoning in the output.
    input_tokens=[("prompt_tokens",)],
    output_tokens=[("completion_tokens",)],
    cache_read_tokens=[("prompt_tokens_details", "cached_tokens")],
    cache_write_tokens=[("prompt_tokens_details", "cache_write_tokens")],
    reasoning_tokens=[("completion_tokens_details", "reasoning_tokens")],
    input_audio_tokens=[("prompt_tokens_details", "audio_tokens")],
    output_audio_tokens=[("completion_tokens_details", "audio_tokens")],
    input_image_tokens=[("prompt_tokens_details", "image_tokens")],
)
"""Chat completions, completions and embeddings."""

RESPONSES = Counts(
    signs=frozenset({"input_tokens"}),
    input_tokens=[("input_tokens",)],
    output_tokens=[("output_tokens",)],
    cache_read_tokens=[("input_tokens_details", "cached_tokens")],
    cache_read_image_tokens=[("input_tokens_details", "cached_tokens_details", "image_tokens")],
    cache_write_tokens=[("input_tokens_details", "cache_write_tokens")],
    reasoning_tokens=[("output_tokens_details", "reasoning_tokens")],
    # Transcriptions say "token" where images say "tokens".
    input_audio_tokens=[("input_token_details", "audio_tokens")],
    input_image_tokens=[("input_tokens_details", "image_tokens")],
    output_image_tokens=[("output_tokens_details", "image_tokens")],
    web_searches=[("web_search", "num_requests")],
)
"""Responses, images, transcriptions and speech."""

IMAGES = replace(
    RESPONSES,
    signs=frozenset({"input_tokens", "input_tokens_details"}),
    lacks=frozenset({"output_tokens_details"}),
    output_image_tokens=[("output_tokens",)],
)
"""Images without a split of what was written: all of it is images."""

PROVIDER = Provider(
    name="openai",
    endpoint="https://api.openai.com",
    config_headers={"organization": "openai-organization", "project": "openai-project"},
    model_in_body=frozenset(
        {
            "chat/completions",
            "completions",
            "responses",
            "responses/compact",
            "responses/input_tokens",
            "embeddings",
            "audio/speech",
            "images/generations",
        }
    ),
    model_in_form=frozenset(
        {"audio/transcriptions", "audio/translations", "images/edits", "images/variations", "videos"}
    ),
    stream_usage_in_body=frozenset({"chat/completions", "completions"}),
    example_path="v1/chat/completions",
    example_body={"messages": [{"role": "user", "content": "Hello!"}]},
    usage=UsageFields(
        # On top in JSON answers and chat chunks, under `response` in events of the Responses API.
        roots=[("usage",), ("response", "usage")],
        beside=[("tool_usage",), ("response", "tool_usage")],
        markers=[b'"usage"'],
        counts=[CHAT, IMAGES, RESPONSES],
        model=[("model",), ("response", "model")],
        service_tier=[("service_tier",), ("response", "service_tier")],
        tiers={
            "default": {},
            "flex": {"service_tier": "flex"},
            "priority": {"service_tier": "priority"},
            "fast": {"service_tier": "fast"},
        },
        text=[
            ("choices", "*", "delta", "content"),
            ("choices", "*", "delta", "reasoning_content"),
            ("choices", "*", "delta", "reasoning"),
            ("choices", "*", "delta", "refusal"),
            ("choices", "*", "delta", "tool_calls", "*", "function", "name"),
            ("choices", "*", "delta", "tool_calls", "*", "function", "arguments"),
            ("choices", "*", "text"),
            ("delta",),  # The Responses API: of text, reasoning and arguments alike.
        ],
    ),
    price_list="openai",
)
