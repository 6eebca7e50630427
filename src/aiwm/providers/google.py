"""Google Gemini API: https://ai.google.dev/api/generate-content"""

from dataclasses import replace

from aiwm.providers.base import Counts, Path, Provider, UsageFields, Where
from aiwm.providers.openai import CHAT

_COMPATIBLE = frozenset({"chat/completions", "embeddings", "images/generations"})


def _of(modality: str, *lists: str) -> list[Path]:
    return [(each, Where("modality", modality), "tokenCount") for each in lists]


_READ = ("promptTokensDetails", "toolUsePromptTokensDetails")

PROVIDER = Provider(
    name="google",
    endpoint="https://generativelanguage.googleapis.com",
    key_header="x-goog-api-key",
    key_prefix="",
    model_in_path=("models", "tunedModels"),
    # Its OpenAI-compatible paths, with `openai/` in the endpoint or in the path. Asked for usage, they put it on every
    # chunk, and no caller would be spared that: so they are not asked.
    model_in_body=_COMPATIBLE | {f"openai/{path}" for path in _COMPATIBLE},
    example_path="v1beta/models/{model}:generateContent",
    example_body={"contents": [{"parts": [{"text": "Hello!"}]}]},
    usage=UsageFields(
        roots=[("usageMetadata",), ("usage",)],
        markers=[b'"usageMetadata"', b'"usage"'],
        counts=[
            # completion_tokens leaves thoughts out too, and only the total tells of them.
            replace(CHAT, total="total_tokens"),
            Counts(
                # promptTokenCount includes cached tokens; candidatesTokenCount leaves thoughts out.
                input_tokens=[("promptTokenCount",), ("toolUsePromptTokenCount",)],
                output_tokens=[("candidatesTokenCount",), ("thoughtsTokenCount",)],
                cache_read_tokens=[("cachedContentTokenCount",)],
                cache_read_audio_tokens=_of("AUDIO", "cacheTokensDetails"),
                cache_read_image_tokens=_of("IMAGE", "cacheTokensDetails"),
                reasoning_tokens=[("thoughtsTokenCount",)],
                input_audio_tokens=_of("AUDIO", *_READ),
                input_image_tokens=_of("IMAGE", *_READ),
                output_audio_tokens=_of("AUDIO", "candidatesTokensDetails"),
                output_image_tokens=_of("IMAGE", "candidatesTokensDetails"),
            ),
        ],
        model=[("modelVersion",), ("model",)],
        # trafficType is Vertex AI's.
        service_tier_in_usage=["serviceTier", "trafficType"],
        tiers={
            "standard": {},
            "unspecified": {},
            "flex": {"service_tier": "flex"},
            "priority": {"service_tier": "priority"},
            "ON_DEMAND": {},
            "ON_DEMAND_FLEX": {"service_tier": "flex"},
            "ON_DEMAND_PRIORITY": {"service_tier": "priority"},
        },
        text=[
            ("candidates", "*", "content", "parts", "*", "text"),
            ("candidates", "*", "content", "parts", "*", "functionCall"),
            ("choices", "*", "delta", "content"),
            ("choices", "*", "delta", "tool_calls", "*", "function", "arguments"),
        ],
    ),
    price_list="google",
)
