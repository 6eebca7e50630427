"""Reads token counts out of JSON, by the paths a provider's file gives.

The usage objects of an answer are laid over each other, so the last value seen for a path wins, and the paths under one
name add up: that one rule serves a JSON answer, a stream whose events each repeat the running numbers, and a stream
that says input first and output last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
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

_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode

Paths = Sequence[tuple[str, ...]]


class _Keys:
    """What is read of an object: of an answer, or of one within it. Nothing else of it is taken out of its bytes."""

    __slots__ = ("beside", "decode", "inner", "model", "tier", "top", "usage")

    def __init__(self, *, usage: Paths, beside: Paths, model: Paths, tier: Paths, top: Sequence[str] = ()) -> None:
        self.usage, self.beside = _own(usage), _own(beside)
        self.model, self.tier = _own(model), _own(tier)
        self.top = tuple(top) if () in usage else ()
        """Keys of the usage that stand here themselves."""
        paths = (*usage, *beside, *model, *tier)
        self.inner = {
            name: _Keys(
                usage=_below(name, usage),
                beside=_below(name, beside),
                model=_below(name, model),
                tier=_below(name, tier),
            )
            for name in dict.fromkeys(path[0] for path in paths if len(path) > 1)
        }
        """Those of objects within."""
        raw: dict[str, object] = dict.fromkeys((*self.usage, *self.beside, *self.top, *self.inner), msgspec.Raw)
        forms = dict.fromkeys((*self.model, *self.tier), Any) | raw
        form = msgspec.defstruct("Answer", [(name, form, None) for name, form in forms.items()], gc=False)
        self.decode: Callable[[Text], msgspec.Struct] = msgspec.json.Decoder(form).decode


Text = bytes | msgspec.Raw


def _own(paths: Paths) -> Sequence[str]:
    return tuple(path[0] for path in paths if len(path) == 1)


def _below(name: str, paths: Paths) -> Paths:
    return [path[1:] for path in paths if len(path) > 1 and path[0] == name]


@lru_cache(maxsize=256)
def _keys(fields: UsageFields) -> _Keys:
    return _Keys(usage=fields.roots, beside=fields.beside, model=fields.model, tier=fields.service_tier, top=fields.top)


class Reading:
    """What an answer has said so far about its tokens and its model."""

    __slots__ = ("_fields", "_keys", "_raw", "_tier", "model")

    def __init__(self, fields: UsageFields) -> None:
        self._fields = fields
        self._keys = _keys(fields)
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
                    found = self._object(element, self._keys) or found
                return found
            return self._object(text, self._keys)
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

    def _object(self, text: Text, keys: _Keys) -> bool:
        said = keys.decode(text)
        if self.model is None:
            self.model = _first(said, keys.model)
        found = False
        for name in keys.usage:
            usage = getattr(said, name)
            found = (usage is not None and self._found(usage)) or found
        if keys.top:
            here = {name: _loads(value) for name in keys.top if (value := getattr(said, name)) is not None}
            self._merge(here)
            found = found or bool(here)
        if keys.tier:
            self._tier = _first(said, keys.tier) or self._tier
        for name, within in keys.inner.items():
            inner = getattr(said, name)
            if inner is not None and bytes(memoryview(inner)[:1]) == b"{":
                found = self._object(inner, within) or found
        if found:
            for name in keys.beside:
                more = getattr(said, name)
                if more is not None:
                    self._found(more)
        return found

    def _found(self, text: Text) -> bool:
        usage = _loads(text)
        if not isinstance(usage, dict):
            return False
        if self._raw or None in usage.values():
            self._merge(usage)
        else:
            self._raw = usage
        return True

    def _merge(self, usage: Mapping[str, Any]) -> None:
        for name, value in usage.items():
            # An object within (token details) is laid over like the whole; a null takes nothing back.
            if isinstance(value, dict) and isinstance(self._raw.get(name), dict):
                self._raw[name] = {**self._raw[name], **value}
            elif value is not None:
                self._raw[name] = value


def _loads(text: Text) -> Any:
    return orjson.loads(memoryview(text))


def _first(said: msgspec.Struct, names: Sequence[str]) -> str | None:
    """The first text found, fit for the ledger: PostgreSQL's text has no NUL."""
    for name in names:
        found = getattr(said, name)
        if type(found) is str:
            return found.replace("\0", "")[:_LONGEST_NAME]
    return None


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
