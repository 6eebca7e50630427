"""Reads token counts out of JSON, by the paths a provider's file gives.

The last value seen for a path wins, and the paths under one name add up: that one rule serves a JSON answer, a stream
whose events each repeat the running numbers, and a stream that says input first and output last.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from aiwm.domain.usage import Usage
from aiwm.providers.base import Path, UsageFields

_MAX_RAW = 4096
"""Bytes of a usage object that are kept as the provider wrote it; a real one has a tenth of that."""

_top_level = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode


class Reading:
    """What an answer has said so far about its tokens and its model."""

    __slots__ = ("_fields", "_raw", "model")

    def __init__(self, fields: UsageFields) -> None:
        self._fields = fields
        self._raw: dict[str, Any] = {}
        self.model: str | None = None

    def document(self, text: bytes) -> None:
        """A whole JSON answer, or one event of a stream. Anything that is no JSON object is passed over."""
        try:
            if text.lstrip()[:1] == b"[":
                for element in _elements(text):
                    self._object(_top_level(element))
            else:
                self._object(_top_level(text))
        except (msgspec.DecodeError, orjson.JSONDecodeError, RecursionError):
            return

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
        return Usage(**{name: sum([_count(raw, path) for path in paths]) for name, paths in self._fields.counts})

    def _object(self, top: dict[str, msgspec.Raw]) -> None:
        if self.model is None:
            self.model = self._model(top)
        for root in self._fields.roots:
            if root:
                found = _at(top, root)
                if found is not None and found[:1] == b"{":
                    self._found(found)
            else:
                self._merge({name: orjson.loads(bytes(top[name])) for name in self._counted() if name in top})

    def _counted(self) -> set[str]:
        fields = self._fields
        return {path[0] for path in (*fields.input_tokens, *fields.output_tokens)}

    def _model(self, top: dict[str, msgspec.Raw]) -> str | None:
        for path in self._fields.model:
            found = _at(top, path)
            if found is not None and found[:1] == b'"':
                return _text(found).replace("\0", "")[:200]  # PostgreSQL's text has no NUL.
        return None

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


def _at(top: dict[str, msgspec.Raw], path: Path) -> bytes | None:
    """The raw JSON value at a path; only the objects on the way are taken apart."""
    value = top.get(path[0])
    for name in path[1:]:
        if value is None or bytes(memoryview(value)[:1]) != b"{":
            return None
        value = _top_level(value).get(name)
    return None if value is None else bytes(value)


def _count(usage: Any, path: Path) -> int:
    for name in path:
        if not isinstance(usage, dict):
            return 0
        usage = usage.get(name)
    return usage if isinstance(usage, int) and not isinstance(usage, bool) and 0 <= usage < 1 << 50 else 0
