"""Cohere: https://docs.cohere.com/reference/about"""

from aiwm.providers.base import Counts, Provider, UsageFields
from aiwm.providers.openai import CHAT

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
        counts=[
            # `tokens` beside it counts what Cohere adds to a prompt too, which nobody pays for.
            Counts(
                signs=frozenset({"billed_units"}),
                input_tokens=[("billed_units", "input_tokens")],
                output_tokens=[("billed_units", "output_tokens")],
            ),
            CHAT,
            Counts(input_tokens=[("input_tokens",)], output_tokens=[("output_tokens",)]),
        ],
        text=[
            ("delta", "message", "content", "text"),
            ("delta", "message", "content", "thinking"),
            ("delta", "message", "tool_plan"),
            ("delta", "message", "tool_calls", "function", "arguments"),
            ("choices", "*", "delta", "content"),
        ],
    ),
    price_list="cohere",
)
