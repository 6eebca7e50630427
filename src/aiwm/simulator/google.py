"""Google's Gemini dialect: https://ai.google.dev/api/generate-content

`promptTokenCount` holds all input, cached included; `candidatesTokenCount` leaves reasoning out, which is in
`thoughtsTokenCount`. Every record of a stream is a whole response with the usage so far: the last one counts.
Without `alt=sse` a stream is one JSON array, pretty-printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from aiwm.simulator import tokens, vectors, words
from aiwm.simulator.dialect import (
    Answer,
    Dialect,
    Handler,
    Headers,
    ProtoFields,
    Refusal,
    Request,
    Wrong,
    broken,
    event_answer,
    is_good,
)
from aiwm.simulator.words import Said, ToolCall

MODELS = ("gemini-3.8-flash", "gemini-2.5-flash", "gemini-embedding-2")
MOST_CANDIDATES = 8

_METHODS = ("generateContent", "countTokens", "embedContent")
_JSON = b"application/json; charset=UTF-8"
_DIMENSIONS = 3072
_API_PATH = re.compile(r"/(?:v1|v1beta|v1alpha)/models/([^:]+):(\w+)")
_MODEL_PATH = re.compile(r"/(?:v1|v1beta|v1alpha)/models/([^:/]+)")
_MODELS_PATH = re.compile(r"/(?:v1|v1beta|v1alpha)/models")

_HEADERS: Headers = [
    (b"vary", b"Origin"),
    (b"vary", b"X-Origin"),
    (b"vary", b"Referer"),
    (b"server-timing", b"gfet4t7; dur=1"),
    (b"x-xss-protection", b"0"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"x-content-type-options", b"nosniff"),
]

# Status: Google's name of it, message.
_REFUSALS: Mapping[int, tuple[str, str]] = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    403: ("PERMISSION_DENIED", "The caller does not have permission"),
    404: (
        "NOT_FOUND",
        "models/simulated is not found for API version v1beta, or is not supported for generateContent.",
    ),
    408: ("DEADLINE_EXCEEDED", "The request took too long."),
    409: ("ABORTED", "The operation was aborted."),
    413: ("INVALID_ARGUMENT", "Request payload size exceeds the limit: 20971520 bytes."),
    422: ("INVALID_ARGUMENT", "The request could not be followed."),
    429: (
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details. Please retry in 1s.",
    ),
    500: ("INTERNAL", "An internal error has occurred. Please retry."),
    502: ("UNAVAILABLE", "Bad gateway."),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
    529: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
}

_NO_KEY = (
    "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other "
    "form of API consumer identity to call this API."
)
_BAD_KEY: Mapping[str, Any] = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "API_KEY_INVALID",
    "domain": "googleapis.com",
    "metadata": {"service": "generativelanguage.googleapis.com"},
}
_RETRY: Mapping[str, Any] = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}


def marked(headers: Mapping[bytes, bytes], query: Mapping[str, str]) -> bool:
    """Whether headers and query are a caller's who speaks this dialect."""
    return b"x-goog-api-key" in headers or "key" in query


def speaks(method: str, path: str) -> bool:
    """Whether a path is this dialect's alone. OpenAI's model names may have a colon, but are only got."""
    if path.startswith(("/v1beta/", "/v1alpha/")):
        return True
    return method == "POST" and path.startswith("/v1/models/") and _API_PATH.fullmatch(path) is not None


def _key(_path: str, headers: Mapping[bytes, bytes], query: Mapping[str, str]) -> str | None:
    key = headers.get(b"x-goog-api-key")
    return query.get("key") if key is None else key.decode("latin-1")


def _find(request: Request) -> Handler:
    method, handler = _route(request.path)
    if request.method != method:
        raise _refusal(405, f"Request method {request.method} is not supported here; use {method}.")
    return handler


def _route(path: str) -> tuple[str, Handler]:
    if (called := _API_PATH.fullmatch(path)) and called[2] in _VERBS:
        return "POST", partial(_VERBS[called[2]], model=called[1])
    if model := _MODEL_PATH.fullmatch(path):
        return "GET", partial(_model, name=model[1])
    if _MODELS_PATH.fullmatch(path):
        return "GET", _models
    raise _refusal(404, f"Not found: {path}")


def _admit(request: Request) -> None:
    if not request.key:
        raise _refusal(403, _NO_KEY)
    if not is_good(request.key):
        raise _refusal(400, "API key not valid. Please pass a valid API key.", _BAD_KEY)


