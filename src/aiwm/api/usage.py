"""Usage over HTTP: reports, the ledger's rows, what a row's numbers are made of, and exports."""

import asyncio
import base64
import binascii
import csv
import io
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from aiwm.control.usage import UsageReports
from aiwm.domain.costs import charges, dollars, price_of
from aiwm.domain.ids import checked_id
from aiwm.domain.latencies import Histogram, percentile
from aiwm.domain.reports import DAY_MS, Dimension, Group, Period, Place, Report, ReportQuery, RowQuery, Span, Sums
from aiwm.domain.times import Clock, iso, parsed
from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.domain.users import Principal
from aiwm.errors import Invalid
from aiwm.metering.derivations import derivation
from aiwm.web.principals import Tokens, authenticated
from aiwm.web.schemas import Answer, problems

_DEFAULT_SPAN_MS = 30 * DAY_MS
_DEFAULT_LIMIT, _MOST_ROWS = 10, 100
_LONGEST = 500
_LINES_AT_ONCE = 100
_NUMBER = re.compile(r"[0-9]{1,9}")
_MILLISECONDS = re.compile(r"[0-9]{1,15}")
_ID = re.compile(r"[0-9a-fA-F]{24}")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

E = TypeVar("E", bound=StrEnum)


class Latency(Answer):
    mean: float
    p50: float
    p95: float


class Counts(Answer):
    total_tokens: int
    """Input and output."""
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    """A part of the input, like `cacheWriteTokens`."""
    cache_write_tokens: int
    cache_write_1h_tokens: int = Field(alias="cacheWrite1hTokens")
    """A part of the cache writes."""
    reasoning_tokens: int
    """A part of the output."""
    input_audio_tokens: int
    output_audio_tokens: int
    input_image_tokens: int
    output_image_tokens: int
    cache_read_audio_tokens: int
    cache_read_image_tokens: int
    web_searches: int


class SumsAnswer(Counts):
    request_count: int
    error_count: int
    """Requests that were not answered below 400, or not to the end."""
    total_cost: float | None
    """In USD, of the requests whose cost is known; null when nothing is known."""
    unpriced_requests: int
    latency_ms: Latency | None
    first_byte_ms: Latency | None


class GroupAnswer(SumsAnswer):
    """Of what `groupBy` names."""

    deployment: str | None = None
    model: str | None = None
    user: str | None = None
    api_key: str | None = None
    provider: str | None = None
    day: str | None = None
    hour: str | None = None


class ReportAnswer(Answer):
    since: str = Field(alias="from")
    until: str = Field(alias="to")
    group_by: list[str]
    data: list[GroupAnswer]
    totals: SumsAnswer


class RequestAnswer(Counts):
    id: str = Field(alias="_id")
    correlation_id: str
    deployment_id: str
    model_id: str
    user_id: str
    api_key_id: str | None
    provider: str
    provider_request_id: str | None
    model_asked: str | None
    model_answered: str | None
    service_tier: str | None
    status: int | None
    streamed: bool
    end: End
    source: Source
    started_at: str
    first_byte_ms: int | None
    total_ms: int
    cost: float | None
    """In USD; null when it is not known."""


class ExplainedAnswer(RequestAnswer):
    phases: list[dict[str, Any]]
    numbers: dict[str, Any]
    """Of each count what it is the sum of, and where in the provider's usage object that stands."""
    raw_usage: dict[str, Any] | None
    cost_lines: list[dict[str, Any]]
    price: dict[str, Any] | None


class RequestPage(Answer):
    data: list[RequestAnswer]
    pagination: dict[str, Any]


