"""What the simulator says: deterministic, and never to be taken for a real model's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from aiwm.simulator import tokens

OPENING = "This is a simulated answer from AIWM's simulator. You said: "
SILENCE = "This is a simulated answer from AIWM's simulator. You said nothing."
FILLER = " And so the simulation goes on, word after word."
THINKING = "This is simulated thinking from AIWM's simulator."

QUOTED = 200
"""Characters of the caller's last words that are quoted back."""
_DEEPEST = 8
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "email": "simulated@example.com",
    "uri": "https://example.com/simulated",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


@dataclass(frozen=True, slots=True)
class Said:
    pieces: Sequence[str]
    """The text, one token at a time; never empty."""
    cut_short: bool = False
    """The caller's limit ended it."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        return len(self.pieces)


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: Mapping[str, Any]

    @property
    def json(self) -> str:
        return orjson.dumps(self.arguments).decode()

    @property
    def tokens(self) -> int:
        return tokens.count(self.json)


def answer(prompt: object, *, length: int | None = None, limit: int | None = None) -> Said:
    """The answer to the last thing the user said: of `length` tokens if given, and of `limit` at most."""
    last = _last_words(prompt)
    text = OPENING + last[:QUOTED] if last else SILENCE
    return said(text if length is None else _stretched(text, length), limit)


def transcript(filename: str, size: int, *, length: int | None = None) -> Said:
    text = f"This is a simulated transcript from AIWM's simulator. The file {filename[:QUOTED]} has {size} bytes."
    return said(text if length is None else _stretched(text, length))


def said(text: str, limit: int | None = None) -> Said:
    pieces = tokens.pieces(text)
    if limit is None or len(pieces) <= limit:
        return Said(pieces)
    return Said(pieces[:limit], cut_short=True)


def example(schema: object) -> Any:
    """A value that fits a JSON schema (or Google's upper-case dialect of it): the least that does."""
    return _example(schema, schema, _DEEPEST)


def arguments(schema: object) -> Mapping[str, Any]:
    """The arguments of a call to a tool that takes this."""
    value = example(schema)
    return value if isinstance(value, dict) else {}


def _stretched(text: str, length: int) -> str:
    wanted = length * tokens.CHARACTERS
    return (text + FILLER * (wanted // len(FILLER) + 1))[:wanted]


def _last_words(prompt: object) -> str:
    if isinstance(prompt, list):
        return next(filter(None, map(_users_words, reversed(prompt))), "")
    return _users_words(prompt)


def _users_words(message: object) -> str:
    """The text of a message, if it is the user's."""
    if isinstance(message, str):
        return message
    if not isinstance(message, dict) or message.get("role", "user") != "user":
        return ""
    content = message.get("content") or message.get("parts") or message.get("text")
    if isinstance(content, list):
        return " ".join(filter(None, map(_part, content)))
    return content if isinstance(content, str) else ""


def _part(part: object) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else ""


def _example(schema: object, root: object, deeper: int) -> Any:
    if not isinstance(schema, dict) or deeper == 0:
        return None
    if "const" in schema:
        return schema["const"]
    for choices in ("enum", "anyOf", "oneOf", "allOf"):
        if isinstance(found := schema.get(choices), list) and found:
            return found[0] if choices == "enum" else _example(found[0], root, deeper - 1)
    if isinstance(reference := schema.get("$ref"), str):
        return _example(_referred(root, reference), root, deeper - 1)
    return _of_type(schema, root, deeper)


def _referred(root: object, reference: str) -> object:
    for step in reference.removeprefix("#/").split("/"):
        root = root.get(step) if isinstance(root, dict) else None
    return root


def _of_type(schema: dict[str, Any], root: object, deeper: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    match str(kind).lower():
        case "string":
            return _FORMATS.get(str(schema.get("format")), "simulated")
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "array":
            return [_example(schema.get("items"), root, deeper - 1)]
        case "object":
            return _object(schema, root, deeper)
    return _object(schema, root, deeper) if "properties" in schema else None


def _object(schema: dict[str, Any], root: object, deeper: int) -> dict[str, Any]:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return {}
    return {name: _example(properties.get(name), root, deeper - 1) for name in required if isinstance(name, str)}
