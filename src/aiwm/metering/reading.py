"""Reads token counts out of JSON, by the paths a provider's file gives.

The usage objects of an answer are laid over each other, so the last value seen for a path wins, and the paths under one
name add up: that one rule serves a JSON answer, a stream whose events each repeat the running numbers, and a stream
that says input first and output last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from aiwm.domain.usage import Usage
from aiwm.providers.base import Counts, Step, UsageFields

_MAX_RAW = 4096
"""Bytes of a usage object that are kept as the provider wrote it; a real one has a tenth of that."""
_LARGEST = 1 << 50
"""No count is as large."""
_LONGEST_NAME = 200
_LONGEST_TIER = 50

_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode


class Reading:
    """What an answer has said so far about its tokens and its model."""

    __slots__ = ("_fields", "_raw", "_tier", "model")

    def __init__(self, fields: UsageFields) -> None:
        self._fields = fields
        self._raw: dict[str, Any] = {}
        self._tier: str | None = None
        self.model: str | None = None

    def document(self, text: bytes) -> bool:
        """A whole JSON answer, or one event of a stream; says whether there was usage in it.

        Anything that is no JSON object is passed over.
        """
        try:
            if text[:1] != b"{" and text.lstrip()[:1] == b"[":
                found = False
                for element in _elements(text):
                    found = self._object(_top_level(element)) or found
                return found
            return self._object(_top_level(text))
        except (msgspec.DecodeError, orjson.JSONDecodeError, UnicodeDecodeError, RecursionError):
            return False

    def usage_object(self, text: bytes) -> None:
        """A usage object found alone, in an answer that was too long or too short to be read whole."""
        try:
            self._found(text)
        except orjson.JSONDecodeError:
            return

    @property
    def found(self) -> bool:
        return bool(self._raw)

    @property
    def raw(self) -> str | None:
        """The provider's own usage object, the objects of a stream laid over each other."""
        if not self._raw:
            return None
        text = orjson.dumps(self._raw)
        return text.decode() if len(text) <= _MAX_RAW else None

    @property
    def usage(self) -> Usage:
        raw = self._raw
        for kind in self._fields.counts:
            if kind.fit(raw):
                counts: dict[str, int] = {}
                _count(raw, kind.steps, counts)
                if kind.total is not None:
                    _add_left_out(raw, kind, counts)
                return Usage(**counts)
        return Usage()

    @property
    def service_tier(self) -> str | None:
        """As the provider says it served the request, with a + before what else decides the price."""
        fields = self._fields
        if not fields.service_tier_in_usage:
            return self._tier and self._tier[:_LONGEST_TIER]
        found = [self._tier, *[self._raw.get(key) for key in fields.service_tier_in_usage]]
        words = [word for word in found if type(word) is str and word]
        if len(words) > 1:
            words = list(dict.fromkeys(words))
            # What means the standard price is said only if there is nothing else to say.
            words = [word for word in words if fields.tiers.get(word) != {}] or words[:1]
        return "+".join(words).replace("\0", "")[:_LONGEST_TIER] if words else None

    def _object(self, top: dict[str, msgspec.Raw]) -> bool:
        fields = self._fields
        if self.model is None:
            self.model = _first(top, fields.model)
        found = False
        for root in fields.roots:
            if root:
                usage = _at(top, root)
                if usage is not None and usage[:1] == b"{":
                    self._found(usage)
                    found = True
            else:
                usage_on_top = {name: orjson.loads(bytes(top[name])) for name in fields.top if name in top}
                self._merge(usage_on_top)
                found = found or bool(usage_on_top)
        if found:
            for path in fields.beside:
                more = _at(top, path)
                if more is not None:
                    self._found(more)
        if fields.service_tier:
            self._tier = _first(top, fields.service_tier) or self._tier
        return found

    def _found(self, text: bytes) -> None:
        usage = orjson.loads(text)
        if self._raw or not isinstance(usage, dict) or None in usage.values():
            self._merge(usage)
        else:
            self._raw = usage

    def _merge(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        for name, value in usage.items():
            # An object within (token details) is laid over like the whole; a null takes nothing back.
            if isinstance(value, dict) and isinstance(self._raw.get(name), dict):
                self._raw[name] = {**self._raw[name], **value}
            elif value is not None:
                self._raw[name] = value


def _first(top: dict[str, msgspec.Raw], paths: Sequence[tuple[str, ...]]) -> str | None:
    """The first text found, fit for the ledger: PostgreSQL's text has no NUL."""
    for path in paths:
        found = _at(top, path)
        if found is not None and found[:1] == b'"':
            return _text(found).replace("\0", "")[:_LONGEST_NAME]
    return None


def _at(top: dict[str, msgspec.Raw], path: tuple[str, ...]) -> bytes | None:
    """The raw JSON value at a path; only the objects on the way are taken apart."""
    value = top.get(path[0])
    if value is None:
        return None
    for name in path[1:]:
        if value is None or bytes(memoryview(value)[:1]) != b"{":
            return None
        value = _top_level(value).get(name)
    return None if value is None else bytes(value)


def _add_left_out(usage: dict[str, Any], kind: Counts, counts: dict[str, int]) -> None:
    written = counts.get("output_tokens", 0)
    left_out = kind.left_out(usage, counts.get("input_tokens", 0) + written)
    if 0 < left_out < _LARGEST:
        counts["output_tokens"] = written + left_out
        counts.setdefault("reasoning_tokens", left_out)


def _count(usage: dict[str, Any], steps: Mapping[str, Step], counts: dict[str, int]) -> None:
    """Adds what `usage` says to `counts`, by the name of each."""
    for key, value in usage.items():
        if not value or (step := steps.get(key)) is None:
            continue
        kind = type(value)  # Exactly: a bool is no number here.
        if kind is int:
            if 0 < value < _LARGEST:
                for name in step.names:
                    counts[name] = counts.get(name, 0) + value
        elif kind is dict:
            if any(value.values()):  # In most, all is 0.
                _count(value, step.keys, counts)
        elif kind is list:
            for where, inner in step.chosen.items():
                for each in value:
                    if isinstance(each, dict) and each.get(where.key) == where.value:
                        _count(each, inner, counts)
