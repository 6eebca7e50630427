"""Anthropic Messages API: https://docs.anthropic.com/en/api/messages"""

from aiwm.providers.base import Counts, Path, Provider, UsageFields, Where
from aiwm.providers.openai import CHAT


def _also(*path: str) -> list[Path]:
    """The count at `path`, and that of compactions on the way, which the whole leaves out."""
    return [path, ("iterations", Where("type", "compaction"), *path)]


_WRITTEN, _READ = _also("cache_creation_input_tokens"), _also("cache_read_input_tokens")

MESSAGES = Counts(
    signs=frozenset({"input_tokens"}),
    # input_tokens leaves cached tokens out.
    input_tokens=[*_also("input_tokens"), *_WRITTEN, *_READ],
    output_tokens=_also("output_tokens"),
    cache_read_tokens=_READ,
    cache_write_tokens=_WRITTEN,
    cache_write_1h_tokens=_also("cache_creation", "ephemeral_1h_input_tokens"),
    reasoning_tokens=[("output_tokens_details", "thinking_tokens")],
    web_searches=[("server_tool_use", "web_search_requests")],
)

PROVIDER = Provider(
    name="anthropic",
    endpoint="https://api.anthropic.com",
    key_header="x-api-key",
    key_prefix="",
    default_headers={"anthropic-version": "2023-06-01"},
    # The last is its OpenAI-compatible path.
    model_in_body=frozenset({"messages", "messages/count_tokens", "complete", "chat/completions"}),
    stream_usage_in_body=frozenset({"chat/completions"}),
    example_path="v1/messages",
    example_body={"max_tokens": 1024, "messages": [{"role": "user", "content": "Hello!"}]},
    usage=UsageFields(
        # A stream reports input on message_start and cumulative output on message_delta.
        roots=[("usage",), ("message", "usage")],
        markers=[b'"usage"'],
        counts=[MESSAGES, CHAT],
        model=[("model",), ("message", "model")],
        # What is not standard, global and of the usual speed has another price.
        service_tier_in_usage=["service_tier", "speed", "inference_geo"],
        tiers={
            "standard": {},
            "global": {},
            "not_available": {},
            "batch": {"processing": "batch"},
            "fast": {"speed": "fast"},
        },
        text=[
            ("delta", "text"),
            ("delta", "thinking"),
            ("delta", "partial_json"),
            ("choices", "*", "delta", "content"),
            ("choices", "*", "delta", "tool_calls", "*", "function", "arguments"),
        ],
    ),
    price_list="anthropic",
    request_id_header=b"request-id",
)
