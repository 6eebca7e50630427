"""Deployments in the database, read with the totals of their ledger rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Row, and_, func, insert, select, update

from aiwm.domain.audit import AuditEntry
from aiwm.domain.deployments import USING_ITS_MODEL, Deployment, DeploymentStatus, OnDisconnect, StreamUsage, Totals
from aiwm.domain.models import ModelStatus
from aiwm.domain.nodes import Need, Placement
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.users import Principal
from aiwm.store.audit import record
from aiwm.store.connection import AsyncConnection
from aiwm.store.database import Database
from aiwm.store.lists import matching, page
from aiwm.store.tables import deployment_totals, deployments, models

# One source with the columns of both tables: a page is one query, and a deployment is never read without its totals.
_with_totals = (
    select(
        deployments,
        models.c.deployment_type,
        models.c.provider,
        models.c.type,
        func.coalesce(deployment_totals.c.requests, 0).label("requests"),
        func.coalesce(deployment_totals.c.tokens, 0).label("tokens"),
        func.coalesce(deployment_totals.c.cost, 0).label("cost"),
        func.coalesce(deployment_totals.c.unpriced, 0).label("unpriced"),
    )
    .join(models, models.c.id == deployments.c.model_id)
    .outerjoin(deployment_totals, deployment_totals.c.deployment_id == deployments.c.id)
    .where(deployments.c.deleted_at.is_(None))
    .subquery()
)

_NAMES = tuple(column.name for column in deployments.c if column.name != "deleted_at")

FIELDS = {
    "status": _with_totals.c.status,
    "type": _with_totals.c.type,
    "provider": _with_totals.c.provider,
    "deploymentType": _with_totals.c.deployment_type,
    "modelId": _with_totals.c.model_id,
}
"""API name -> column: what a list can be filtered by. Type, provider and deploymentType are the model's."""

SORTABLE = {
    "createdAt": _with_totals.c.created_at,
    "updatedAt": _with_totals.c.updated_at,
    "name": _with_totals.c.name,
    "status": _with_totals.c.status,
    "requestCount": _with_totals.c.requests,
    "totalTokens": _with_totals.c.tokens,
    "totalCost": _with_totals.c.cost,
}

COUNTED = {"status": _with_totals.c.status, "type": _with_totals.c.type}


class DeploymentStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, deployment: Deployment, *, entry: AuditEntry | None = None) -> ModelStatus | None:
        """Adds it if its model is active; else changes nothing and answers the model's status, None when it is gone."""
        async with self._database.writing() as connection:
            status = await connection.scalar(_locked_model(deployment.model_id))
            if status != ModelStatus.ACTIVE:
                return status and ModelStatus(status)
            await connection.execute(insert(deployments).values(_columns(deployment)))
            await record(connection, entry)
        return ModelStatus.ACTIVE

    async def get(self, principal: Principal, deployment_id: str) -> Deployment | None:
        return await self._one(_with_totals.c.id == deployment_id, _visible(principal))

    async def by_id(self, deployment_id: str) -> Deployment | None:
        """Whoever asks; only for building targets."""
        return await self._one(_with_totals.c.id == deployment_id)

    async def list(self, principal: Principal, query: PageQuery) -> Page[Deployment]:
        where = and_(
            _visible(principal),
            *matching(query, FIELDS, searched=(_with_totals.c.name, _with_totals.c.description)),
        )
        async with self._database.reading() as connection:
            return await page(connection, _with_totals, where, query, SORTABLE, COUNTED, _deployment)

    async def all(self) -> Sequence[Deployment]:
        """Of all organizations: to build targets from."""
        async with self._database.reading() as connection:
            return [_deployment(row) for row in await connection.execute(select(_with_totals))]

    async def placed(self, node_id: str) -> Sequence[Deployment]:
        """What takes a place on a node, of all organizations: it runs, is about to, or is about to end."""
        where = (_with_totals.c.node_id == node_id, _with_totals.c.status.in_(USING_ITS_MODEL))
        async with self._database.reading() as connection:
            return [_deployment(row) for row in await connection.execute(select(_with_totals).where(*where))]

    async def kept_by(
        self, node_id: str, statuses: Collection[DeploymentStatus] = USING_ITS_MODEL
    ) -> Sequence[Deployment]:
        """What the AIWM of this machine looks after, here or on a cluster."""
        where = (_with_totals.c.keeper_id == node_id, _with_totals.c.status.in_(statuses))
        async with self._database.reading() as connection:
            return [_deployment(row) for row in await connection.execute(select(_with_totals).where(*where))]

    async def kept_by_others(self, node_id: str) -> Sequence[Deployment]:
        """What the AIWMs of all machines but this one look after."""
        where = (_with_totals.c.keeper_id != node_id, _with_totals.c.status.in_(USING_ITS_MODEL))
        async with self._database.reading() as connection:
            return [_deployment(row) for row in await connection.execute(select(_with_totals).where(*where))]

    async def of_resource(self, resource_id: str) -> Sequence[str]:
        """The names of those that take a place in a resource."""
        where = (_with_totals.c.resource_id == resource_id, _with_totals.c.status.in_(USING_ITS_MODEL))
        async with self._database.reading() as connection:
            return list(await connection.scalars(select(_with_totals.c.name).where(*where)))

    async def of_model(self, model_id: str) -> Sequence[Deployment]:
        async with self._database.reading() as connection:
            rows = await connection.execute(select(_with_totals).where(_with_totals.c.model_id == model_id))
            return [_deployment(row) for row in rows]

    async def change(
        self,
        before: Deployment,
        after: Deployment,
        *,
        deleted_at: int | None = None,
        entry: AuditEntry | None = None,
    ) -> bool:
        """Writes `after`, unless somebody else changed the deployment since `before` was read: then False."""
        async with self._database.writing() as connection:
            return await _change(connection, before, after, deleted_at, entry)

    async def start(
        self, before: Deployment, after: Deployment, *, entry: AuditEntry | None = None
    ) -> ModelStatus | bool | None:
        """Like `change`, if the model is active; else the model's status, None when it is gone."""
        async with self._database.writing() as connection:
            status = await connection.scalar(_locked_model(before.model_id))
            if status != ModelStatus.ACTIVE:
                return status and ModelStatus(status)
            return await _change(connection, before, after, None, entry)

    async def _one(self, *where: ColumnElement[bool]) -> Deployment | None:
        async with self._database.reading() as connection:
            row = (await connection.execute(select(_with_totals).where(*where))).one_or_none()
            return None if row is None else _deployment(row)


