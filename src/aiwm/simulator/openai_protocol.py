"""What all of OpenAI's endpoints share: paths, error bodies, headers, and how a tool is chosen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from aiwm.simulator import words
from aiwm.simulator.dialect import Fields, Headers, Refusal, Request, Wrong
from aiwm.simulator.words import ToolCall

_HEADERS: Headers = [
    (b"openai-version", b"2020-10-01"),
    (b"openai-organization", b"simulated-organization"),
    (b"openai-processing-ms", b"1"),
    (b"x-ratelimit-limit-requests", b"10000"),
    (b"x-ratelimit-limit-tokens", b"30000000"),
    (b"x-ratelimit-remaining-requests", b"9999"),
    (b"x-ratelimit-remaining-tokens", b"29999000"),
    (b"x-ratelimit-reset-requests", b"6ms"),
    (b"x-ratelimit-reset-tokens", b"2ms"),
]

_PREFIX = re.compile(r"/v1(?=/)|/openai/v1(?=/)|/openai/deployments/([^/]+)(?=/)|/openai(?=/)")

_NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON. If you have trouble "
    "figuring out how to fix this, please contact us through our help center at help.openai.com.)"
)
# Status: type, code, message.
_REFUSALS: Mapping[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "The request is not valid: a simulated refusal."),
    401: (
        "invalid_request_error",
        "invalid_api_key",
        "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.",
    ),
    403: (
        "request_forbidden",
        "unsupported_country_region_territory",
        "Country, region, or territory not supported",
    ),
    404: (
        "invalid_request_error",
        "model_not_found",
        "The model `simulated` does not exist or you do not have access to it.",
    ),
    408: ("server_error", "request_timeout", "Request timed out."),
    409: ("invalid_request_error", "conflict", "The resource was updated by another request."),
    413: ("invalid_request_error", None, "Maximum content size limit (26214400) exceeded."),
    422: ("invalid_request_error", None, "The request was well-formed but could not be followed."),
    429: (
        "tokens",
        "rate_limit_exceeded",
        (
            "Rate limit reached for a simulated model in organization simulated-organization on tokens per min "
            "(TPM): Limit 30000, Used 30000, Requested 500. Please try again in 1s. Visit "
            "https://platform.openai.com/account/rate-limits to learn more."
        ),
    ),
    500: ("server_error", None, "The server had an error while processing your request. Sorry about that!"),
    502: ("server_error", None, "Bad gateway."),
    503: ("server_error", None, "The engine is currently overloaded, please try again later"),
    529: ("server_error", None, "The engine is currently overloaded, please try again later"),
}


def route(path: str) -> tuple[str, str | None]:
    """The path below the prefix, and Azure's name of a deployment."""
    prefix = _PREFIX.match(path)
    return (path[prefix.end() :], prefix[1]) if prefix else ("", None)


def model(request: Request) -> str:
    """The model asked for; Azure's paths name a deployment instead."""
    deployment = route(request.path)[1]
    return request.fields.text("model") or deployment or request.fields.needed_text("model")


def tool_call(fields: Fields, functions: Sequence[Fields], *where: str) -> ToolCall | None:
    """The call that `tool_choice` insists on: of any tool, or of the one named by the object below `where`."""
    choice = fields.get("tool_choice")
    if not functions or choice in (None, "auto", "none"):
        return None
    wanted = None if choice == "required" else _chosen(fields.inner("tool_choice"), where)
    for function in functions:
        name = function.needed_text("name")
        if wanted in (None, name):
            return ToolCall(name, words.arguments(function.get("parameters")))
    raise refusal(400, f"Tool choice '{wanted}' not found in 'tools' parameter.", param="tool_choice")


def _chosen(choice: Fields, where: Sequence[str]) -> str:
    for step in where:
        choice = choice.inner(step)
    return choice.needed_text("name")


def refusal(status: int, message: str | None = None, **more: Any) -> Refusal:
    kind, code, usual = _REFUSALS.get(status, ("invalid_request_error", None, ""))
    error = {"message": message or usual, "type": kind, "param": None, "code": code, **more}
    return Refusal(status, error, headers=[(b"retry-after", b"1")] if status == 429 else None)


def wrong(wrong: Wrong) -> Refusal:
    if wrong.expected is None:
        text, code = f"Missing required parameter: '{wrong.field}'.", "missing_required_parameter"
    else:
        text, code = f"Invalid value for '{wrong.field}': expected {wrong.expected}.", "invalid_value"
    return refusal(400, text, param=wrong.field, code=code)


def not_json() -> Refusal:
    return refusal(400, _NOT_JSON)


def render(request: Request, refusal: Refusal) -> bytes:
    return orjson.dumps({"error": request.quoting(refusal.error)}, option=orjson.OPT_INDENT_2)


def headers(request: Request) -> Headers:
    return [*_HEADERS, (b"x-request-id", b"req_" + request.id.encode())]
