"""API keys over HTTP: for the owners of an organization."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import AwareDatetime, BeforeValidator, Field

from aiwm.control.api_keys import ApiKeys, NewApiKey
from aiwm.domain import times
from aiwm.domain.api_keys import ApiKey
from aiwm.domain.ids import checked_id
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Principal
from aiwm.store.api_keys import FIELDS, SORTABLE
from aiwm.web.lists import page_json, page_query, parameters
from aiwm.web.principals import Tokens, authenticated
from aiwm.web.schemas import Answer, Body, Deleted, Id, Name, deleted, history, problems

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")


def _date(value: object) -> object:
    # Pydantic would also take a number for seconds, or milliseconds, whichever looks likelier.
    if value is not None and not (isinstance(value, str) and _DATE.match(value)):
        raise ValueError("must be a date and time with a zone, such as 2030-01-31T12:00:00Z")
    return value


_Time = Annotated[AwareDatetime, BeforeValidator(_date)]


class NewApiKeyBody(Body):
    name: Name
    deployments: Annotated[list[Id], Field(min_length=1, max_length=100)] | None = None
    """Deployments that the key may call. Without it: all of the organization, also later ones."""
    expires_at: _Time | None = None
    """When it ceases to be good. Without it: when it is revoked."""


class ApiKeyAnswer(Answer):
    id: str = Field(alias="_id")
    name: str
    api_key: str
    """Whole in the answer that made it, and masked ever after."""
    deployments: list[str] | None = None
    expires_at: str | None = None
    last_used_at: str | None = None
    owner: dict[str, str]
    created_by: str
    updated_by: str
    created_at: str
    updated_at: str


class ApiKeyPage(Answer):
    data: list[ApiKeyAnswer]
    pagination: dict[str, int]
    statistics: dict[str, Any]


def router(api_keys: ApiKeys, tokens: Tokens) -> APIRouter:
    routes = APIRouter(prefix="/api-keys", tags=["API keys"])
    listed = {"fields": tuple(FIELDS), "sortable": tuple(SORTABLE)}
    caller = Annotated[Principal, Depends(authenticated(tokens))]

    @routes.post(
        "", response_model=None, status_code=201, responses={201: {"model": ApiKeyAnswer}, **problems(400, 401, 403)}
    )
    async def create_api_key(body: NewApiKeyBody, principal: caller, response: Response) -> dict[str, Any]:
        """Make a key for a program. Keep `apiKey` of the answer: it is shown this once."""
        # Nothing in between may keep an answer with a secret.
        response.headers["cache-control"] = "no-store"
        limited, expires_at = body.deployments, body.expires_at
        new = NewApiKey(
            name=body.name,
            deployments=None if limited is None else tuple(limited),
            expires_at=None if expires_at is None else (expires_at - _EPOCH) // timedelta(milliseconds=1),
        )
        key, secret = await api_keys.create(principal, new)
        return api_key_json(key) | {"apiKey": secret}

    @routes.get(
        "",
        response_model=None,
        responses={200: {"model": ApiKeyPage}, **problems(400, 401, 403)},
        openapi_extra=parameters(**listed),
    )
    async def list_api_keys(
        principal: caller, query: Annotated[PageQuery, Depends(page_query(**listed))]
    ) -> dict[str, Any]:
        """List your organization's keys, newest first."""
        return page_json(query, await api_keys.list(principal, query), api_key_json)

    @routes.get("/{id}", response_model=None, responses={200: {"model": ApiKeyAnswer}, **problems(400, 401, 403, 404)})
    async def get_api_key(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002 - one name in every path
        """Get a key: what it is for, and when it was used last."""
        return api_key_json(await api_keys.get(principal, checked_id(id, "API key")))

    @routes.delete("/{id}", response_model=None, responses={200: {"model": Deleted}, **problems(400, 401, 403, 404)})
    async def revoke_api_key(id: str, principal: caller) -> dict[str, str]:  # noqa: A002
        """Revoke a key: nobody gets in with it any more."""
        key_id = checked_id(id, "API key")
        return deleted(key_id, await api_keys.revoke(principal, key_id))

    return routes


def api_key_json(key: ApiKey) -> dict[str, Any]:
    shown: dict[str, Any] = {"_id": key.id, "name": key.name, "apiKey": key.masked}
    optional = {
        "deployments": None if key.deployments is None else list(key.deployments),
        "expiresAt": None if key.expires_at is None else times.iso(key.expires_at),
        "lastUsedAt": None if key.last_used_at is None else times.iso(key.last_used_at),
    }
    shown |= {name: value for name, value in optional.items() if value is not None}
    return {**shown, "owner": {"orgId": key.org_id, "userId": key.user_id}, **history(key)}