def _visible(principal: Principal) -> ColumnElement[bool]:
    """Its organization's; for an API key that is limited, those that it is for."""
    own = _with_totals.c.org_id == principal.org_id
    return own if principal.deployments is None else and_(own, _with_totals.c.id.in_(principal.deployments))


def _locked_model(model_id: str) -> Any:
    """The model's status; until the transaction ends nobody can deactivate or delete it (`ModelStore.retire` waits)."""
    return (
        select(models.c.status).where(models.c.id == model_id, models.c.deleted_at.is_(None)).with_for_update(read=True)
    )


async def _change(
    connection: AsyncConnection,
    before: Deployment,
    after: Deployment,
    deleted_at: int | None,
    entry: AuditEntry | None,
) -> bool:
    result = await connection.execute(
        update(deployments)
        .where(
            deployments.c.id == before.id,
            deployments.c.deleted_at.is_(None),
            deployments.c.status == before.status,
            deployments.c.updated_at == before.updated_at,
        )
        .values(**_columns(after), deleted_at=deleted_at)
    )
    if result.rowcount != 1:
        return False
    await record(connection, entry)
    return True


def _columns(deployment: Deployment) -> dict[str, Any]:
    columns = {name: getattr(deployment, name) for name in _NAMES}
    allowed = deployment.allowed_models
    return columns | {
        "allowed_models": None if allowed is None else orjson.dumps(allowed).decode(),
        "arguments": orjson.dumps(deployment.arguments).decode(),
        "placement": None if deployment.placement is None else orjson.dumps(deployment.placement).decode(),
    }


def _deployment(row: Row[Any]) -> Deployment:
    # By place: half the time of asking the row for each name, and a start reads all rows.
    found = dict(zip(row._fields, row, strict=True))
    values = {name: found[name] for name in _NAMES}
    allowed = row.allowed_models
    values |= {
        "status": DeploymentStatus(row.status),
        "stream_usage": StreamUsage(row.stream_usage),
        "on_disconnect": OnDisconnect(row.on_disconnect),
        "allowed_models": None if allowed is None else tuple(orjson.loads(allowed)),
        "arguments": orjson.loads(row.arguments),
        "placement": None if row.placement is None else _placement(row.placement),
        "totals": Totals(requests=row.requests, tokens=int(row.tokens), cost=int(row.cost), unpriced=row.unpriced),
    }
    return Deployment(**values)


def _placement(text: str) -> Placement:
    given = orjson.loads(text)
    return Placement(**given | {"need": Need(**given["need"]), "gpus": tuple(given["gpus"])})
