"""The audit log over HTTP: for the owners of an organization, to be read only."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from aiwm.domain import times
from aiwm.domain.audit import AuditEntry
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Principal, Role
from aiwm.errors import Invalid
from aiwm.store.audit import FIELDS, SORTABLE, AuditStore
from aiwm.web.lists import page_json, page_query, parameters
from aiwm.web.principals import Tokens, authenticated
from aiwm.web.schemas import Answer, problems

_TIMES = ("from", "to")


class Actor(Answer):
    id: str = Field(alias="_id")
    username: str
    org_id: str


class AuditAnswer(Answer):
    id: str = Field(alias="_id")
    action: str
    object_type: str
    object_id: str
    object_name: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    """Of a change only what differs. Secrets are masked, of passwords nothing is told."""
    user: Actor
    org_id: str
    acting_for: str | None = None
    """The organization, when the user belongs to another one."""
    correlation_id: str
    created_at: str


class AuditPage(Answer):
    data: list[AuditAnswer]
    pagination: dict[str, int]
    statistics: dict[str, Any]


def router(audit: AuditStore, tokens: Tokens) -> APIRouter:
    routes = APIRouter(prefix="/audit", tags=["audit"])
    listed = {"fields": (*FIELDS, *_TIMES), "sortable": tuple(SORTABLE)}
    caller = Annotated[Principal, Depends(authenticated(tokens))]

    @routes.get(
        "",
        response_model=None,
        responses={200: {"model": AuditPage}, **problems(400, 401, 403)},
        openapi_extra=parameters(**listed),
    )
    async def list_audit(
        principal: caller, query: Annotated[PageQuery, Depends(page_query(**listed))]
    ) -> dict[str, Any]:
        """List who changed what in your organization, newest first; `from` and `to` are times or days, UTC."""
        principal.require(Role.OWNER)
        since, until = (_time(query, name) for name in _TIMES)
        query = replace(query, equals={name: value for name, value in query.equals.items() if name not in _TIMES})
        return page_json(query, await audit.list(principal, query, since=since, until=until), audit_json)

    return routes


def _time(query: PageQuery, name: str) -> int | None:
    text = query.equals.get(name)
    time = None if text is None else times.parsed(text)
    if text is not None and time is None:
        raise Invalid([f"{name}: must be a date (2030-01-31) or a time with a zone (2030-01-31T12:00:00Z)"])
    return time


def audit_json(entry: AuditEntry) -> dict[str, Any]:
    elsewhere = {"actingFor": entry.org_id} if entry.org_id != entry.user_org_id else {}
    return {
        "_id": entry.id,
        "action": entry.action,
        "objectType": entry.object_type,
        "objectId": entry.object_id,
        "objectName": entry.object_name,
        "before": entry.before,
        "after": entry.after,
        "user": {"_id": entry.user_id, "username": entry.username, "orgId": entry.user_org_id},
        "orgId": entry.org_id,
        **elsewhere,
        "correlationId": entry.correlation_id,
        "createdAt": times.iso(entry.created_at),
    }
