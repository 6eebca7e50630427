"""Nodes and resources in the database. A node is everybody's to see; a resource is its organization's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Row, and_, insert, select, true, update

from aiwm.domain.audit import AuditEntry
from aiwm.domain.nodes import Facts, Gpu, GpuReading, Node, NodeStatus, Readings, Resource
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.users import Principal
from aiwm.store.audit import record
from aiwm.store.database import Database
from aiwm.store.lists import matching, page
from aiwm.store.tables import nodes, resources

NODE_SORTABLE = {"createdAt": nodes.c.created_at, "name": nodes.c.name}
NODE_FIELDS = {"kind": nodes.c.kind}

RESOURCE_SORTABLE = {
    "createdAt": resources.c.created_at,
    "updatedAt": resources.c.updated_at,
    "name": resources.c.name,
}
RESOURCE_FIELDS = {"nodeId": resources.c.node_id, "type": resources.c.type}


class NodeStore:
    """`seen_since`: a node that was not seen since then is offline."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def is_shared(self) -> bool:
        """Whether anybody else looks."""
        return self._database.is_shared

    async def save(self, node: Node) -> None:
        """Adds it, or writes what is new about it."""
        values = {
            "kind": node.kind,
            "name": node.name,
            "facts": orjson.dumps(node.facts).decode(),
            "readings": orjson.dumps(node.readings).decode(),
            "seen_at": node.seen_at,
        }
        async with self._database.writing() as connection:
            changed = await connection.execute(update(nodes).where(nodes.c.id == node.id).values(values))
            if not changed.rowcount:
                added = {"id": node.id, "created_at": node.created_at}
                await connection.execute(insert(nodes).values(values | added))

    async def get(self, node_id: str, *, seen_since: int) -> Node | None:
        async with self._database.reading() as connection:
            row = (await connection.execute(select(nodes).where(nodes.c.id == node_id))).one_or_none()
            return None if row is None else _node(row, seen_since)

    async def seen(self) -> Mapping[str, tuple[str, int]]:
        """Of each machine its name, and when it reported last by its own clock."""
        columns = (nodes.c.id, nodes.c.name, nodes.c.seen_at)
        async with self._database.reading() as connection:
            found = await connection.execute(select(*columns).where(nodes.c.kind == "machine"))
            return {row.id: (row.name, row.seen_at) for row in found}

    async def list(self, query: PageQuery, *, seen_since: int) -> Page[Node]:
        where = and_(true(), *matching(query, NODE_FIELDS, searched=(nodes.c.name,)))
        async with self._database.reading() as connection:
            return await page(
                connection, nodes, where, query, NODE_SORTABLE, NODE_FIELDS, lambda row: _node(row, seen_since)
            )


class ResourceStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, resource: Resource, *, entry: AuditEntry) -> None:
        async with self._database.writing() as connection:
            await connection.execute(insert(resources).values(_columns(resource)))
            await record(connection, entry)

    async def get(self, principal: Principal, resource_id: str) -> Resource | None:
        where = (
            resources.c.id == resource_id,
            resources.c.org_id == principal.org_id,
            resources.c.deleted_at.is_(None),
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(select(resources).where(*where))).one_or_none()
            return None if row is None else _resource(row)

    async def list(self, principal: Principal, query: PageQuery) -> Page[Resource]:
        where = and_(
            resources.c.org_id == principal.org_id,
            resources.c.deleted_at.is_(None),
            *matching(query, RESOURCE_FIELDS, searched=(resources.c.name,)),
        )
        async with self._database.reading() as connection:
            return await page(connection, resources, where, query, RESOURCE_SORTABLE, RESOURCE_FIELDS, _resource)

    async def change(
        self, before: Resource, after: Resource, *, deleted_at: int | None = None, entry: AuditEntry
    ) -> bool:
        """Writes `after`, unless somebody else changed the resource since `before` was read: then False."""
        async with self._database.writing() as connection:
            result = await connection.execute(
                update(resources)
                .where(
                    resources.c.id == before.id,
                    resources.c.deleted_at.is_(None),
                    resources.c.updated_at == before.updated_at,
                )
                .values(**_columns(after), deleted_at=deleted_at)
            )
            if result.rowcount != 1:
                return False
            await record(connection, entry)
            return True


def _node(row: Row[Any], seen_since: int) -> Node:
    facts, readings = orjson.loads(row.facts), orjson.loads(row.readings)
    return Node(
        id=row.id,
        kind=row.kind,
        name=row.name,
        status=NodeStatus.ONLINE if row.seen_at >= seen_since else NodeStatus.OFFLINE,
        facts=Facts(**facts | {"gpus": tuple(Gpu(**gpu) for gpu in facts["gpus"]), "engines": tuple(facts["engines"])}),
        readings=Readings(**readings | {"gpus": tuple(GpuReading(**gpu) for gpu in readings["gpus"])}),
        seen_at=row.seen_at,
        created_at=row.created_at,
    )


def _columns(resource: Resource) -> dict[str, Any]:
    return {column.name: getattr(resource, column.name) for column in resources.c if column.name != "deleted_at"}


def _resource(row: Row[Any]) -> Resource:
    values = dict(row._mapping)
    del values["deleted_at"]
    return Resource(**values)
