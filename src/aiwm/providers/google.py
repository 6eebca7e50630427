"""Google Gemini API: https://ai.google.dev/api/generate-content"""

from aiwm.providers.base import Provider, UsageFields

PROVIDER = Provider(
    name="google",
    endpoint="https://generativelanguage.googleapis.com",
    key_header="x-goog-api-key",
    key_prefix="",
    model_in_path="models",
    example_path="v1beta/models/{model}:generateContent",
    example_body={"contents": [{"parts": [{"text": "Hello!"}]}]},
    usage=UsageFields(
        roots=[("usageMetadata",)],
        markers=[b'"usageMetadata"'],
        # promptTokenCount includes cached tokens; candidatesTokenCount leaves thoughts out.
        input_tokens=[("promptTokenCount",), ("toolUsePromptTokenCount",)],
        output_tokens=[("candidatesTokenCount",), ("thoughtsTokenCount",)],
        cache_read_tokens=[("cachedContentTokenCount",)],
        reasoning_tokens=[("thoughtsTokenCount",)],
        model=[("modelVersion",)],
    ),
)
