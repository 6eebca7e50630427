"""OpenAI's Responses API: one answer is a list of items; its stream tells how each of them grows.

`input_tokens` holds all input, `output_tokens` all output, reasoning included. A stream has the usage in its last
event (response.completed, or response.incomplete when the limit ended it), and no [DONE].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from aiwm.simulator import openai_protocol, tokens, words
from aiwm.simulator.dialect import Answer, Fields, Request, broken, event, event_answer, json_answer
from aiwm.simulator.words import Said, ToolCall

_ECHOED: Mapping[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""What of the request stands in the answer, and what it is if the request does not say."""


@dataclass(frozen=True, slots=True)
class _Response:
    request: Request
    model: str
    said: Said | ToolCall
    usage: dict[str, Any]

    @property
    def status(self) -> str:
        return "incomplete" if isinstance(self.said, Said) and self.said.cut_short else "completed"

    @property
    def item_id(self) -> str:
        return ("fc_" if isinstance(self.said, ToolCall) else "msg_") + self.request.id

    def object(self, status: str) -> dict[str, Any]:
        """The response as it is in this state: only a finished one has output and usage."""
        finished = status != "in_progress"
        fields = self.request.fields
        return {
            "id": f"resp_{self.request.id}",
            "object": "response",
            "created_at": self.request.time,
            "status": status,
            "completed_at": self.request.time if status == "completed" else None,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self.model,
            "output": [self.item(status)] if finished else [],
            **{name: usual if fields.get(name) is None else fields.get(name) for name, usual in _ECHOED.items()},
            "service_tier": "default",
            "usage": self.usage if finished else None,
        }

    def item(self, status: str) -> dict[str, Any]:
        finished = status != "in_progress"
        if isinstance(self.said, ToolCall):
            return {
                "id": self.item_id,
                "type": "function_call",
                "status": status,
                "arguments": self.said.json if finished else "",
                "call_id": f"call_{self.request.id}",
                "name": self.said.name,
            }
        content = [_part(self.said.text)] if finished else []
        return {"id": self.item_id, "type": "message", "status": status, "content": content, "role": "assistant"}


def respond(request: Request) -> Answer:
    """POST /v1/responses"""
    response = _response(request)
    if not request.fields.flag("stream"):
        return json_answer(response.object(response.status), indented=True)
    events = (event(data["type"], {**data, "sequence_number": number}) for number, data in enumerate(_events(response)))
    return event_answer(broken(request, events, _error_event))


def _response(request: Request) -> _Response:
    fields = request.fields
    model, prompt = openai_protocol.model(request), fields.needed("input")
    functions = [tool for tool in fields.items("tools") if tool.get("type") == "function"]
    said = openai_protocol.tool_call(fields, functions) or _said(request, fields, prompt)
    usage = request.usage([fields.text("instructions"), prompt], said.tokens)
    return _Response(request, model, said, _usage(usage))


def _usage(usage: tokens.Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.total_in,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.total_out,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


def _said(request: Request, fields: Fields, prompt: object) -> Said:
    limit = fields.whole("max_output_tokens")
    schema = fields.inner("text").inner("format").get("schema")
    if schema is not None:
        return words.said(orjson.dumps(words.example(schema)).decode(), limit)
    return words.answer(prompt, length=request.switches.tokens, limit=limit)


def _events(response: _Response) -> Iterator[dict[str, Any]]:
    started = response.object("in_progress")
    yield {"type": "response.created", "response": started}
    yield {"type": "response.in_progress", "response": started}
    yield {"type": "response.output_item.added", "output_index": 0, "item": response.item("in_progress")}
    said = response.said
    yield from _call_events(response, said) if isinstance(said, ToolCall) else _text_events(response, said)
    yield {"type": "response.output_item.done", "output_index": 0, "item": response.item(response.status)}
    yield {"type": f"response.{response.status}", "response": response.object(response.status)}


def _text_events(response: _Response, said: Said) -> Iterator[dict[str, Any]]:
    where = {"item_id": response.item_id, "output_index": 0, "content_index": 0}
    yield {"type": "response.content_part.added", **where, "part": _part("")}
    for piece in said.pieces:
        yield {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **where, "text": said.text, "logprobs": []}
    yield {"type": "response.content_part.done", **where, "part": _part(said.text)}


def _call_events(response: _Response, call: ToolCall) -> Iterator[dict[str, Any]]:
    where = {"item_id": response.item_id, "output_index": 0}
    for piece in tokens.pieces(call.json):
        yield {"type": "response.function_call_arguments.delta", **where, "delta": piece}
    yield {
        "type": "response.function_call_arguments.done",
        **where,
        "name": call.name,
        "arguments": call.json,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _error_event(request: Request) -> bytes:
    error = request.quoting(openai_protocol.refusal(500).error)
    data = {"type": "error", "code": "server_error", "message": error["message"], "param": None}
    return event("error", {**data, "sequence_number": 0})
