"""Whatever a body's fields hold, there is an answer or a refusal, never an error of the simulator's own."""

from __future__ import annotations

import random
from typing import Any

import pytest

from .conftest import Ask

GOOD: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 5,
    "input": "Hello",
    "prompt": "Hello",
    "voice": "v",
    "contents": [{"parts": [{"text": "Hello"}]}],
    "content": {"parts": [{"text": "Hello"}]},
    "requests": [{"content": "Hello"}],
}
FIELDS = [
    *GOOD,
    *("stream", "stream_options", "n", "tools", "tool_choice", "response_format", "instructions", "dimensions"),
    *("system", "thinking", "output_config", "text", "metadata", "quality", "stream_format", "encoding_format"),
    *("generationConfig", "toolConfig", "systemInstruction", "generateContentRequest", "embedContentConfig"),
]
ODD: list[Any] = [
    *(None, 0, -1, 2.5, 10**18, "", "x", True, [], {}, [1], ["x"], [None], [[]], [{}], "required"),
    {"type": "any"},
    {"type": "enabled"},
    {"type": "function", "function": {"name": "f"}},
    [{"type": "function", "name": "f", "function": {"name": "f", "parameters": {"required": ["a"], "properties": []}}}],
    [{"name": "f", "input_schema": {"type": "object", "required": [{}], "properties": {}}}],
    [{"functionDeclarations": [{"name": "f", "parameters": {"type": []}}]}],
    {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": 5}},
    {"json_schema": {"schema": {"$ref": "#"}}, "format": {"schema": {"enum": 5}}},
    [{"role": [], "content": {"text": 1}, "parts": 5}],
    {"include_usage": True},
]
PATHS = [
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/audio/speech"),
    *("/v1/images/generations", "/v1/messages", "/v1/messages/count_tokens"),
    *(
        f"/v1beta/models/m:{verb}"
        for verb in ("generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents")
    ),
]


@pytest.mark.parametrize("path", PATHS)
async def test_odd_fields_are_answered_or_refused(ask: Ask, path: str) -> None:
    chance = random.Random(path)
    for _ in range(100):
        odd = {name: chance.choice(ODD) for name in chance.sample(FIELDS, 3)}
        answered = await ask(path, {**GOOD, "stream": chance.random() < 0.5, **odd})
        assert answered.status in (200, 400)
        assert answered.whole
