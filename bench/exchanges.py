"""What is asked and what is answered: prepared once, so that neither costs anything while it is measured.

One request fits both providers: `x-simulate` asks the simulator, and the stand-in too, for the length of a stream.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

CHAT_PATH = "/v1/chat/completions"
BODY_PATH = "/v1/embeddings"
MODEL = "bench-model"
STREAM_MODEL = "bench-stream"
"""Peers are told by it to ask the other provider."""
VARIANTS = 8
"""Answers of one length that report different numbers of tokens: counts that are mixed up show in the sums."""

_WORDS = "A gateway takes what a caller sends, finds out where it has to go, and brings back what comes of it. "


# -- requests


def chat_request() -> bytes:
    """About 1 kB."""
    return _compact(
        {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": "You answer in one paragraph."},
                {"role": "user", "content": _WORDS * 8},
            ],
            "temperature": 0.7,
            "max_tokens": 400,
        }
    )


def stream_request() -> bytes:
    return _compact(
        {
            "model": STREAM_MODEL,
            "messages": [{"role": "user", "content": _WORDS}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )


def body_path(number: int) -> str:
    """Where the stand-in answers with about so many bytes."""
    return f"{BODY_PATH}?bytes={number}"


def body_request(number: int) -> bytes:
    """About so many bytes, or a little if that is more."""
    return _compact({"model": MODEL, "input": (_WORDS * (number // len(_WORDS) + 1))[: max(number - 50, 20)]})


def headers(token: str, *, events: int = 0, interval: float = 0) -> dict[str, str]:
    """A caller's. nginx is sent the same ones, the token included."""
    sent = {
        "accept": "application/json",
        "authorization": f"Bearer {token}",
        "content-type": "application/json",
        "user-agent": "aiwm-bench",
    }
    return sent | switches(events, interval) if events else sent


def switches(events: int, interval: float) -> dict[str, str]:
    """The header that says how a stream is to be answered."""
    return {"x-simulate": f"tokens={events};chunk-delay={interval:g}"}


def whole_request(path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


# -- the stand-in's answers


def chat_tokens(variant: int) -> tuple[int, int]:
    """Of input and output."""
    return 180, 130 + variant


def stream_tokens(events: int, variant: int) -> tuple[int, int]:
    return 30 + variant, events


@lru_cache
def chat_answer(variant: int) -> bytes:
    """About 1.2 kB of JSON, in the form of OpenAI's."""
    return json.dumps(
        {
            "id": f"chatcmpl-bench{variant:020d}",
            "object": "chat.completion",
            "created": 1_750_000_000,
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": _WORDS * 6, "refusal": None, "annotations": []},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": _usage(*chat_tokens(variant)),
            "service_tier": "default",
            "system_fingerprint": "fp_bench",
        }
    ).encode()


@lru_cache
def stream_answer(events: int, variant: int) -> tuple[bytes, ...]:
    """Events of text of about 210 bytes, one by one, and at last what ends the stream: usage and [DONE]."""
    texts = [_event({"choices": [_choice(f"word {number:06d}")], "usage": None}) for number in range(events)]
    usage = _event({"choices": [], "usage": _usage(*stream_tokens(events, variant))})
    return (*texts, usage + b"data: [DONE]\n\n")


@lru_cache
def body_answer(length: int) -> bytes:
    """Embeddings, whose usage stands at the very end."""
    vector = json.dumps([0.0123456789] * 1536)
    item = f'{{"object": "embedding", "index": 0, "embedding": {vector}}}'
    number = max(1, length // (len(item) + 2))
    usage = '{"prompt_tokens": 8, "total_tokens": 8}'
    return (
        f'{{"object": "list", "data": [{", ".join([item] * number)}], "model": "{MODEL}", "usage": {usage}}}'.encode()
    )


def _choice(text: str) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}


def _event(fields: dict[str, Any]) -> bytes:
    event = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_750_000_000, "model": MODEL}
    return b"data: " + _compact(event | fields) + b"\n\n"


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