def _refusal(status: int, message: str | None = None, detail: Mapping[str, Any] | None = None) -> Refusal:
    name, usual = _REFUSALS.get(status, ("INVALID_ARGUMENT", ""))
    error: dict[str, Any] = {"code": status, "message": message or usual, "status": name}
    if status == 429:
        detail = _RETRY
    if detail is not None:
        error["details"] = [detail]
    return Refusal(status, error, headers=[(b"retry-after", b"1")] if status == 429 else None)


def _wrong(wrong: Wrong) -> Refusal:
    if wrong.expected is None:
        return _refusal(400, f"* GenerateContentRequest.{wrong.field}: {wrong.field} is not specified\n")
    return _refusal(400, f"Invalid value at '{wrong.field}': expected {wrong.expected}")


def _not_json() -> Refusal:
    return _refusal(400, "Invalid JSON payload received. Unexpected token.")


def _render(request: Request, refusal: Refusal) -> bytes:
    error = {"error": request.quoting(refusal.error)}
    in_array = request.path.endswith(":streamGenerateContent") and request.query.get("alt") != "sse"
    return _pretty([error] if in_array else error)


def _headers(_request: Request) -> Headers:
    return _HEADERS


def _json(value: object) -> Answer:
    return Answer((_pretty(value),), _JSON)


def _pretty(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _model_object(name: str) -> dict[str, Any]:
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name,
        "description": "Simulated by AIWM",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": _METHODS,
    }


def _models(_request: Request) -> Answer:
    return _json({"models": [_model_object(name) for name in MODELS]})


def _model(_request: Request, *, name: str) -> Answer:
    if name not in MODELS:
        raise _refusal(404, f"Model is not found: models/{name} for api version v1beta")
    return _json(_model_object(name))


@dataclass(frozen=True, slots=True)
class _Content:
    """One answer, before it has a form."""

    id: str
    model: str
    thinking: Said | None
    said: Said | ToolCall
    candidates: int
    usage: tokens.Usage

    @property
    def finish_reason(self) -> str:
        return "MAX_TOKENS" if isinstance(self.said, Said) and self.said.cut_short else "STOP"


def _generate(request: Request, *, model: str) -> Answer:
    """POST …:generateContent"""
    content = _content(request, model)
    parts = [part for part, _ in _parts(content, whole=True)]
    return _json(_response(content, parts, content.said.tokens, finished=True))


def _stream(request: Request, *, model: str) -> Answer:
    """POST …:streamGenerateContent"""
    records = broken(request, _records(_content(request, model)), _error)
    if request.query.get("alt") == "sse":
        return event_answer(map(_sse, records), b"text/event-stream")
    return event_answer(_array(records), _JSON)


def _error(request: Request) -> dict[str, Any]:
    return {"error": request.quoting(_refusal(503).error)}


def _sse(record: object) -> bytes:
    # CRLF, as Google's servers end lines.
    return b"data: %s\r\n\r\n" % orjson.dumps(record)


def _array(records: Iterable[object]) -> Iterator[bytes]:
    before = b"["
    for record in records:
        yield before + orjson.dumps(record, option=orjson.OPT_INDENT_2)
        before = b",\r\n"
    yield b"]"


def _content(request: Request, model: str) -> _Content:
    fields = request.proto_fields
    prompt, config = _prompt(fields), fields.inner("generationConfig")
    said = _tool_call(fields) or _said(request, config, fields.get("contents"))
    thinks = config.inner("thinkingConfig").flag("includeThoughts")
    thinking = words.said(words.THINKING) if thinks else None
    candidates = config.whole("candidateCount", most=MOST_CANDIDATES) or 1
    return _Content(
        id=request.id,
        model=model,
        thinking=thinking,
        said=said,
        candidates=candidates,
        usage=request.usage(prompt, candidates * said.tokens, thought=thinking.tokens if thinking else 0),
    )


def _prompt(fields: ProtoFields) -> list[object]:
    return [fields.inner("systemInstruction").get("parts"), fields.needed("contents")]


def _said(request: Request, config: ProtoFields, contents: object) -> Said:
    limit = config.whole("maxOutputTokens")
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if schema is not None:
        return words.said(orjson.dumps(words.example(schema)).decode(), limit)
    return words.answer(contents, length=request.switches.tokens, limit=limit)


