"""What a dialect is: how one provider is asked, how it answers, and how it refuses.

A dialect's file holds pure functions from a Request to an Answer; whatever it does not like it raises.
Sending, waiting and breaking off are `delivery`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeVar

import orjson

from aiwm.simulator import tokens
from aiwm.simulator.switches import Switches
from aiwm.simulator.tokens import Usage

T = TypeVar("T")

Headers = list[tuple[bytes, bytes]]

_CAPITAL = re.compile("[A-Z]")

JSON = b"application/json"
_DEEP = 200
EVENTS = b"text/event-stream; charset=utf-8"


class Refusal(Exception):
    """The provider's own error answer."""

    def __init__(self, status: int, error: Mapping[str, Any], *, headers: Headers | None = None) -> None:
        """`error` is what the provider puts under "error"; it has a "message"."""
        super().__init__(status, error["message"])
        self.status = status
        self.error = error
        self.headers = headers or []


class Wrong(Exception):
    """A field of the request's body is missing or is not what it should be."""

    def __init__(self, field: str, expected: str | None = None) -> None:
        super().__init__(field, expected)
        self.field = field
        self.expected = expected
        """What it should be; None if it is missing."""


class NotJson(Exception):
    """The body is not a JSON object."""


class Fields:
    """A JSON object from outside. What is null counts as absent; what has the wrong type raises Wrong."""

    __slots__ = ("_values", "_where")

    def __init__(self, values: object, where: str = "") -> None:
        if not isinstance(values, dict):
            raise Wrong(where.rstrip("."), "an object")
        self._values: Mapping[str, Any] = values
        self._where = where

    def get(self, name: str) -> Any:
        return self._values.get(name)

    def needed(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise Wrong(self._where + name)
        return value

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise Wrong(self._where + name, "a string")
        return value

    def needed_text(self, name: str) -> str:
        self.needed(name)
        return self.text(name) or ""

    def whole(self, name: str, *, most: int | None = None) -> int | None:
        """A whole number from 1 upwards."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise Wrong(self._where + name, "an integer")
        if value < 1 or (most is not None and value > most):
            raise Wrong(self._where + name, f"an integer from 1 to {most}" if most else "an integer from 1 upwards")
        return value

    def flag(self, name: str) -> bool:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise Wrong(self._where + name, "a boolean")
        return bool(value)

    def inner(self, name: str) -> Self:
        """The object under a name, empty if there is none."""
        value = self.get(name)
        return type(self)({} if value is None else value, f"{self._where}{name}.")

    def items(self, name: str) -> list[Self]:
        """The objects in the list under a name."""
        value = self.get(name)
        if value is not None and not isinstance(value, list):
            raise Wrong(self._where + name, "an array")
        return [type(self)(item, f"{self._where}{name}[{at}].") for at, item in enumerate(value or [])]


class ProtoFields(Fields):
    """Protocol Buffers' JSON: a field goes by its lowerCamelCase or by its snake_case name."""

    __slots__ = ()

    def get(self, name: str) -> Any:
        value = super().get(name)
        return super().get(_CAPITAL.sub(r"_\g<0>", name).lower()) if value is None else value


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[bytes, bytes]
    body: bytes
    switches: Switches
    id: str
    """Unique; dialects make their ids from it."""
    time: int
    """Unix seconds."""
    key: str | None = None
    """The caller's credential."""

    @cached_property
    def fields(self) -> Fields:
        """The body; raises NotJson."""
        return Fields(self._values)

    @cached_property
    def proto_fields(self) -> ProtoFields:
        return ProtoFields(self._values)

    @cached_property
    def _values(self) -> dict[str, Any]:
        try:
            values = orjson.loads(self.body)
            # What is read may be nested deeper than what can be written, and parts of it are sent back.
            if self.body.count(b"{") + self.body.count(b"[") > _DEEP:
                orjson.dumps([[[[values]]]])
        except (orjson.JSONDecodeError, orjson.JSONEncodeError) as exc:
            raise NotJson from exc
        if not isinstance(values, dict):
            raise NotJson
        return values

    def usage(self, prompt: object, visible: int, *, thought: int = 0) -> Usage:
        """What this request's answer reports. `thought` is what it shows of its reasoning."""
        asked = self.switches
        return tokens.usage(
            prompt,
            visible,
            cached=asked.cached,
            cache_write=asked.cache_write,
            reasoning=asked.reasoning or thought,
        )

    def quoting(self, error: Mapping[str, Any]) -> Mapping[str, Any]:
        """The error, with the caller's key in its message if that was asked for."""
        if not self.switches.quote_key or not self.key:
            return error
        return {**error, "message": f"{error['message']} (API key: {self.key})"}


@dataclass(frozen=True, slots=True)
class Answer:
    chunks: Iterable[bytes]
    """To be gone through once if it is streaming; else a sequence."""
    content_type: bytes = JSON
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ()
    streaming: bool = False
    """Its length is not known beforehand."""


Handler = Callable[[Request], Answer]


@dataclass(frozen=True, slots=True)
class Dialect:
    name: str
    key: Callable[[str, Mapping[bytes, bytes], Mapping[str, str]], str | None]
    """The caller's credential, from path, headers and query."""
    find: Callable[[Request], Handler]
    """What answers this path and method; raises Refusal."""
    admit: Callable[[Request], None]
    """Raises Refusal if the credential (or another header every request needs) is not good."""
    refusal: Callable[[int, str | None], Refusal]
    """How this provider says a status, in its own words or in these."""
    wrong: Callable[[Wrong], Refusal]
    not_json: Callable[[], Refusal]
    render: Callable[[Request, Refusal], bytes]
    """The body of an error answer."""
    headers: Callable[[Request], Headers]
    """What this provider sends with every answer."""


def json_answer(value: object, *, indented: bool = False) -> Answer:
    return Answer((orjson.dumps(value, option=orjson.OPT_INDENT_2 if indented else None),))


def event_answer(chunks: Iterable[bytes], content_type: bytes = EVENTS) -> Answer:
    return Answer(chunks, content_type, streaming=True)


def event(name: str, data: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(data))


def broken(request: Request, chunks: Iterable[T], error: Callable[[Request], T]) -> Iterable[T]:
    """The chunks; or the first half of them and the error, if the request asks for an error in mid-stream."""
    return _halved(chunks, error(request)) if request.switches.error_mid_stream else chunks


def _halved(chunks: Iterable[T], error: T) -> Iterator[T]:
    everything = list(chunks)
    yield from everything[: len(everything) // 2]
    yield error


def is_good(key: str | None) -> bool:
    """The simulator takes every key, so that any will do for a trial, but for those that say what they are."""
    return bool(key) and "invalid" not in str(key).lower()


def bearer(headers: Mapping[bytes, bytes]) -> str | None:
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip().decode("latin-1") if scheme.lower() == b"bearer" else None
