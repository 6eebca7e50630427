"""OpenAI's chat completions, and the completions they replaced.

`prompt_tokens` holds all input, `completion_tokens` all output, reasoning included. A stream tells its usage only
if `stream_options.include_usage` asks for it: in one more chunk, without choices, before [DONE]; all other chunks
say `"usage":null` then, and nothing about usage otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from aiwm.simulator import openai_protocol, tokens, words
from aiwm.simulator.dialect import Answer, Fields, Request, broken, event_answer, json_answer
from aiwm.simulator.tokens import Usage
from aiwm.simulator.words import Said, ToolCall

MOST_CHOICES = 128
_FINGERPRINT = "fp_simulated"
_DONE = b"data: [DONE]\n\n"
_PADDING = "simulation"
"""Chunks carry a field whose length hides that of the text. https://platform.openai.com/docs/api-reference/chat-streaming"""
_UNFILTERED = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}


@dataclass(frozen=True, slots=True)
class _Chat:
    """One answer, before it has a form."""

    id: str
    model: str
    created: int
    said: Said | ToolCall
    n: int
    usage: Usage
    azure: bool

    @property
    def finish_reason(self) -> str:
        if isinstance(self.said, ToolCall):
            return "tool_calls"
        return "length" if self.said.cut_short else "stop"

    @property
    def call_id(self) -> str:
        return self.id.replace("chatcmpl-", "call_")


def chat(request: Request) -> Answer:
    """POST /v1/chat/completions"""
    fields = request.fields
    answer = _answer(request, fields)
    if not fields.flag("stream"):
        return json_answer(_completion(answer), indented=True)
    options = fields.inner("stream_options")
    padded = options.get("include_obfuscation") is not False
    chunks = _chunks(answer, counted=options.flag("include_usage"), padded=padded)
    return event_answer(broken(request, chunks, error_chunk))


def complete(request: Request) -> Answer:
    """POST /v1/completions"""
    fields = request.fields
    model, prompt, n = openai_protocol.model(request), fields.needed("prompt"), _choices(fields)
    said = words.answer(prompt, length=request.switches.tokens, limit=fields.whole("max_tokens"))
    usage = openai_usage(request.usage(prompt, n * said.tokens))
    head = {
        "id": f"cmpl-{request.id}",
        "object": "text_completion",
        "created": request.time,
        "model": model,
        "system_fingerprint": _FINGERPRINT,
    }
    reason = "length" if said.cut_short else "stop"
    if not fields.flag("stream"):
        choices = [_text_choice(index, said.text, reason) for index in range(n)]
        return json_answer({**head, "choices": choices, "usage": usage}, indented=True)
    counted = usage if fields.inner("stream_options").flag("include_usage") else None
    return event_answer(broken(request, _text_chunks(head, said, reason, n, counted), error_chunk))


def openai_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.total_in,
        "completion_tokens": usage.total_out,
        "total_tokens": usage.total,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached,
            "cache_write_tokens": usage.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def error_chunk(request: Request) -> bytes:
    return data_event({"error": request.quoting(openai_protocol.refusal(500).error)})


def data_event(value: object) -> bytes:
    return b"data: %s\n\n" % orjson.dumps(value)


def _answer(request: Request, fields: Fields) -> _Chat:
    model, messages, n = openai_protocol.model(request), fields.needed("messages"), _choices(fields)
    fields.items("messages")
    functions = [tool.inner("function") for tool in fields.items("tools")]
    said = openai_protocol.tool_call(fields, functions, "function") or _said(request, fields, messages)
    return _Chat(
        id=f"chatcmpl-{request.id}",
        model=model,
        created=request.time,
        said=said,
        n=n,
        usage=request.usage(messages, n * said.tokens),
        azure=request.path.startswith("/openai/deployments/"),
    )


def _choices(fields: Fields) -> int:
    return fields.whole("n", most=MOST_CHOICES) or 1


