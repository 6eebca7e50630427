"""The way of a request to its target: all that its head says about it, before a byte of the body is read.

Nothing else goes into it, so what was made for one request serves each that comes with the same head while the target
is the same.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from enum import Enum, auto
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from aiwm.domain.users import Principal
from aiwm.errors import Invalid
from aiwm.metering.subject import Subject
from aiwm.targets import Target
from aiwm.web.head import Head
from aiwm.wire.headers import Firsts, request_lines
from aiwm.wire.urls import request_target

_ACCEPT_ENCODING = b"accept-encoding"
_PLAIN = b"accept-encoding: identity\r\n"

_UP_TO_VERSION = re.compile(rb"(?:.*/)?v\d+[a-z0-9]*/")


class Takes(Enum):
    """What the provider's API takes in the body of a request."""

    MODEL = auto()
    """JSON with a `model`."""
    FORM = auto()
    """A form, to be watched for a model that must not be asked for."""
    STREAM_OPTIONS = auto()
    """JSON that may be made to ask for its stream's usage; the model is named elsewhere."""
    ANYTHING = auto()


class Route:
    """Raises Invalid for a path or a header that is not passed on, or a model in the path that is not allowed."""

    __slots__ = ("_asked_last", "_defaults", "_head", "_path", "_subject", "asked", "stream_usage", "takes", "target")

    def __init__(self, head: Head, path: bytes, target: Target) -> None:
        """`path` is the provider's, as the caller spelled it."""
        self.target = target
        path, self.asked = _with_model_in_path(path, target)
        """The model that the path asks for."""
        name = _without_version(path)
        self.stream_usage = name in target.stream_usage_in_body
        """Whether a stream is made to report its usage."""
        self.takes = Takes.ANYTHING
        if head.method == b"POST":
            self.takes = _takes(target, path, name, head.first)
        self._head = head
        self._path = path
        self._defaults = self._lines(readable=False)
        self._subject: Subject | None = None
        self._asked_last: str | None = None

    def subject(self, principal: Principal, asked: str | None) -> Subject:
        """Of the requests that go this way: all are of the same caller, and most ask for the same model."""
        if self._subject is None or asked != self._asked_last:
            self._subject, self._asked_last = Subject.of(self.target, principal, asked), asked
        return self._subject

    def lines(self, *, readable: bool) -> bytes:
        """Request line and headers for the provider, all but how long the body is.

        `readable`: what only we have asked for is taken out of the answer again, so it must not be compressed.
        """
        return self._lines(readable=True) if readable else self._defaults

    def _lines(self, *, readable: bool) -> bytes:
        head, target = self._head, self.target
        lines, replaced = target.lines, target.replaced
        if readable and _ACCEPT_ENCODING not in replaced:
            lines, replaced = lines + _PLAIN, replaced | {_ACCEPT_ENCODING}
        return b"%b %b HTTP/1.1\r\n%b%b%b" % (
            head.method,
            request_target(target.base, self._path, _query(head.query, target)),
            lines,
            request_lines(head.others, head.first, replaced=replaced),
            # Headers that the provider must have, unless the caller sent its own.
            b"".join(line for name, line in target.defaults if name not in head.first),
        )


def framing(head: Head, length: int | None, body: bytes | AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """The header line that says how long the body is, and whether it goes in chunks: as the caller did it.

    `length` is what the caller said.
    """
    if isinstance(body, bytes):
        has_body = body or length is not None or b"transfer-encoding" in head.first
        return (b"content-length: %d\r\n" % len(body) if has_body else b""), False
    if length is not None:
        return b"content-length: %d\r\n" % length, False
    return b"transfer-encoding: chunked\r\n", True


def check_allowed(target: Target, *asked: str | None) -> None:
    """Raises Invalid when one of these models must not be asked for."""
    if target.allowed is None:
        return
    allowed = target.allowed | {target.model}
    for name in asked:
        if name is not None and name not in allowed:
            shown = ", ".join(f'"{model}"' for model in sorted(allowed))
            raise Invalid(f'Model "{name[:200]}" is not allowed: this deployment allows {shown}')


def _takes(target: Target, path: bytes, name: str, headers: Firsts) -> Takes:
    provider, limited = target.provider, target.allowed is not None
    is_form = headers.get(b"content-type", b"")[:10].lower() == b"multipart/"
    if name in provider.model_in_body:
        # With `allowed`, whatever the body says it is: some servers read it as JSON all the same.
        takes_model = limited or not is_form
    else:
        takes_model = limited and not is_form and name in provider.model_in_form
    if takes_model:
        return Takes.MODEL
    if limited and name in provider.model_in_form:
        return Takes.FORM
    return Takes.STREAM_OPTIONS if _of_its_model(path, target) in target.stream_usage_in_body else Takes.ANYTHING


@lru_cache(maxsize=1024)
def _without_version(path: bytes) -> str:
    """What the provider's API calls this path, whatever stands before it."""
    name = unquote_to_bytes(path).removesuffix(b"/")
    version = _UP_TO_VERSION.match(name)
    return name[version.end() if version is not None else 0 :].decode("latin-1")


def _with_model_in_path(path: bytes, target: Target) -> tuple[bytes, str | None]:
    """The path with the deployed model where it names the deployment, and the model that it asks for."""
    segments = target.provider.model_in_path
    if not segments:
        return path, None
    pattern = _after(segments)
    match = pattern.search(path)
    asked = None if match is None else _text(match[1])
    if match is not None and asked in target.aliases:
        asked = target.model
        path = path[: match.start(1)] + quote(asked, safe="").encode("ascii") + path[match.end(1) :]
    if target.allowed is not None:
        # Whoever reads the path behind us must read the same model in it as we do, decoded or not.
        decoded = pattern.search(unquote_to_bytes(path))
        check_allowed(target, asked, None if decoded is None else _text(decoded[1]))
    return path, asked


def _of_its_model(path: bytes, target: Target) -> str:
    """What a path asks of the model that it names: of `deployments/NAME/chat/completions`, the latter two."""
    if not (target.provider.model_in_path and target.stream_usage_in_body):
        return ""
    match = _after(target.provider.model_in_path).search(path)
    return "" if match is None else unquote_to_bytes(path[match.end() + 1 :]).removesuffix(b"/").decode("latin-1")


@lru_cache(maxsize=64)
def _after(segments: tuple[str, ...]) -> re.Pattern[bytes]:
    names = b"|".join(re.escape(segment.encode("ascii")) for segment in segments)
    return re.compile(rb"(?:^|/)(?:%b)/([^/:]+)" % names)


def _text(segment: bytes) -> str:
    return unquote_to_bytes(segment).decode("utf-8", "replace")


def _query(query: bytes, target: Target) -> bytes:
    for name, value in target.query:
        if not re.search(rb"(?:^|&)%b=" % re.escape(name), query):
            query = b"%b%b%b=%b" % (query, b"&" if query else b"", name, value)
    return query
