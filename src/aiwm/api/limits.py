"""Limits over HTTP: for the owners of an organization."""

from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from aiwm.control.limits import Limits, NewLimit
from aiwm.domain import limits as rules
from aiwm.domain.costs import dollars
from aiwm.domain.ids import checked_id
from aiwm.domain.limits import Limit, Per, Standing, Subject, SubjectType
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Principal
from aiwm.store.limits import FIELDS, SORTABLE
from aiwm.web.lists import page_json, page_query, parameters
from aiwm.web.principals import Tokens, authenticated
from aiwm.web.schemas import Answer, Body, Deleted, Line, changes, deleted, history, problems

_DOLLAR = 10**12
_MOST_DOLLARS = rules.MOST_BUDGET // _DOLLAR
_DECIMALS = 6
_NULLABLE = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "budget")


def _whole(value: object) -> object:
    # Pydantic would also take "5", 5.0 and true.
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError("must be a whole number")


def _number(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError("must be a number, in USD")


def _visible(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


_Number = Annotated[int, Field(ge=1, le=1_000_000_000)]
_Count = Annotated[_Number | None, BeforeValidator(_whole)]
_Usd = Annotated[Decimal, BeforeValidator(_number), Field(gt=0, le=_MOST_DOLLARS, decimal_places=_DECIMALS)]


class LimitSubject(Body):
    type: SubjectType
    id: Annotated[Line, Field(min_length=1, max_length=255), AfterValidator(_visible)]
    """Of an API key or a deployment of the organization, of a user (as tokens have it), or the organization's own."""


class LimitBudget(Body):
    usd: _Usd
    per: Per
    """In UTC."""

    @property
    def budget(self) -> rules.Budget:
        return rules.Budget(int(self.usd * _DOLLAR), self.per)


class _Numbers(Body):
    requests_per_minute: _Count = None
    tokens_per_minute: _Count = None
    """Read and written together."""
    concurrent_requests: _Count = None
    budget: LimitBudget | None = None


class NewLimitBody(_Numbers):
    """At least one of the numbers."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "subject": {"type": "apiKey", "id": "67a1b2c3d4e5f6a7b8c9d0e1"},
                "requestsPerMinute": 600,
                "budget": {"usd": 25, "per": "day"},
            }
        }
    )

    subject: LimitSubject


class LimitChange(_Numbers):
    """What is null does not limit any more."""


class LimitAnswer(Answer):
    id: str = Field(alias="_id")
    subject: dict[str, str]
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    budget: dict[str, Any] | None = None
    now: dict[str, Any]
    """How much is taken at this moment, as this AIWM counts."""
    org_id: str
    created_by: str
    updated_by: str
    created_at: str
    updated_at: str


class LimitPage(Answer):
    data: list[LimitAnswer]
    pagination: dict[str, int]
    statistics: dict[str, Any]


def router(limits: Limits, tokens: Tokens) -> APIRouter:
    routes = APIRouter(prefix="/limits", tags=["limits"])
    listed: dict[str, Any] = {"fields": tuple(FIELDS), "sortable": tuple(SORTABLE)}
    caller = Annotated[Principal, Depends(authenticated(tokens))]

    async def shown(limit: Limit) -> dict[str, Any]:
        return limit_json(limit, await limits.standing(limit))

    @routes.post(
        "", response_model=None, status_code=201, responses={201: {"model": LimitAnswer}, **problems(400, 401, 403)}
    )
    async def create_limit(body: NewLimitBody, principal: caller) -> dict[str, Any]:
        """Limit an API key, a user, a deployment or your organization; it holds for requests that come after this."""
        new = NewLimit(
            subject=Subject(body.subject.type, body.subject.id),
            requests_per_minute=body.requests_per_minute,
            tokens_per_minute=body.tokens_per_minute,
            concurrent_requests=body.concurrent_requests,
            budget=None if body.budget is None else body.budget.budget,
        )
        return await shown(await limits.create(principal, new))

    @routes.get(
        "",
        response_model=None,
        responses={200: {"model": LimitPage}, **problems(400, 401, 403)},
        openapi_extra=parameters(**listed),
    )
    async def list_limits(
        principal: caller, query: Annotated[PageQuery, Depends(page_query(**listed))]
    ) -> dict[str, Any]:
        """List your organization's limits, newest first."""
        page = await limits.list(principal, query)
        standings = {limit.id: await limits.standing(limit) for limit in page.items}
        return page_json(query, page, lambda limit: limit_json(limit, standings[limit.id]))

    @routes.get("/{id}", response_model=None, responses={200: {"model": LimitAnswer}, **problems(400, 401, 403, 404)})
    async def get_limit(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002 - one name in every path
        """Get a limit, and how much of it is taken."""
        return await shown(await limits.get(principal, checked_id(id, "Limit")))

    @routes.put(
        "/{id}", response_model=None, responses={200: {"model": LimitAnswer}, **problems(400, 401, 403, 404, 409)}
    )
    async def change_limit(id: str, body: LimitChange, principal: caller) -> dict[str, Any]:  # noqa: A002
        """Change a limit; what is counted goes on."""
        given = changes(body, nullable=_NULLABLE)
        if body.budget is not None:
            given["budget"] = body.budget.budget
        return await shown(await limits.change(principal, checked_id(id, "Limit"), given))

    @routes.delete(
        "/{id}", response_model=None, responses={200: {"model": Deleted}, **problems(400, 401, 403, 404, 409)}
    )
    async def delete_limit(id: str, principal: caller) -> dict[str, str]:  # noqa: A002
        """Delete a limit: it holds no more."""
        limit_id = checked_id(id, "Limit")
        return deleted(limit_id, await limits.delete(principal, limit_id))

    return routes


def limit_json(limit: Limit, standing: Standing) -> dict[str, Any]:
    budget = limit.budget
    given = {
        "requestsPerMinute": limit.requests_per_minute,
        "tokensPerMinute": limit.tokens_per_minute,
        "concurrentRequests": limit.concurrent_requests,
        "budget": None if budget is None else {"usd": dollars(budget.most), "per": budget.per},
    }
    taken: dict[str, Any] = {
        "requests": standing.requests,
        "tokens": standing.tokens,
        "concurrentRequests": standing.concurrent,
    }
    if budget is not None:
        taken |= {"spentUsd": dollars(standing.spent), "reservedUsd": dollars(standing.reserved)}
    return {
        "_id": limit.id,
        "subject": {"type": limit.subject.type, "id": limit.subject.id},
        **{name: value for name, value in given.items() if value is not None},
        "now": taken,
        "orgId": limit.org_id,
        **history(limit),
    }
