"""OpenAI's dialect: https://platform.openai.com/docs/api-reference (and Azure's and other vendors' paths to it).

The same routes answer under /v1, /openai/v1, /openai and /openai/deployments/{name}; what they answer is in
`openai_chat`, `openai_responses` and `openai_media`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from aiwm.simulator import openai_chat, openai_media, openai_protocol, openai_responses
from aiwm.simulator.dialect import (
    Answer,
    Dialect,
    Handler,
    Refusal,
    Request,
    bearer,
    is_good,
    json_answer,
)

MODELS = (
    "gpt-6.2-sol",
    "gpt-5-mini",
    "gpt-4o",
    "gpt-4o-transcribe",
    "gpt-4o-mini-tts",
    "gpt-image-1",
    "text-embedding-3-large",
    "text-embedding-3-small",
    "whisper-1",
)

_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY), or as the password field (with blank username) if you're accessing the "
    "API from your browser and are prompted for a username and password. You can obtain an API key from "
    "https://platform.openai.com/account/api-keys."
)
_FIND_KEY = "You can find your API key at https://platform.openai.com/account/api-keys."
_AZURE_DENIED = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)


def speaks(path: str) -> bool:
    """Whether a path is this dialect's alone."""
    return openai_protocol.route(path)[0] in _HANDLERS and not path.startswith("/v1/models")


def _key(path: str, headers: Mapping[bytes, bytes], _query: Mapping[str, str]) -> str | None:
    azure = headers.get(b"api-key") if path.startswith("/openai/") else None
    return azure.decode("latin-1") if azure is not None else bearer(headers)


def _find(request: Request) -> Handler:
    method: str
    handler: Handler
    route, deployment = openai_protocol.route(request.path)
    if deployment is not None and "api-version" not in request.query:
        raise Refusal(404, {"code": "404", "message": "Resource not found"})
    if route.startswith("/models/") and deployment is None:
        method, handler = "GET", partial(_model, name=route.removeprefix("/models/"))
    elif route in _HANDLERS:
        method, handler = _HANDLERS[route]
    else:
        raise openai_protocol.refusal(404, f"Invalid URL ({request.method} {request.path})", code=None)
    if request.method != method:
        raise openai_protocol.refusal(405, f"Only {method} requests are accepted.", code="method_not_supported")
    return handler


def _admit(request: Request) -> None:
    if is_good(request.key):
        return
    if request.path.startswith("/openai/deployments/"):
        raise Refusal(401, {"code": "401", "message": _AZURE_DENIED})
    if not request.key:
        raise openai_protocol.refusal(401, _NO_KEY, code=None)
    raise openai_protocol.refusal(401, f"Incorrect API key provided: {_masked(request.key)}. {_FIND_KEY}")


def _masked(key: str) -> str:
    return f"{key[:8]}{'*' * max(1, len(key) - 12)}{key[-4:]}" if len(key) > 12 else "*" * len(key)


def _model_object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "aiwm-simulator"}


def _models(_request: Request) -> Answer:
    return json_answer({"object": "list", "data": [_model_object(name) for name in MODELS]}, indented=True)


def _model(_request: Request, *, name: str) -> Answer:
    if name not in MODELS:
        raise openai_protocol.refusal(404, f"The model '{name}' does not exist", param="model")
    return json_answer(_model_object(name), indented=True)


_HANDLERS: Mapping[str, tuple[str, Handler]] = {
    "/chat/completions": ("POST", openai_chat.chat),
    "/completions": ("POST", openai_chat.complete),
    "/responses": ("POST", openai_responses.respond),
    "/embeddings": ("POST", openai_media.embed),
    "/audio/transcriptions": ("POST", openai_media.transcribe),
    "/audio/speech": ("POST", openai_media.speak),
    "/images/generations": ("POST", openai_media.draw),
    "/models": ("GET", _models),
}

DIALECT = Dialect(
    name="openai",
    key=_key,
    find=_find,
    admit=_admit,
    refusal=openai_protocol.refusal,
    wrong=openai_protocol.wrong,
    not_json=openai_protocol.not_json,
    render=openai_protocol.render,
    headers=openai_protocol.headers,
)
