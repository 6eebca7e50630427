"""Limits in the database, and what was spent under them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, func, insert, select, update

from aiwm.domain.audit import AuditEntry
from aiwm.domain.costs import Picodollars
from aiwm.domain.limits import Budget, Limit, Per, Subject, SubjectType
from aiwm.domain.pages import Page, PageQuery
from aiwm.store.audit import record
from aiwm.store.connection import AsyncConnection
from aiwm.store.database import Database
from aiwm.store.lists import matching, page
from aiwm.store.sums import fold_all
from aiwm.store.tables import api_keys, deployments, limits, usage_series, usage_sums

FIELDS = {"subjectType": limits.c.subject_type, "subjectId": limits.c.subject_id}
"""API name -> column: what a list can be filtered by."""

SORTABLE = {"createdAt": limits.c.created_at, "updatedAt": limits.c.updated_at}

_TABLES = {SubjectType.API_KEY: api_keys, SubjectType.DEPLOYMENT: deployments}
"""Where subjects are; users may be another IAM's."""
_OF = {
    SubjectType.API_KEY: usage_series.c.api_key_id,
    SubjectType.USER: usage_series.c.user_id,
    SubjectType.DEPLOYMENT: usage_series.c.deployment_id,
    SubjectType.ORGANIZATION: usage_series.c.org_id,
}
_SAME = ("id", "org_id", "requests_per_minute", "tokens_per_minute", "concurrent_requests", "created_by", "updated_by",
         "created_at", "updated_at")  # fmt: skip
"""Columns that are fields of a `Limit`."""


class LimitStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, limit: Limit, *, entry: AuditEntry | None = None) -> bool:
        """False, and nothing done, when its subject is not there."""
        async with self._database.writing() as connection:
            if not await _is_there(connection, limit):
                return False
            await connection.execute(insert(limits).values(_columns(limit)))
            await record(connection, entry)
            return True

    async def get(self, org_id: str, limit_id: str) -> Limit | None:
        where = (limits.c.id == limit_id, limits.c.org_id == org_id, limits.c.deleted_at.is_(None))
        async with self._database.reading() as connection:
            row = (await connection.execute(select(limits).where(*where))).one_or_none()
            return None if row is None else _limit(row)

    async def list(self, org_id: str, query: PageQuery) -> Page[Limit]:
        where = and_(
            limits.c.org_id == org_id,
            limits.c.deleted_at.is_(None),
            *matching(query, FIELDS, searched=(limits.c.subject_id,)),
        )
        async with self._database.reading() as connection:
            return await page(connection, limits, where, query, SORTABLE, {}, _limit)

    async def all(self) -> Sequence[Limit]:
        """Of all organizations: to count by."""
        async with self._database.reading() as connection:
            rows = await connection.execute(select(limits).where(limits.c.deleted_at.is_(None)))
            return [_limit(row) for row in rows]

    async def change(
        self, before: Limit, after: Limit, *, deleted_at: int | None = None, entry: AuditEntry | None = None
    ) -> bool:
        """Writes `after`, unless somebody else changed the limit since `before` was read: then False."""
        async with self._database.writing() as connection:
            written = await connection.execute(
                update(limits)
                .where(
                    limits.c.id == before.id,
                    limits.c.deleted_at.is_(None),
                    limits.c.updated_at == before.updated_at,
                )
                .values(**_columns(after), deleted_at=deleted_at)
            )
            if written.rowcount != 1:
                return False
            await record(connection, entry)
            return True

    async def spent(self, limit: Limit, since: int) -> Picodollars:
        """What requests of the limit's subject have cost by the ledger, from a day's beginning on."""
        cost = (
            select(func.coalesce(func.sum(usage_sums.c.cost), 0))
            .join(usage_series, usage_series.c.id == usage_sums.c.series_id)
            .where(
                usage_series.c.org_id == limit.org_id,
                _OF[limit.subject.type] == limit.subject.id,
                usage_sums.c.hours == 24,
                usage_sums.c.start >= since,
            )
        )
        await fold_all(self._database)
        async with self._database.reading() as connection:
            return int(await connection.scalar(cost) or 0)


async def _is_there(connection: AsyncConnection, limit: Limit) -> bool:
    table = _TABLES.get(limit.subject.type)
    if table is None:
        return True
    where = (table.c.id == limit.subject.id, table.c.org_id == limit.org_id, table.c.deleted_at.is_(None))
    return await connection.scalar(select(table.c.id).where(*where)) is not None


def _columns(limit: Limit) -> dict[str, Any]:
    budget = limit.budget
    return {name: getattr(limit, name) for name in _SAME} | {
        "subject_type": limit.subject.type,
        "subject_id": limit.subject.id,
        "budget": None if budget is None else budget.most,
        "budget_per": None if budget is None else budget.per,
    }


def _limit(row: Row[Any]) -> Limit:
    return Limit(
        **{name: row._mapping[name] for name in _SAME},
        subject=Subject(SubjectType(row.subject_type), row.subject_id),
        budget=None if row.budget is None else Budget(row.budget, Per(row.budget_per)),
    )
