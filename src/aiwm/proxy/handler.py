"""The hot path: one inference request, from the caller's bytes to the provider's and back.

authenticate -> look up the target -> rewrite the request -> pass the limits -> send -> relay -> meter

It does no SQL, takes no lock and asks no provider's name: what it needs was prepared in the `Target`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from functools import lru_cache, partial
from typing import Protocol
from urllib.parse import quote, unquote_to_bytes

from aiwm.domain.ids import checked_id
from aiwm.domain.times import Clock
from aiwm.domain.usage import End
from aiwm.domain.users import Principal, Role
from aiwm.errors import (
    AiwmError,
    AnswerBroken,
    BodyTooLarge,
    ClientGone,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    Unauthorized,
    Unavailable,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from aiwm.metering.limits import Gate
from aiwm.metering.meter import Book, Meter
from aiwm.proxy.loans import Loan
from aiwm.proxy.masking import Pieces, masked_error
from aiwm.proxy.upstream import Upstream, UpstreamResponse
from aiwm.targets import Target, TargetTable
from aiwm.web.call import Call
from aiwm.wire.credentials import caller_token
from aiwm.wire.forms import ModelInForm
from aiwm.wire.headers import Firsts, answer_headers, firsts, request_lines
from aiwm.wire.json_splice import with_model, with_stream_usage
from aiwm.wire.urls import request_target
from aiwm.wire.usage_filter import UsageFilter

ORGANIZATION_HEADER = b"x-organization-id"


class Tokens(Protocol):
    def known(self, token: bytes) -> Principal | None: ...

    async def verify(self, token: bytes) -> Principal: ...


class Inference:
    """Answers the calls behind `/deployments/{id}/inference/`. It raises our errors; who calls it renders them."""

    def __init__(
        self,
        *,
        tokens: Tokens,
        targets: TargetTable,
        upstream: Upstream,
        book: Book,
        gate: Gate,
        clock: Clock,
        max_body_bytes: int,
    ) -> None:
        self._tokens = tokens
        self._targets = targets
        self._upstream = upstream
        self._book = book
        self._gate = gate
        self._clock = clock
        self._max_body_bytes = max_body_bytes

    async def __call__(self, call: Call, deployment: bytes, path: bytes) -> None:
        """`path` is the provider's, as the caller spelled it."""
        if call.method in _REFLECTING:
            raise MethodNotAllowed(
                "TRACE is not passed on: its answer quotes what was sent, and with it the key",
                headers={"allow": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"},
            )
        headers = call.first
        token = caller_token(call.headers, headers)
        if token is None:
            raise Unauthorized
        principal = _acting(self._tokens.known(token) or await self._tokens.verify(token), call, headers)
        deployment_id = checked_id(deployment.decode("latin-1"), "Deployment")
        principal.require_deployment(deployment_id)
        target = self._targets.reach(deployment_id, principal.org_id)
        call.deployment_id = deployment_id
        if isinstance(target, Target):
            await self._ask(call, headers, principal, path, target)
        else:
            async with Loan(target, call) as loan:
                _require_open(path, loan.target)
                await self._ask(call, headers, principal, path, loan.target, loan)

    async def _ask(
        self, call: Call, headers: Firsts, principal: Principal, path: bytes, target: Target, loan: Loan | None = None
    ) -> None:
        self._refuse_too_large(headers)
        path, asked = _with_model_in_path(path, target)
        body: bytes | AsyncIterator[bytes]
        asks_usage = False
        if call.method == b"POST" and _takes_model(target, path, headers):
            whole = await call.body(max_bytes=self._max_body_bytes)
            spliced = with_model(
                whole,
                model=target.model,
                aliases=target.aliases,
                allowed=target.allowed,
                stream_usage=_without_version(path) in target.stream_usage_in_body,
            )
            body, asked, asks_usage = spliced.body, spliced.model, spliced.asks_usage
        elif call.method == b"POST" and _takes_form(target, path):
            form = ModelInForm(_content_type(call), check=partial(_check_allowed, _allowed(target)))
            given = await call.stream(max_bytes=self._max_body_bytes)
            if isinstance(given, bytes):
                body, asked = given, form.whole(given)
            else:
                body = form.watched(given)
        elif call.method == b"POST" and _of_its_model(path, target) in target.stream_usage_in_body:
            spliced = with_stream_usage(await call.body(max_bytes=self._max_body_bytes))
            body, asks_usage = spliced.body, spliced.asks_usage
        else:
            body = await call.stream(max_bytes=self._max_body_bytes)
        framing, chunked = _framing(headers, body)
        meter = Meter(
            target,
            principal,
            request_id=call.request_id,
            correlation_id=call.correlation_id,
            asked=asked,
            body=body if isinstance(body, bytes) else b"",
            book=self._book,
            clock=self._clock,
        )
        passed = None
        if self._gate.limits(principal, target):
            passed = await self._gate.enter(
                principal,
                target,
                request_id=call.request_id,
                method=call.method,
                asked=asked,
                body=body if isinstance(body, bytes) else None,
                length=_length(headers),
            )
        try:
            _end_with_the_caller(call, target)
            while True:
                try:
                    response = await self._upstream.send(
                        target.base.origin,
                        _head(call, headers, path, target, framing, readable=asks_usage),
                        body,
                        timeouts=target.timeouts,
                        is_head=call.method == b"HEAD",
                        chunked=chunked,
                        on_sent=meter.sent,
                    )
                    break
                except UpstreamUnreachable as error:
                    # Nothing of an answer is here: another engine of ours may give it.
                    if loan is None or not isinstance(body, bytes) or not await loan.elsewhere(error):
                        raise
                    target = loan.target
            try:
                if response.status >= 300:
                    call.discard()  # A refusal: the provider reads no more of the body.
                await _relay(response, target, meter, call, asks_usage=asks_usage)
            finally:
                response.release()
        except (asyncio.CancelledError, AiwmError) as error:
            if call.gone:
                # Whatever else happened since: it is nobody's any more.
                meter.close(End.CLIENT_GONE)
                raise ClientGone from None
            meter.close(_end(error))
            if isinstance(error, asyncio.CancelledError):
                # Only the server cancels else, when the time for its end has come.
                raise Unavailable("AIWM is stopping; send the request again") from None
            raise
        except BaseException as error:
            meter.close(_end(error))
            raise
        finally:
            call.on_gone = None
            if passed is not None:
                passed.leave(meter.row)
            if meter.row is not None:
                call.tokens, call.end = meter.row.usage.total_tokens, meter.row.end

    def _refuse_too_large(self, headers: Firsts) -> None:
        """Before a byte of it is read, when the caller says how long it is."""
        length = _length(headers)
        if length is not None and length > self._max_body_bytes:
            raise BodyTooLarge(f"The request body is too large: at most {self._max_body_bytes} bytes are passed on")


def _acting(principal: Principal, call: Call, headers: Firsts) -> Principal:
    """The caller, in the organization that it wants to act in. Raises Forbidden."""
    call.user_id, call.org_id, call.api_key_id = principal.user_id, principal.org_id, principal.api_key_id
    organization = headers.get(ORGANIZATION_HEADER)
    if organization is not None:
        principal = principal.acting_in(organization.decode("latin-1"))
        if principal.org_id != principal.home_org_id:
            call.acting_for = principal.org_id
    principal.require(Role.VIEWER)
    return principal


def _require_open(path: bytes, target: Target) -> None:
    if target.paths and not path.startswith(target.paths):
        shown = ", ".join(f"/{start.decode()}" for start in target.paths)
        raise Forbidden(f"The engine of this deployment answers callers only at paths that begin with {shown}")


def _end_with_the_caller(call: Call, target: Target) -> None:
    """From here on the caller's leaving cancels the work; until now only its body told. Raises ClientGone.

    Unless the deployment drains: then the answer is read to its end, and written to nobody.
    """
    if call.gone:
        raise ClientGone
    if call.task is not None and not target.drains:
        call.on_gone = call.task.cancel


_REFLECTING = frozenset({b"TRACE", b"TRACK"})
_WITHOUT_BODY = frozenset({204, 304})


async def _relay(response: UpstreamResponse, target: Target, meter: Meter, call: Call, *, asks_usage: bool) -> None:
    """The answer as it comes. What is booked is booked before the caller has the last byte."""
    first = firsts(response.headers)
    headers = answer_headers(response.headers, first, secrets=target.secrets)
    if response.status in _WITHOUT_BODY:
        # The length of a body that does not come: the caller would wait for it.
        headers = [header for header in headers if header[0] != b"content-length"]
    meter.begin(response.status, first)
    pieces: Pieces = response.next
    if response.status >= 400 and target.secrets:
        headers, pieces = await masked_error(response, headers, target.secrets)
    usage_filter = None
    if asks_usage and _is_plain_stream(first):
        usage_filter = UsageFilter()
        headers = [header for header in headers if header[0] != b"content-length"]
    call.start(response.status, headers)
    last = False
    while not last:
        if call.held_back:
            await call.drained()
        if not response.ready:
            call.flush()
        piece = await pieces()
        last = response.complete  # Asked before anything else is waited for: more may have come by then.
        if usage_filter is not None:
            piece = usage_filter.feed(piece) + (usage_filter.finish() if last else b"")
        meter.feed(piece)
        if usage_filter is not None and (withheld := usage_filter.withheld()):
            meter.feed(withheld)
        if last:
            meter.close(End.CLIENT_GONE if call.gone else End.COMPLETE)
        call.write(piece, last=last)
    if call.gone:
        raise ClientGone


def _is_plain_stream(headers: Firsts) -> bool:
    encoding = headers.get(b"content-encoding", b"identity")
    return headers.get(b"content-type", b"").startswith(b"text/event-stream") and encoding == b"identity"


def _end(error: BaseException) -> End:
    """How a request ended that did not come to its end."""
    match error:
        case UpstreamTimeout() | AnswerBroken(timed_out=True):
            return End.TIMED_OUT
        case ClientGone() | BodyTooLarge() | Invalid():
            return End.CLIENT_GONE
        case _ if isinstance(error, Exception):
            return End.PROVIDER_BROKE
        case _:
            return End.GATEWAY_DIED


# -- the request for the provider


INFERENCE = re.compile(rb"/deployments/([^/]+)/inference(?:/(.*))?", re.DOTALL)
"""The paths that go to providers: the deployment's id, and the provider's path as the caller spelled it."""


_ACCEPT_ENCODING = b"accept-encoding"
_PLAIN = b"accept-encoding: identity\r\n"

_UP_TO_VERSION = re.compile(rb"(?:.*/)?v\d+[a-z0-9]*/")


def _takes_model(target: Target, path: bytes, headers: Firsts) -> bool:
    """Whether the provider's API takes a `model` in the JSON body of this path."""
    name, is_form = _without_version(path), headers.get(b"content-type", b"")[:10].lower() == b"multipart/"
    if name not in target.provider.model_in_body:
        return target.allowed is not None and not is_form and name in target.provider.model_in_form
    # With `allowed`, whatever the body says it is: some servers read it as JSON all the same.
    return target.allowed is not None or not is_form


def _takes_form(target: Target, path: bytes) -> bool:
    """Whether a form is to be watched for a model that must not be asked for."""
    return target.allowed is not None and _without_version(path) in target.provider.model_in_form


def _content_type(call: Call) -> bytes:
    """Raises Invalid when there are two: who knows which of them counts."""
    first, *others = [value for name, value in call.headers if name == b"content-type"]
    if others:
        raise Invalid("The request has more than one Content-Type; send it once")
    return first


def _allowed(target: Target) -> frozenset[str]:
    return frozenset() if target.allowed is None else target.allowed | {target.model}


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
        _check_allowed(_allowed(target), asked, None if decoded is None else _text(decoded[1]))
    return path, asked


def _of_its_model(path: bytes, target: Target) -> str:
    """What a path asks of the model that it names: of `deployments/NAME/chat/completions`, the latter two."""
    if not (target.provider.model_in_path and target.stream_usage_in_body):
        return ""
    match = _after(target.provider.model_in_path).search(path)
    return "" if match is None else unquote_to_bytes(path[match.end() + 1 :]).removesuffix(b"/").decode("latin-1")


def _check_allowed(allowed: frozenset[str], *asked: str | None) -> None:
    for name in asked:
        if name is not None and name not in allowed:
            shown = ", ".join(f'"{model}"' for model in sorted(allowed))
            raise Invalid(f'Model "{name[:200]}" is not allowed: this deployment allows {shown}')


@lru_cache(maxsize=64)
def _after(segments: tuple[str, ...]) -> re.Pattern[bytes]:
    names = b"|".join(re.escape(segment.encode("ascii")) for segment in segments)
    return re.compile(rb"(?:^|/)(?:%b)/([^/:]+)" % names)


def _text(segment: bytes) -> str:
    return unquote_to_bytes(segment).decode("utf-8", "replace")


def _head(call: Call, headers: Firsts, path: bytes, target: Target, framing: bytes, *, readable: bool) -> bytes:
    """`readable`: what only we have asked for is taken out of the answer again, so it must not be compressed."""
    lines, replaced = target.lines, target.replaced
    if readable and _ACCEPT_ENCODING not in replaced:
        lines, replaced = lines + _PLAIN, replaced | {_ACCEPT_ENCODING}
    return b"%b %b HTTP/1.1\r\n%b%b%b%b\r\n" % (
        call.method,
        request_target(target.base, path, _query(call.query, target)),
        lines,
        request_lines(call.headers, headers, replaced=replaced),
        _defaults(headers, target),
        framing,
    )


def _query(query: bytes, target: Target) -> bytes:
    for name, value in target.query:
        if not re.search(rb"(?:^|&)%b=" % re.escape(name), query):
            query = b"%b%b%b=%b" % (query, b"&" if query else b"", name, value)
    return query


def _defaults(headers: Firsts, target: Target) -> bytes:
    """Headers that the provider must have, unless the caller sent its own."""
    if not target.defaults:
        return b""
    return b"".join(line for name, line in target.defaults if name not in headers)


def _length(headers: Firsts) -> int | None:
    length = headers.get(b"content-length")
    return None if length is None else int(length)


def _framing(headers: Firsts, body: bytes | AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """The header line that says how long the body is, and whether it goes in chunks: as the caller did it."""
    length = headers.get(b"content-length")
    if isinstance(body, bytes):
        has_body = body or length is not None or b"transfer-encoding" in headers
        return (b"content-length: %d\r\n" % len(body) if has_body else b""), False
    if length is not None:
        return b"content-length: %b\r\n" % length, False
    return b"transfer-encoding: chunked\r\n", True
