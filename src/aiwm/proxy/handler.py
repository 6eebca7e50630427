"""The hot path: one inference request, from the caller's bytes to the provider's and back.

authenticate -> look up the target -> rewrite the request -> pass the limits -> send -> relay -> meter

It does no SQL, takes no lock and asks no provider's name: what it needs was prepared in the `Target`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

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
from aiwm.identity.tokens import Known
from aiwm.metering.limits import Gate
from aiwm.metering.meter import Book, Meter
from aiwm.proxy.loans import Loan
from aiwm.proxy.masking import Pieces, masked_error
from aiwm.proxy.route import Route, Takes, check_allowed, framing
from aiwm.proxy.upstream import Upstream, UpstreamResponse
from aiwm.targets import Target, TargetTable
from aiwm.web.call import Call
from aiwm.wire.credentials import caller_token
from aiwm.wire.forms import ModelInForm
from aiwm.wire.headers import Firsts, answer_headers, firsts
from aiwm.wire.json_splice import with_model, with_stream_usage
from aiwm.wire.usage_filter import UsageFilter

ORGANIZATION_HEADER = b"x-organization-id"


class Tokens(Protocol):
    def known(self, token: bytes) -> Principal | None: ...

    def seen(self, token: bytes) -> Known | None: ...

    def holder(self, known: Known) -> Principal | None: ...

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

    def takes(self, call: Call) -> bool:
        """Whether it is one of these."""
        return call.head.plan is not None or INFERENCE.fullmatch(call.path) is not None

    async def __call__(self, call: Call) -> None:
        errand: _Errand | None = call.head.plan
        if errand is None or self._tokens.holder(errand.known) is not errand.caller:
            errand = await self._errand(call)
        _tell(call, errand.caller)
        call.acting_for, call.deployment_id = errand.acting_for, errand.deployment_id
        target = self._targets.reach(errand.deployment_id, errand.principal.org_id)
        if isinstance(target, Target):
            await self._ask(call, errand, target)
        else:
            async with Loan(target, call) as loan:
                _require_open(errand.path, loan.target)
                await self._ask(call, errand, loan.target, loan)

    async def _ask(self, call: Call, errand: _Errand, target: Target, loan: Loan | None = None) -> None:
        self._refuse_too_large(call)
        principal, route = errand.principal, errand.route
        if route is None or route.target is not target:
            route = errand.route = Route(call.head, errand.path, target)
        asked, asks_usage = route.asked, False
        body: bytes | AsyncIterator[bytes]
        match route.takes:
            case Takes.MODEL:
                spliced = with_model(
                    await call.body(max_bytes=self._max_body_bytes),
                    model=target.model,
                    aliases=target.aliases,
                    allowed=target.allowed,
                    stream_usage=route.stream_usage,
                )
                body, asked, asks_usage = spliced.body, spliced.model, spliced.asks_usage
            case Takes.FORM:
                form = ModelInForm(_content_type(call), check=partial(check_allowed, target))
                given = await call.stream(max_bytes=self._max_body_bytes)
                if isinstance(given, bytes):
                    body, asked = given, form.whole(given)
                else:
                    body = form.watched(given)
            case Takes.STREAM_OPTIONS:
                spliced = with_stream_usage(await call.body(max_bytes=self._max_body_bytes))
                body, asks_usage = spliced.body, spliced.asks_usage
            case Takes.ANYTHING:
                body = await call.stream(max_bytes=self._max_body_bytes)
        length, chunked = framing(call.head, call.length, body)
        meter = Meter(
            target.provider,
            route.subject(principal, asked),
            request_id=call.request_id,
            correlation_id=call.correlation_id,
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
                length=call.length,
            )
        try:
            _end_with_the_caller(call, target)
            while True:
                try:
                    response = await self._upstream.send(
                        target.base.origin,
                        b"%b%b\r\n" % (route.lines(readable=asks_usage), length),
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
                    route = Route(call.head, errand.path, target)
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
            call.outcome = meter

    async def _errand(self, call: Call) -> _Errand:
        """Made anew. Raises MethodNotAllowed, Unauthorized, Unavailable, Forbidden, Invalid."""
        token = _token(call)
        caller = self._tokens.known(token) or await self._tokens.verify(token)
        _tell(call, caller)
        place = INFERENCE.fullmatch(call.path)
        assert place is not None  # noqa: S101 - else nobody would have asked us
        principal, acting_for, deployment_id = _wanted(call, caller, place[1])
        known = self._tokens.seen(token) or Known(caller, until=0)  # Revoked in between: it holds for this once.
        errand = call.head.plan = _Errand(known, caller, principal, acting_for, deployment_id, place[2] or b"")
        return errand

    def _refuse_too_large(self, call: Call) -> None:
        """Before a byte of it is read, when the caller says how long it is."""
        if call.length is not None and call.length > self._max_body_bytes:
            raise BodyTooLarge(f"The request body is too large: at most {self._max_body_bytes} bytes are passed on")


@dataclass(slots=True)
class _Errand:
    """What the head of a request wants, and of whom: kept with the head, for when it comes again."""

    known: Known
    """What is known of the token that the head shows."""
    caller: Principal
    """Whom it named then. As long as it names the same, the rest is true."""
    principal: Principal
    """The caller, in the organization that it acts in."""
    acting_for: str | None
    """That organization, if it is not the caller's own."""
    deployment_id: str
    path: bytes
    """The provider's, as the caller spelled it."""
    route: Route | None = None
    """To the target of that time."""