class Format(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


_EXPORTED: dict[str, Any] = {
    "description": "A line for each request, as in the list; JSON Lines have `rawUsage` besides",
    "content": {"application/jsonl": {"schema": {"type": "string"}}, "text/csv": {"schema": {"type": "string"}}},
}


def router(reports: UsageReports, tokens: Tokens, clock: Clock) -> APIRouter:
    routes = APIRouter(prefix="/usage", tags=["usage"])
    caller = Annotated[Principal, Depends(authenticated(tokens))]

    @routes.get(
        "",
        response_model=None,
        responses={200: {"model": ReportAnswer}, **problems(400, 401, 403)},
        openapi_extra=_parameters("groupBy", *Dimension),
    )
    async def report_usage(request: Request, principal: caller) -> Response:
        """Sum up your organization's requests: counts, tokens, cost, latencies. The last 30 days unless told."""
        report = await reports.report(principal, _report_query(request, clock()))
        # Thousands of groups are not written down in the time of requests that run.
        text = await asyncio.to_thread(lambda: orjson.dumps(report_json(report)))
        return Response(text, media_type="application/json")

    @routes.get(
        "/requests",
        response_model=None,
        responses={200: {"model": RequestPage}, **problems(400, 401, 403)},
        openapi_extra=_parameters(*_FILTERS, "limit", "cursor"),
    )
    async def list_requests(request: Request, principal: caller) -> dict[str, Any]:
        """List requests that reached a provider, newest first. `nextCursor` asks for those that follow."""
        query = _row_query(request)
        rows = await reports.rows(principal, query)
        following = _cursor(Place.of(rows[-1])) if len(rows) == query.limit else None
        return {"data": [row_json(row) for row in rows], "pagination": {"limit": query.limit, "nextCursor": following}}

    @routes.get(
        "/requests/{id}",
        response_model=None,
        responses={200: {"model": ExplainedAnswer}, **problems(400, 401, 403, 404)},
    )
    async def explain_request(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002 - one name in every path
        """Explain one request: its phases, where each number comes from, and how its cost came about."""
        return explained_json(await reports.row(principal, checked_id(id, "Request")))

    @routes.get(
        "/export",
        response_class=StreamingResponse,
        responses={200: _EXPORTED, **problems(400, 401, 403)},
        openapi_extra=_parameters(*_FILTERS, "format"),
    )
    async def export_requests(request: Request, principal: caller) -> StreamingResponse:
        """All requests that match, newest first, as CSV or as JSON Lines (`format=csv`, `format=jsonl`)."""
        given = _Given(request, (*_FILTERS, "format"))
        kind = given.choice("format", Format) or Format.JSONL
        rows = reports.every(principal, given.row_query())
        # Before the status line goes out: then an error can still be answered.
        first = await anext(rows, None)
        media_type, lines = ("text/csv", _csv_lines) if kind is Format.CSV else ("application/jsonl", _json_lines)
        return StreamingResponse(
            lines(_from(first, rows)),
            media_type=media_type,
            headers={"content-disposition": f'attachment; filename="aiwm-usage.{kind}"'},
        )

    return routes


# -- what is asked


_SPAN = ("from", "to")
_FILTERS = (*_SPAN, *Dimension, "status", "end", "source", "correlationId")


class _Given:
    """The parameters of a request. All that is wrong with them is told at once."""

    def __init__(self, request: Request, known: Sequence[str]) -> None:
        self._values: dict[str, str] = {}
        self._problems: list[str] = []
        for name, value in request.query_params.multi_items():
            if name not in known:
                self._wrong(name[:100], f"is not a parameter of this; known are {', '.join(known)}")
            elif not value or not value.isprintable() or len(value) > _LONGEST:
                self._wrong(name, f"must be 1 to {_LONGEST} printable characters")
            elif self._values.setdefault(name, value) != value:
                self._wrong(name, "is given twice with different values")

    def _wrong(self, name: str, problem: str) -> None:
        self._problems.append(f"{name}: {problem}")

    def time(self, name: str) -> int | None:
        if name not in self._values:
            return None
        time = parsed(self._values[name])
        if time is None:
            self._wrong(name, "must be a date (2030-01-31) or a time with a zone (2030-01-31T12:00:00Z)")
        return time

    def number(self, name: str, least: int, most: int) -> int | None:
        text = self._values.get(name)
        if text is None:
            return None
        if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
            self._wrong(name, f"must be a whole number from {least} to {most}")
            return None
        return int(text)

    def choice(self, name: str, kind: type[E]) -> E | None:
        text = self._values.get(name)
        if text is None:
            return None
        if text not in list(kind):
            self._wrong(name, f"must be one of {', '.join(kind)}")
            return None
        return kind(text)

    def id(self, name: str) -> str | None:
        text = self._values.get(name)
        if text is not None and not _ID.fullmatch(text):
            self._wrong(name, "must be 24 hexadecimal digits")
        return text and text.lower()

    def place(self) -> Place | None:
        text = self._values.get("cursor")
        if text is None:
            return None
        try:
            started_at, request_id = base64.urlsafe_b64decode(text.encode()).decode("ascii").split(".")
            if not _MILLISECONDS.fullmatch(started_at):
                raise ValueError
            return Place(int(started_at), checked_id(request_id, "Request"))
        except (ValueError, binascii.Error, Invalid):
            self._wrong("cursor", "is not one that this list has given")
            return None

    def groups(self) -> tuple[Sequence[Dimension], Period | None]:
        names = list(dict.fromkeys(self._values["groupBy"].split(","))) if "groupBy" in self._values else []
        if unknown := [name for name in names if name not in {*Dimension, *Period}]:
            known = ", ".join([*Dimension, *Period])
            self._wrong("groupBy", f"{', '.join(unknown)[:100]} is not among {known}, with commas between them")
        periods = [period for period in Period if period in names]
        if len(periods) > 1:
            self._wrong("groupBy", "day and hour exclude each other")
        return [each for each in Dimension if each in names], periods[0] if periods else None

    def equals(self) -> dict[Dimension, str]:
        ids = (Dimension.DEPLOYMENT, Dimension.API_KEY)
        return {
            each: value
            for each in Dimension
            if (value := self.id(each) if each in ids else self._values.get(each)) is not None
        }

    def row_query(self) -> RowQuery:
        filters: dict[str, str | int | None] = {
            **{str(each): value for each, value in self.equals().items()},
            "status": self.number("status", 100, 599),
            "end": self.choice("end", End),
            "source": self.choice("source", Source),
            "correlationId": self._values.get("correlationId"),
        }
        query = RowQuery(
            since=self.time("from"),
            until=self.time("to"),
            equals={name: value for name, value in filters.items() if value is not None},
            limit=self.number("limit", 1, _MOST_ROWS) or _DEFAULT_LIMIT,
            after=self.place(),
        )
        if query.since is not None and query.until is not None:
            self.require_order(query.since, query.until)
        self.require_good()
        return query

    def require_order(self, since: int, until: int) -> None:
        if since >= until:
            self._wrong("from", "must be before to")

    def require_good(self) -> None:
        if self._problems:
            raise Invalid(self._problems)


def _report_query(request: Request, now: int) -> ReportQuery:
    given = _Given(request, (*_SPAN, "groupBy", *Dimension))
    until = given.time("to")
    until = now if until is None else until
    since = given.time("from")
    since = max(0, until - _DEFAULT_SPAN_MS) if since is None else since
    given.require_order(since, until)
    by, period = given.groups()
    query = ReportQuery(span=Span(since=since, until=until), by=by, period=period, equals=given.equals())
    given.require_good()
    return query


def _row_query(request: Request) -> RowQuery:
    return _Given(request, (*_FILTERS, "limit", "cursor")).row_query()


def _cursor(place: Place) -> str:
    return base64.urlsafe_b64encode(f"{place.started_at}.{place.request_id}".encode()).decode()


def _parameters(*names: str) -> dict[str, Any]:
    """For the OpenAPI page."""
    schemas: dict[str, dict[str, Any]] = {
        "groupBy": {"type": "string", "description": f"{', '.join([*Dimension, *Period])}, with commas between them"},
        "status": {"type": "integer", "minimum": 100, "maximum": 599},
        "end": {"type": "string", "enum": list(End)},
        "source": {"type": "string", "enum": list(Source)},
        "limit": {"type": "integer", "minimum": 1, "maximum": _MOST_ROWS, "default": _DEFAULT_LIMIT},
        "format": {"type": "string", "enum": list(Format), "default": Format.JSONL},
    }
    named = dict.fromkeys([*_SPAN, *map(str, names)])
    return {
        "parameters": [{"name": name, "in": "query", "schema": schemas.get(name, {"type": "string"})} for name in named]
    }


# -- what is answered


def report_json(report: Report) -> dict[str, Any]:
    query = report.query
    period = [query.period] if query.period else []
    return {
        "from": iso(report.span.since),
        "to": iso(report.span.until),
        "groupBy": [*query.by, *period],
        "data": [_group_json(group, query.period) for group in report.ordered],
        "totals": sums_json(report.totals),
    }


def _group_json(group: Group, period: Period | None) -> dict[str, Any]:
    start = {} if period is None or group.start is None else {str(period): iso(group.start)}
    return {**{str(name): value for name, value in group.of.items()}, **start, **sums_json(group.sums)}


def sums_json(sums: Sums) -> dict[str, Any]:
    return {
        "requestCount": sums.requests,
        "errorCount": sums.errors,
        "totalTokens": sums.usage.total_tokens,
        **_counts(sums.usage),
        "totalCost": sums.known_cost,
        "unpricedRequests": sums.unpriced,
        "latencyMs": _latency(sums.total, sums.total_ms, sums.requests),
        "firstByteMs": _latency(sums.first_byte, sums.first_byte_ms, sums.first_byte_count),
    }


def _latency(histogram: Histogram, total_ms: int, number: int) -> dict[str, float | None] | None:
    if not number:
        return None
    return {
        "mean": round(total_ms / number, 1),
        "p50": percentile(histogram, 0.5),
        "p95": percentile(histogram, 0.95),
    }


def row_json(row: UsageRow) -> dict[str, Any]:
    return {
        "_id": row.request_id,
        "correlationId": row.correlation_id,
        "deploymentId": row.deployment_id,
        "modelId": row.model_id,
        "userId": row.user_id,
        "apiKeyId": row.api_key_id,
        "provider": row.provider,
        "providerRequestId": row.provider_request_id,
        "modelAsked": row.model_asked,
        "modelAnswered": row.model_answered,
        "serviceTier": row.service_tier,
        "status": row.status,
        "streamed": row.streamed,
        "end": row.end,
        "source": row.source,
        "startedAt": iso(row.started_at),
        "firstByteMs": row.first_byte_ms,
        "totalMs": row.total_ms,
        "totalTokens": row.usage.total_tokens,
        **_counts(row.usage),
        "cost": None if row.cost is None else dollars(row.cost),
    }


def explained_json(row: UsageRow) -> dict[str, Any]:
    """The row, and how it came about."""
    parts = derivation(row)
    raw = None if row.raw_usage is None else orjson.loads(row.raw_usage)
    numbers = {
        _camel(name): {
            "value": getattr(row.usage, name),
            "from": [{"said": part.said, "number": part.number} for part in parts.get(name, ())],
        }
        for name in Usage.__struct_fields__
        if getattr(row.usage, name) or name in parts
    }
    lines = [
        {
            "of": _camel(charge.count),
            "number": charge.number,
            "rate": float(charge.rate),
            "per": charge.per,
            "cost": float(charge.cost),
        }
        for charge in charges(row.usage, row.price)
        if charge.number
    ]
    price = dict(price_of(row.price)) if row.price else None
    return row_json(row) | {
        "phases": _phases(row),
        "numbers": numbers,
        "rawUsage": raw,
        "costLines": lines,
        "price": price,
    }


def _phases(row: UsageRow) -> Sequence[Mapping[str, Any]]:
    """Until the head of the provider's answer came, and from there until all was over."""
    ended = row.started_at + row.total_ms
    if row.first_byte_ms is None:
        return [_phase("waiting", row.started_at, ended)]
    first_byte = row.started_at + row.first_byte_ms
    return [_phase("waiting", row.started_at, first_byte), _phase("answering", first_byte, max(first_byte, ended))]


def _phase(name: str, since: int, until: int) -> Mapping[str, Any]:
    return {"name": name, "from": iso(since), "to": iso(until), "ms": until - since}


def _counts(usage: Usage) -> dict[str, int]:
    return {_camel(name): getattr(usage, name) for name in Usage.__struct_fields__}


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)


# -- exports


async def _from(first: UsageRow | None, rest: AsyncIterator[UsageRow]) -> AsyncIterator[UsageRow]:
    if first is not None:
        yield first
        async for row in rest:
            yield row


async def _json_lines(rows: AsyncIterator[UsageRow]) -> AsyncIterator[bytes]:
    async for some in _several(rows):
        yield b"".join(orjson.dumps(_whole_json(row), option=orjson.OPT_APPEND_NEWLINE) for row in some)


def _whole_json(row: UsageRow) -> dict[str, Any]:
    return row_json(row) | {"rawUsage": None if row.raw_usage is None else orjson.Fragment(row.raw_usage)}


async def _csv_lines(rows: AsyncIterator[UsageRow]) -> AsyncIterator[bytes]:
    names: Sequence[str] | None = None
    async for some in _several(rows):
        shown = [row_json(row) for row in some]
        text = io.StringIO()
        writer = csv.writer(text)
        if names is None:
            names = list(shown[0])
            writer.writerow(names)
        writer.writerows([_cell(each[name]) for name in names] for each in shown)
        yield text.getvalue().encode()


def _cell(value: object) -> object:
    """Names that callers choose must not become formulas in somebody's spreadsheet."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    if isinstance(value, float):
        return f"{value:.12f}".rstrip("0").rstrip(".")
    return value


async def _several(rows: AsyncIterator[UsageRow]) -> AsyncIterator[Sequence[UsageRow]]:
    some: list[UsageRow] = []
    async for row in rows:
        some.append(row)
        if len(some) == _LINES_AT_ONCE:
            yield some
            some = []
    if some:
        yield some
