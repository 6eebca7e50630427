"""OpenAI: https://platform.openai.com/docs/api-reference. Most others speak this API too."""

from aiwm.providers.base import Provider, UsageFields

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
    stream_usage_in_body=frozenset({"chat/completions", "completions"}),
    example_path="v1/chat/completions",
    example_body={"messages": [{"role": "user", "content": "Hello!"}]},
    usage=UsageFields(
        # `usage` stands on top in JSON answers and chat chunks, under `response` in events of the Responses API.
        roots=[("usage",), ("response", "usage")],
        markers=[b'"usage"'],
        # Chat says prompt and completion, Responses says input and output; no answer has both.
        # Both counts include their parts: cached tokens in the input, reasoning in the output.
        input_tokens=[("prompt_tokens",), ("input_tokens",)],
        output_tokens=[("completion_tokens",), ("output_tokens",)],
        cache_read_tokens=[
            ("prompt_tokens_details", "cached_tokens"),
            ("input_tokens_details", "cached_tokens"),
        ],
        cache_write_tokens=[
            ("prompt_tokens_details", "cache_write_tokens"),
            ("input_tokens_details", "cache_write_tokens"),
        ],
        reasoning_tokens=[
            ("completion_tokens_details", "reasoning_tokens"),
            ("output_tokens_details", "reasoning_tokens"),
        ],
        model=[("model",), ("response", "model")],
    ),
)
