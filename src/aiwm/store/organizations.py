"""Organizations in the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, and_, func, insert, select, true, update

from aiwm.domain.audit import AuditEntry
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.users import Organization, User
from aiwm.errors import Conflict
from aiwm.store.api_keys import revoke_keys_of_organization
from aiwm.store.audit import record
from aiwm.store.connection import AsyncConnection
from aiwm.store.database import Database
from aiwm.store.lists import matching, page
from aiwm.store.sessions import revoke_sessions_of
from aiwm.store.tables import deployments, models, organizations, users

SORTABLE = {
    "createdAt": organizations.c.created_at,
    "updatedAt": organizations.c.updated_at,
    "name": organizations.c.name,
}


class OrganizationStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, organization: Organization, *, entry: AuditEntry | None = None) -> None:
        async with self._database.writing() as connection:
            await add_organization(connection, organization)
            await record(connection, entry)

    async def get(self, org_id: str) -> Organization | None:
        async with self._database.reading() as connection:
            row = await connection.execute(
                select(organizations).where(organizations.c.id == org_id, organizations.c.deleted_at.is_(None))
            )
            found = row.one_or_none()
            return None if found is None else _organization(found)

    async def list(self, org_id: str | None, query: PageQuery) -> Page[Organization]:
        """All of them for None, else only the one."""
        where = and_(
            organizations.c.deleted_at.is_(None),
            true() if org_id is None else organizations.c.id == org_id,
            *matching(query, {}, searched=(organizations.c.name, organizations.c.description)),
        )
        async with self._database.reading() as connection:
            return await page(connection, organizations, where, query, SORTABLE, {}, _organization)

    async def change(self, before: Organization, after: Organization, *, entry: AuditEntry | None = None) -> None:
        """Raises Conflict when somebody else changed it since `before` was read."""
        async with self._database.writing() as connection:
            await _change(connection, before, _columns(after))
            await record(connection, entry)

    async def delete(self, before: Organization, *, by: str, at: int, entry: AuditEntry | None = None) -> Sequence[str]:
        """Soft, with its last user. Answers the sessions and API keys that this has ended.

        Raises Conflict while it has models, deployments or more than one user: nothing is lost by accident.
        """
        async with self._database.writing() as connection:
            await lock_organization(connection, before.id)
            members = await _require_empty(connection, before)
            gone = {"updated_by": by, "updated_at": at, "deleted_at": at}
            await _change(connection, before, gone)
            await connection.execute(update(users).where(users.c.id.in_(members)).values(gone))
            await record(connection, entry)
            if entry is not None:
                gone_too = (entry.also("delete", User, id_, name, org_id=before.id) for id_, name in members.items())
                await record(connection, *gone_too)
            ended = await revoke_sessions_of(connection, members, at=at)
            return [*ended, *await revoke_keys_of_organization(connection, before.id, by=by, at=at, entry=entry)]


async def add_organization(connection: AsyncConnection, organization: Organization) -> None:
    await connection.execute(insert(organizations).values(_columns(organization)))


async def lock_organization(connection: AsyncConnection, org_id: str) -> bool:
    """Whoever adds a user and whoever deletes the organization wait for each other here."""
    found = await connection.scalar(
        select(organizations.c.id)
        .where(organizations.c.id == org_id, organizations.c.deleted_at.is_(None))
        .with_for_update()
    )
    return found is not None


async def _require_empty(connection: AsyncConnection, organization: Organization) -> dict[str, str]:
    """Its users' names by id: none, or the last one. Raises Conflict when it has more than that."""
    found = await connection.execute(
        select(users.c.id, users.c.username).where(users.c.org_id == organization.id, users.c.deleted_at.is_(None))
    )
    members = {row.id: row.username for row in found}
    counts = {"user": len(members) if len(members) > 1 else 0}
    for noun, table in (("model", models), ("deployment", deployments)):
        of_it = and_(table.c.org_id == organization.id, table.c.deleted_at.is_(None))
        counts[noun] = await connection.scalar(select(func.count()).select_from(table).where(of_it)) or 0
    if in_the_way := [f"{count} {noun}{'s' if count > 1 else ''}" for noun, count in counts.items() if count]:
        raise Conflict(
            f'Cannot delete organization "{organization.name}". It still has {", ".join(in_the_way)}. '
            "Delete them first; only its last user is deleted with it."
        )
    return members


async def _change(connection: AsyncConnection, before: Organization, values: dict[str, Any]) -> None:
    changed = await connection.execute(
        update(organizations)
        .where(
            organizations.c.id == before.id,
            organizations.c.deleted_at.is_(None),
            organizations.c.updated_at == before.updated_at,
        )
        .values(values)
    )
    if changed.rowcount != 1:
        raise Conflict(f'Organization "{before.name}" was changed by someone else at the same time; try again')


def _columns(organization: Organization) -> dict[str, Any]:
    return {name: getattr(organization, name) for name in Organization.__slots__}


def _organization(row: Row[Any]) -> Organization:
    return Organization(**{name: row._mapping[name] for name in Organization.__slots__})
