"""Anthropic's dialect: https://docs.anthropic.com/en/api/messages

`input_tokens` leaves out what was read from a cache (`cache_read_input_tokens`) or written to one
(`cache_creation_input_tokens`); `output_tokens` holds all output, thinking included. In a stream message_start
tells the input and a provisional output of 1, and message_delta restates all of it, cumulative.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from aiwm.simulator import tokens, words
from aiwm.simulator.dialect import (
    Answer,
    Dialect,
    Fields,
    Handler,
    Headers,
    Refusal,
    Request,
    Wrong,
    bearer,
    broken,
    event,
    event_answer,
    is_good,
    json_answer,
)
from aiwm.simulator.tokens import Usage
from aiwm.simulator.words import Said, ToolCall

MODELS = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5")

# https://platform.claude.com/docs/en/api/versioning
_WITHOUT_SAMPLING = b"2026-10-21"
_SAMPLING = ("temperature", "top_p", "top_k")

_HEADERS: Headers = [
    (b"anthropic-organization-id", b"simulated-organization"),
    (b"anthropic-ratelimit-requests-limit", b"4000"),
    (b"anthropic-ratelimit-requests-remaining", b"3999"),
    (b"anthropic-ratelimit-requests-reset", b"2026-01-01T00:00:00Z"),
    (b"anthropic-ratelimit-tokens-limit", b"400000"),
    (b"anthropic-ratelimit-tokens-remaining", b"399000"),
    (b"anthropic-ratelimit-tokens-reset", b"2026-01-01T00:00:00Z"),
]

_SIGNATURE = "c2ltdWxhdGVk"

# Status: type, message.
_REFUSALS: Mapping[int, tuple[str, str]] = {
    400: ("invalid_request_error", "The request is not valid: a simulated refusal."),
    401: ("authentication_error", "invalid x-api-key"),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "model: simulated"),
    408: ("timeout_error", "Request timeout"),
    409: ("invalid_request_error", "The resource was changed by another request."),
    413: ("request_too_large", "Request exceeds the maximum size"),
    422: ("invalid_request_error", "The request was well-formed but could not be followed."),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit of 400,000 tokens per minute."),
    500: ("api_error", "Internal server error"),
    502: ("api_error", "Bad gateway"),
    503: ("api_error", "Service unavailable"),
    529: ("overloaded_error", "Overloaded"),
}


def marked(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the headers are a caller's who speaks this dialect."""
    return b"x-api-key" in headers or b"anthropic-version" in headers


def speaks(path: str) -> bool:
    """Whether a path is this dialect's alone."""
    return path.startswith("/v1/messages")


def _key(_path: str, headers: Mapping[bytes, bytes], _query: Mapping[str, str]) -> str | None:
    key = headers.get(b"x-api-key")
    # The SDK sends its key as a bearer token since 2.0.
    return bearer(headers) if key is None else key.decode("latin-1")


def _find(request: Request) -> Handler:
    method: str
    handler: Handler
    if request.path.startswith("/v1/models/"):
        method, handler = "GET", partial(_model, name=request.path.removeprefix("/v1/models/"))
    elif request.path in _HANDLERS:
        method, handler = _HANDLERS[request.path]
    else:
        raise _refusal(404, "Not found")
    if request.method != method:
        raise _refusal(405, "Method Not Allowed")
    return handler


def _admit(request: Request) -> None:
    if not request.key:
        raise _refusal(401, "x-api-key header is required")
    if not is_good(request.key):
        raise _refusal(401, None if b"x-api-key" in request.headers else "Invalid bearer token")
    if b"anthropic-version" not in request.headers:
        raise _refusal(400, "anthropic-version: header is required")


def _refusal(status: int, message: str | None = None) -> Refusal:
    kind, usual = _REFUSALS.get(status, ("invalid_request_error", ""))
    headers = [(b"retry-after", b"1")] if status == 429 else None
    return Refusal(status, {"type": kind, "message": message or usual}, headers=headers)


def _wrong(wrong: Wrong) -> Refusal:
    if wrong.expected is None:
        return _refusal(400, f"{wrong.field}: Field required")
    return _refusal(400, f"{wrong.field}: Input should be {wrong.expected}")


def _not_json() -> Refusal:
    return _refusal(400, "The request body is not valid JSON: expected an object")


def _render(request: Request, refusal: Refusal) -> bytes:
    return orjson.dumps(_error(request, refusal))


def _error(request: Request, refusal: Refusal) -> dict[str, Any]:
    return {"type": "error", "error": request.quoting(refusal.error), "request_id": f"req_{request.id}"}


def _error_event(request: Request) -> bytes:
    return event("error", _error(request, _refusal(529)))


def _headers(request: Request) -> Headers:
    return [*_HEADERS, (b"request-id", b"req_" + request.id.encode())]


def _model_object(name: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": 1_000_000,
        "max_tokens": 64_000,
    }


def _models(_request: Request) -> Answer:
    data = [_model_object(name) for name in MODELS]
    return json_answer({"data": data, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]})


def _model(_request: Request, *, name: str) -> Answer:
    if name not in MODELS:
        raise _refusal(404, f"model: {name}")
    return json_answer(_model_object(name))


@dataclass(frozen=True, slots=True)
class _Message:
    """One answer, before it has a form."""

    id: str
    model: str
    thinking: Said | None
    said: Said | ToolCall
    usage: Usage

    @property
    def stop_reason(self) -> str:
        if isinstance(self.said, ToolCall):
            return "tool_use"
        return "max_tokens" if self.said.cut_short else "end_turn"


