"""Google Gemini API: https://ai.google.dev/api/generate-content"""

from aiwm.providers.base import Provider, UsageFields

_COMPATIBLE = frozenset({"chat/completions", "embeddings", "images/generations"})

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
        # promptTokenCount includes cached tokens; candidatesTokenCount leaves thoughts out.
        input_tokens=[("promptTokenCount",), ("toolUsePromptTokenCount",), ("prompt_tokens",)],
        output_tokens=[("candidatesTokenCount",), ("thoughtsTokenCount",), ("completion_tokens",)],
        cache_read_tokens=[("cachedContentTokenCount",)],
        reasoning_tokens=[("thoughtsTokenCount",)],
        model=[("modelVersion",), ("model",)],
    ),
)
