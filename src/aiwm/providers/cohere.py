"""Cohere: https://docs.cohere.com/reference/about"""

from aiwm.providers.base import Provider, UsageFields

PROVIDER = Provider(
    name="cohere",
    endpoint="https://api.cohere.com",
    # No path takes stream_options: its own API reports usage unasked, its OpenAI-compatible one refuses to be asked.
    model_in_body=frozenset({"chat", "embed", "rerank", "chat/completions", "embeddings"}),
    example_path="v2/chat",
    example_body={"messages": [{"role": "user", "content": "Hello!"}]},
    usage=UsageFields(
        # v2 chat ends with usage (in a stream: message-end, under delta); embed and rerank have in meta only what
        # they bill; its OpenAI-compatible paths have OpenAI's usage.
        roots=[("usage",), ("delta", "usage"), ("meta", "billed_units")],
        markers=[b'"usage"', b'"meta"'],
        input_tokens=[("tokens", "input_tokens"), ("input_tokens",), ("prompt_tokens",)],
        output_tokens=[("tokens", "output_tokens"), ("output_tokens",), ("completion_tokens",)],
        cache_read_tokens=[("cached_tokens",)],
    ),
)