def _tell(call: Call, caller: Principal) -> None:
    """For the line in the log, whatever becomes of the request."""
    call.user_id, call.org_id, call.api_key_id = caller.user_id, caller.org_id, caller.api_key_id


def _token(call: Call) -> bytes:
    """What the caller shows. Raises Unauthorized, and MethodNotAllowed before it."""
    if call.method in _REFLECTING:
        raise MethodNotAllowed(
            "TRACE is not passed on: its answer quotes what was sent, and with it the key",
            headers={"allow": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"},
        )
    token = caller_token(call.head.others, call.first)
    if token is None:
        raise Unauthorized
    return token


def _wanted(call: Call, caller: Principal, deployment: bytes) -> tuple[Principal, str | None, str]:
    """Who is acting, for which organization if it is another's, and the deployment. Raises Forbidden, Invalid."""
    principal, acting_for = caller, None
    organization = call.first.get(ORGANIZATION_HEADER)
    if organization is not None:
        principal = caller.acting_in(organization.decode("latin-1"))
        if principal.org_id != principal.home_org_id:
            call.acting_for = acting_for = principal.org_id
    principal.require(Role.VIEWER)
    deployment_id = checked_id(deployment.decode("latin-1"), "Deployment")
    principal.require_deployment(deployment_id)
    return principal, acting_for, deployment_id


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
    pieces: Pieces | None = None
    if response.status >= 400 and target.secrets:
        headers, pieces = await masked_error(response, headers, target.secrets)
    usage_filter = None
    if asks_usage and _is_plain_stream(first):
        usage_filter = UsageFilter()
        headers = [header for header in headers if header[0] != b"content-length"]

    def pass_on(piece: bytes, *, last: bool = False) -> bool:
        """Answers whether the caller can take another at once."""
        if usage_filter is not None:
            piece = usage_filter.feed(piece) + (usage_filter.finish() if last else b"")
        meter.feed(piece)
        if usage_filter is not None and (withheld := usage_filter.withheld()):
            meter.feed(withheld)
        if last:
            meter.close(End.CLIENT_GONE if call.gone else End.COMPLETE)
        call.write(piece, last=last)
        return not call.held_back

    call.start(response.status, headers)
    last = False
    while not last:
        if call.held_back:
            await call.drained()
        if not response.ready:
            call.flush()
        piece = await (response.next(pass_on) if pieces is None else pieces())
        last = response.complete  # Asked before anything else is waited for: more may have come by then.
        pass_on(piece, last=last)
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


INFERENCE = re.compile(rb"/deployments/([^/]+)/inference(?:/(.*))?", re.DOTALL)
"""The paths that go to providers: the deployment's id, and the provider's path as the caller spelled it."""


def _content_type(call: Call) -> bytes:
    """Raises Invalid when there are two: who knows which of them counts."""
    if call.head.count(b"content-type") > 1:
        raise Invalid("The request has more than one Content-Type; send it once")
    return call.first[b"content-type"]
