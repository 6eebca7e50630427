"""The most that a request can take, from what it says before anybody has answered it.

A token is at least a byte of the body, so no text has more tokens than bytes. What is not in the body, or is no text (a
file, an image, an earlier answer, a page that a tool of the provider's reads) may fill all that a model can read. What
a model may write is what the caller allows it to; a caller who allows everything is taken at its word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

_LENGTHS = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "maxOutputTokens",
    "max_tokens_to_sample",
    "num_predict",
)
"""How callers say how much may be written; of several the largest counts."""
_ANSWERS = ("n", "best_of", "candidateCount", "candidate_count")
"""How many times."""
_WITHIN = ("generationConfig", "generation_config", "options")
"""Objects that have such fields, besides the body itself."""
_ELSEWHERE = frozenset(
    {
        "cachedContent",
        "cached_content",
        "conversation",
        "fileData",
        "file_data",
        "file_id",
        "file_url",
        "image",
        "image_url",
        "images",
        "inlineData",
        "inline_data",
        "input_audio",
        "mcp_servers",
        "plugins",
        "previous_response_id",
        "search_parameters",
        "source",
        "web_search_options",
    }
)
"""Fields that stand for what is no text of the body."""
_OWN_TOOLS = frozenset({"function", "functionDeclarations", "function_declarations", "input_schema", "parameters"})
"""What a tool has that the caller runs; the provider runs all others."""
_SEARCHES = 32
"""At most so many searches are expected of one answer whose tools are the provider's."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What is taken for the most that a model reads, and writes, where a request does not tell."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class WorstCase:
    input_tokens: int
    output_tokens: int
    web_searches: int = 0
    likely_tokens: int = 0
    """About what it takes, by four bytes a token and what the caller allows to be written: for limits by the minute."""


NOTHING = WorstCase(0, 0)


def worst_case(body: bytes | None, length: int | None, ceilings: Ceilings) -> WorstCase:
    """`body` is None for one that is passed on as it comes; `length` is then what its caller says, if it does."""
    if body is None:
        return WorstCase(ceilings.input_tokens, ceilings.output_tokens, _SEARCHES, (length or 0) // 4)
    asked = _object(body)
    if asked is None:
        return WorstCase(ceilings.input_tokens, ceilings.output_tokens, _SEARCHES, len(body) // 4)
    length = _largest(asked, _LENGTHS)
    answers = max(1, _largest(asked, _ANSWERS) or 1)
    has_tools = any(_is_theirs(tool) for tool in _tools(asked))
    unbounded = has_tools or _leads_elsewhere(asked)
    return WorstCase(
        input_tokens=max(len(body), ceilings.input_tokens) if unbounded else len(body),
        output_tokens=(ceilings.output_tokens if length is None else length) * answers,
        web_searches=_SEARCHES if unbounded else 0,
        likely_tokens=len(body) // 4 + (length or 0) * answers,
    )


def _object(body: bytes) -> Mapping[str, Any] | None:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _largest(asked: Mapping[str, Any], names: Iterable[str]) -> int | None:
    """None if the caller gives no number; one that can't be is as good as none."""
    places = [asked, *(within for name in _WITHIN if isinstance(within := asked.get(name), dict))]
    given = [place[name] for place in places for name in names if place.get(name) is not None]
    if not given or any(not isinstance(each, int | float) or isinstance(each, bool) or each < 0 for each in given):
        return None
    return int(max(given)) + 1 if any(isinstance(each, float) for each in given) else max(given)


def _tools(asked: Mapping[str, Any]) -> list[Any]:
    tools = asked.get("tools")
    return tools if isinstance(tools, list) else []


def _is_theirs(tool: Any) -> bool:
    if not isinstance(tool, dict):
        return False
    kind = tool.get("type")
    return not _OWN_TOOLS & tool.keys() if kind is None else kind not in {"function", "custom"}


def _leads_elsewhere(asked: Mapping[str, Any]) -> bool:
    """Whether anything in it stands for what is not in the body; what a tool looks like is only described."""
    left: list[Any] = [value for name, value in asked.items() if name != "tools"]
    if any(value is not None for name, value in asked.items() if name in _ELSEWHERE):
        return True
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if any(each is not None for name, each in value.items() if name in _ELSEWHERE):
                return True
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return False