def _create(request: Request) -> Answer:
    """POST /v1/messages"""
    message = _message(request, request.fields)
    if request.fields.flag("stream"):
        return event_answer(broken(request, _events(message), _error_event))
    content = [block for block, _ in _blocks(message)]
    return json_answer(_message_object(message, content, message.stop_reason, _usage(message.usage)))


def _count(request: Request) -> Answer:
    """POST /v1/messages/count_tokens"""
    request.fields.needed_text("model")
    return json_answer({"input_tokens": tokens.of(_prompt(request.fields))})


def _prompt(fields: Fields) -> list[object]:
    fields.items("messages")
    return [fields.get("system"), fields.needed("messages")]


def _message(request: Request, fields: Fields) -> _Message:
    model, prompt = fields.needed_text("model"), _prompt(fields)
    fields.needed("max_tokens")
    _refuse_sampling(request, fields)
    said = _tool_call(fields) or _said(request, fields)
    thinks = fields.inner("thinking").get("type") in ("enabled", "adaptive")
    thinking = words.said(words.THINKING) if thinks else None
    return _Message(
        id=f"msg_{request.id}",
        model=model,
        thinking=thinking,
        said=said,
        usage=request.usage(prompt, said.tokens, thought=thinking.tokens if thinking else 0),
    )


def _refuse_sampling(request: Request, fields: Fields) -> None:
    if request.headers.get(b"anthropic-version", b"") < _WITHOUT_SAMPLING:
        return
    for name in _SAMPLING:
        if fields.get(name) is not None:
            raise _refusal(400, f"{name}: Extra inputs are not permitted")


def _said(request: Request, fields: Fields) -> Said:
    limit = fields.whole("max_tokens")
    schema = fields.inner("output_config").inner("format").get("schema")
    if schema is not None:
        return words.said(orjson.dumps(words.example(schema)).decode(), limit)
    return words.answer(fields.get("messages"), length=request.switches.tokens, limit=limit)


def _tool_call(fields: Fields) -> ToolCall | None:
    """The call that the caller insists on."""
    tools, choice = fields.items("tools"), fields.inner("tool_choice")
    if not tools or choice.get("type") not in ("any", "tool"):
        return None
    wanted = choice.needed_text("name") if choice.get("type") == "tool" else None
    for tool in tools:
        name = tool.needed_text("name")
        if wanted in (None, name):
            return ToolCall(name, words.arguments(tool.get("input_schema")))
    raise _refusal(400, f"tool_choice.name: Tool '{wanted}' not found in provided tools")


def _message_object(
    message: _Message, content: Sequence[object], reason: str | None, usage: dict[str, Any]
) -> dict[str, Any]:
    return {
        "id": message.id,
        "type": "message",
        "role": "assistant",
        "model": message.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _usage(usage: Usage, output: int | None = None) -> dict[str, Any]:
    return {
        "input_tokens": usage.fresh,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": usage.cache_write, "ephemeral_1h_input_tokens": 0},
        "output_tokens": usage.total_out if output is None else output,
        **_thinking_tokens(usage),
        "service_tier": "standard",
        "inference_geo": "not_available",
    }


def _final_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.fresh,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.total_out,
        **_thinking_tokens(usage),
    }


def _thinking_tokens(usage: Usage) -> dict[str, Any]:
    return {"output_tokens_details": {"thinking_tokens": usage.reasoning}} if usage.reasoning else {}


def _blocks(message: _Message) -> Iterator[tuple[dict[str, Any], Sequence[dict[str, Any]]]]:
    """Each block of the answer, whole, and the deltas it comes in."""
    if message.thinking:
        block = {"type": "thinking", "thinking": message.thinking.text, "signature": _SIGNATURE}
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in message.thinking.pieces]
        yield block, [*deltas, {"type": "signature_delta", "signature": _SIGNATURE}]
    said = message.said
    if isinstance(said, ToolCall):
        call = {
            "type": "tool_use",
            "id": message.id.replace("msg_", "toolu_"),
            "name": said.name,
            "input": said.arguments,
        }
        # The first delta of a call is empty in the real thing too.
        parts = ["", *tokens.pieces(said.json)]
        yield call, [{"type": "input_json_delta", "partial_json": part} for part in parts]
    else:
        yield {"type": "text", "text": said.text}, [{"type": "text_delta", "text": piece} for piece in said.pieces]


_EMPTY: Mapping[str, Mapping[str, Any]] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}
"""What of a block is empty when it starts."""


def _events(message: _Message) -> Iterator[bytes]:
    start = _message_object(message, [], None, _usage(message.usage, output=1))
    yield event("message_start", {"type": "message_start", "message": start})
    for index, (block, deltas) in enumerate(_blocks(message)):
        begun = {**block, **_EMPTY[block["type"]]}
        yield event("content_block_start", {"type": "content_block_start", "index": index, "content_block": begun})
        if index == 0:
            yield event("ping", {"type": "ping"})
        for delta in deltas:
            yield event("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})
        yield event("content_block_stop", {"type": "content_block_stop", "index": index})
    end = {"stop_reason": message.stop_reason, "stop_sequence": None}
    yield event("message_delta", {"type": "message_delta", "delta": end, "usage": _final_usage(message.usage)})
    yield event("message_stop", {"type": "message_stop"})


_HANDLERS: Mapping[str, tuple[str, Handler]] = {
    "/v1/messages": ("POST", _create),
    "/v1/messages/count_tokens": ("POST", _count),
    "/v1/models": ("GET", _models),
}

DIALECT = Dialect(
    name="anthropic",
    key=_key,
    find=_find,
    admit=_admit,
    refusal=_refusal,
    wrong=_wrong,
    not_json=_not_json,
    render=_render,
    headers=_headers,
)
