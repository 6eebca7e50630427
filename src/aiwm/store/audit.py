"""The audit log in the database. An entry is written in the transaction of the change that it tells of."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import ColumnElement, Row, and_, insert, or_, true

from aiwm.domain.audit import AuditEntry
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.users import Principal
from aiwm.store.connection import AsyncConnection
from aiwm.store.database import Database
from aiwm.store.lists import matching, page
from aiwm.store.tables import audit

FIELDS = {
    "action": audit.c.action,
    "objectType": audit.c.object_type,
    "objectId": audit.c.object_id,
    "userId": audit.c.user_id,
    "username": audit.c.username,
    "orgId": audit.c.org_id,
    "correlationId": audit.c.correlation_id,
}
"""API name -> column: what the log can be filtered by."""

SORTABLE = {"createdAt": audit.c.created_at}

COUNTED = {"action": audit.c.action}


class AuditStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entry: AuditEntry) -> None:
        """For what is no change in the database."""
        async with self._database.writing() as connection:
            await record(connection, entry)

    async def list(
        self, principal: Principal, query: PageQuery, *, since: int | None = None, until: int | None = None
    ) -> Page[AuditEntry]:
        """Of the time from `since` to before `until`."""
        where = and_(
            _visible(principal),
            true() if since is None else audit.c.created_at >= since,
            true() if until is None else audit.c.created_at < until,
            *matching(query, FIELDS, searched=(audit.c.object_name, audit.c.username)),
        )
        async with self._database.reading() as connection:
            return await page(connection, audit, where, query, SORTABLE, COUNTED, _entry)


async def record(connection: AsyncConnection, *entries: AuditEntry | None) -> None:
    """Writes them down, if the change that they tell of is done. None is a change of the program's own."""
    if rows := [_columns(entry) for entry in entries if entry is not None]:
        await connection.execute(insert(audit), rows)


def _visible(principal: Principal) -> ColumnElement[bool]:
    """What was changed in the organization; for an operator also what its members changed in others, and what is of no
    organization."""
    here = audit.c.org_id == principal.org_id
    if not principal.is_universe_owner:
        return here
    return or_(here, audit.c.user_org_id == principal.org_id, audit.c.org_id == "")


def _columns(entry: AuditEntry) -> dict[str, Any]:
    columns = {name: getattr(entry, name) for name in AuditEntry.__slots__}
    told = {name: columns[name] for name in ("before", "after")}
    return columns | {name: None if value is None else orjson.dumps(value).decode() for name, value in told.items()}


def _entry(row: Row[Any]) -> AuditEntry:
    values = {name: row._mapping[name] for name in AuditEntry.__slots__}
    told = {name: values[name] for name in ("before", "after")}
    return AuditEntry(**values | {name: None if text is None else orjson.loads(text) for name, text in told.items()})