def _tool_call(fields: ProtoFields) -> ToolCall | None:
    """The call that the caller insists on."""
    calling = fields.inner("toolConfig").inner("functionCallingConfig")
    if calling.get("mode") != "ANY":
        return None
    allowed = calling.get("allowedFunctionNames")
    for tool in fields.items("tools"):
        for function in tool.items("functionDeclarations"):
            name = function.needed_text("name")
            if not isinstance(allowed, list) or name in allowed:
                schema = function.get("parametersJsonSchema") or function.get("parameters")
                return ToolCall(name, words.arguments(schema))
    raise _refusal(400, "Function calling mode ANY needs at least one of the allowed functions to be declared.")


def _records(content: _Content) -> Iterator[dict[str, Any]]:
    parts = list(_parts(content, whole=False))
    for at, (part, visible) in enumerate(parts, start=1):
        yield _response(content, [part], visible, finished=at == len(parts))


def _parts(content: _Content, *, whole: bool) -> Iterator[tuple[dict[str, Any], int]]:
    """The parts of a candidate, each with the visible tokens there are when it has come."""
    if content.thinking:
        for text in [content.thinking.text] if whole else content.thinking.pieces:
            yield {"text": text, "thought": True}, 0
    said = content.said
    if isinstance(said, ToolCall):
        yield {"functionCall": {"name": said.name, "args": said.arguments}}, said.tokens
    elif whole:
        yield {"text": said.text}, said.tokens
    else:
        yield from (({"text": piece}, count) for count, piece in enumerate(said.pieces, start=1))


def _response(content: _Content, parts: list[dict[str, Any]], visible: int, *, finished: bool) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}}
    if finished:
        candidate["finishReason"] = content.finish_reason
    return {
        "candidates": [{**candidate, "index": index} for index in range(content.candidates)],
        "usageMetadata": _usage(content.usage, visible * content.candidates),
        "modelVersion": content.model,
        "responseId": content.id,
    }


def _usage(usage: tokens.Usage, visible: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {"promptTokenCount": usage.total_in}
    if visible:
        metadata["candidatesTokenCount"] = visible
    metadata["totalTokenCount"] = usage.total_in + visible + usage.reasoning
    if usage.cached:
        metadata["cachedContentTokenCount"] = usage.cached
        metadata["cacheTokensDetails"] = _in_text(usage.cached)
    metadata["promptTokensDetails"] = _in_text(usage.total_in)
    if usage.reasoning:
        metadata["thoughtsTokenCount"] = usage.reasoning
    return metadata


def _in_text(count: int) -> list[dict[str, Any]]:
    return [{"modality": "TEXT", "tokenCount": count}]


def _count(request: Request, *, model: str) -> Answer:  # noqa: ARG001 - all models count alike
    """POST …:countTokens, of contents or of a whole request"""
    fields = request.proto_fields
    nested = fields.get("generateContentRequest") is not None
    total = tokens.of(_prompt(fields.inner("generateContentRequest") if nested else fields))
    return _json({"totalTokens": total, "promptTokensDetails": _in_text(total)})


def _embed(request: Request, *, model: str) -> Answer:  # noqa: ARG001 - all models embed alike
    """POST …:embedContent"""
    values, used = _embedding(request.proto_fields)
    return _json({"embedding": values, "usageMetadata": _input_usage(used)})


def _embed_batch(request: Request, *, model: str) -> Answer:  # noqa: ARG001 - all models embed alike
    """POST …:batchEmbedContents"""
    request.proto_fields.needed("requests")
    embedded = [_embedding(fields) for fields in request.proto_fields.items("requests")]
    used = sum(count for _, count in embedded)
    return _json({"embeddings": [values for values, _ in embedded], "usageMetadata": _input_usage(used)})


def _embedding(fields: ProtoFields) -> tuple[dict[str, Any], int]:
    content = fields.needed("content")
    config = fields.inner("embedContentConfig")
    asked = (source.whole("outputDimensionality", most=vectors.LARGEST) for source in (fields, config))
    dimensions = next(filter(None, asked), _DIMENSIONS)
    return {"values": vectors.vector(content, dimensions)}, tokens.of_input(content)


def _input_usage(used: int) -> dict[str, Any]:
    return {"promptTokenCount": used, "promptTokensDetails": _in_text(used)}


_VERBS: Mapping[str, Callable[..., Answer]] = {
    "generateContent": _generate,
    "streamGenerateContent": _stream,
    "countTokens": _count,
    "embedContent": _embed,
    "batchEmbedContents": _embed_batch,
}

DIALECT = Dialect(
    name="google",
    key=_key,
    find=_find,
    admit=_admit,
    refusal=_refusal,
    wrong=_wrong,
    not_json=_not_json,
    render=_render,
    headers=_headers,
)