def _said(request: Request, fields: Fields, messages: object) -> Said:
    limit = fields.whole("max_completion_tokens") or fields.whole("max_tokens")
    schema = fields.inner("response_format").inner("json_schema").get("schema")
    if schema is not None:
        return words.said(orjson.dumps(words.example(schema)).decode(), limit)
    return words.answer(messages, length=request.switches.tokens, limit=limit)


def _completion(answer: _Chat) -> dict[str, Any]:
    completion = {
        "id": answer.id,
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.model,
        "choices": [_choice(answer, index) for index in range(answer.n)],
        "usage": openai_usage(answer.usage),
        "service_tier": "default",
        "system_fingerprint": _FINGERPRINT,
    }
    if answer.azure:
        completion["prompt_filter_results"] = [{"prompt_index": 0, "content_filter_results": _UNFILTERED}]
    return completion


def _choice(answer: _Chat, index: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    if isinstance(answer.said, ToolCall):
        function = {"name": answer.said.name, "arguments": answer.said.json}
        message["tool_calls"] = [{"id": answer.call_id, "type": "function", "function": function}]
    else:
        message["content"] = answer.said.text
    return {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}


def _chunks(answer: _Chat, *, counted: bool, padded: bool) -> Iterator[bytes]:
    """The stream. Its chunks differ in a few bytes only, so what is around those is made once."""
    head = {
        "id": answer.id,
        "object": "chat.completion.chunk",
        "created": answer.created,
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": _FINGERPRINT,
    }
    padding = {"obfuscation": _PADDING} if padded else {}
    if answer.azure:
        filtered = [{"prompt_index": 0, "content_filter_results": _UNFILTERED}]
        yield data_event({**head, "choices": [], "prompt_filter_results": filtered})
    before = b"data: %s," % orjson.dumps(head)[:-1]
    after = _after({**({"usage": None} if counted else {}), **padding})
    for delta in _deltas(answer):
        for index in range(answer.n):
            yield b'%s"choices":[{"index":%d,%s}]%s' % (before, index, delta, after)
    if counted:
        yield data_event({**head, "choices": [], "usage": openai_usage(answer.usage), **padding})
    yield _DONE


def _after(fields: dict[str, Any]) -> bytes:
    """What follows the choices, to the end of the event."""
    return b",%s\n\n" % orjson.dumps(fields)[1:] if fields else b"}\n\n"


def _deltas(answer: _Chat) -> Iterator[bytes]:
    """What stands in a choice behind its index."""
    said = answer.said
    if isinstance(said, ToolCall):
        function = {"name": said.name, "arguments": ""}
        call = {"index": 0, "id": answer.call_id, "type": "function", "function": function}
        yield _delta({"role": "assistant", "content": None, "tool_calls": [call], "refusal": None})
        for piece in tokens.pieces(said.json):
            yield _delta({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    else:
        yield _FIRST
        for piece in said.pieces:
            yield b'"delta":{"content":%s},"logprobs":null,"finish_reason":null' % orjson.dumps(piece)
    yield b'"delta":{},"logprobs":null,"finish_reason":"%s"' % answer.finish_reason.encode()


def _delta(delta: dict[str, Any]) -> bytes:
    return b'"delta":%s,"logprobs":null,"finish_reason":null' % orjson.dumps(delta)


_FIRST = _delta({"role": "assistant", "content": "", "refusal": None})


def _text_choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


def _text_chunks(
    head: dict[str, Any], said: Said, reason: str, n: int, counted: dict[str, Any] | None
) -> Iterator[bytes]:
    tail = {} if counted is None else {"usage": None}
    pieces = [*((piece, None) for piece in said.pieces), ("", reason)]
    for piece, finished in pieces:
        for index in range(n):
            yield data_event({**head, "choices": [_text_choice(index, piece, finished)], **tail})
    if counted is not None:
        yield data_event({**head, "choices": [], "usage": counted})
    yield _DONE
