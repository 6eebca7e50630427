"""API keys in the database. Of a secret only its digest is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Row, and_, bindparam, func, insert, or_, select, update

from aiwm.domain.api_keys import ApiKey
from aiwm.domain.audit import AuditEntry
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.users import UserStatus
from aiwm.store.audit import record
from aiwm.store.connection import AsyncConnection
from aiwm.store.database import Database
from aiwm.store.lists import matching, page
from aiwm.store.tables import api_keys, deployments, users

FIELDS = {"userId": api_keys.c.user_id}
"""API name -> column: what a list can be filtered by."""

SORTABLE = {
    "createdAt": api_keys.c.created_at,
    "updatedAt": api_keys.c.updated_at,
    "name": api_keys.c.name,
    # Databases disagree on where a null belongs: what never ends comes last, what was never used first.
    "expiresAt": func.coalesce(api_keys.c.expires_at, 1 << 62),
    "lastUsedAt": func.coalesce(api_keys.c.last_used_at, 0),
}

# Asked for twice a second as long as AIWM runs, so it is made once.
_REVOKED_SINCE = (
    select(api_keys.c.id, api_keys.c.deleted_at)
    .where(api_keys.c.deleted_at >= bindparam("time"))
    .order_by(api_keys.c.deleted_at)
)


class ApiKeyStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: ApiKey, *, entry: AuditEntry | None = None) -> Sequence[str] | None:
        """Adds it if every deployment that it is limited to is there; else changes nothing and answers the others.

        None, and nothing done, when its maker is deactivated or deleted: the key would outlive that.
        """
        async with self._database.writing() as connection:
            # The lock makes a change of the user wait until it can see the new key.
            maker = (
                await connection.execute(
                    select(users.c.status, users.c.deleted_at).where(users.c.id == key.user_id).with_for_update()
                )
            ).one_or_none()
            if maker is not None and (maker.deleted_at is not None or maker.status != UserStatus.ACTIVE):
                return None
            wanted = key.deployments or ()
            there = await connection.scalars(
                select(deployments.c.id).where(
                    deployments.c.id.in_(wanted),
                    deployments.c.org_id == key.org_id,
                    deployments.c.deleted_at.is_(None),
                )
            )
            found = set(there)
            if missing := [id_ for id_ in wanted if id_ not in found]:
                return missing
            await connection.execute(insert(api_keys).values(_columns(key)))
            await record(connection, entry)
            return ()

    async def get(self, org_id: str, key_id: str) -> ApiKey | None:
        return await self._one(api_keys.c.id == key_id, api_keys.c.org_id == org_id)

    async def by_digest(self, digest: bytes) -> ApiKey | None:
        """Whoever shows it: to tell who is calling."""
        return await self._one(api_keys.c.digest == digest)

    async def list(self, org_id: str, query: PageQuery) -> Page[ApiKey]:
        where = and_(
            api_keys.c.deleted_at.is_(None),
            api_keys.c.org_id == org_id,
            *matching(query, FIELDS, searched=(api_keys.c.name,)),
        )
        async with self._database.reading() as connection:
            return await page(connection, api_keys, where, query, SORTABLE, {}, _key)

    async def revoke(self, key: ApiKey, *, by: str, at: int, entry: AuditEntry | None = None) -> bool:
        """False when somebody else was quicker."""
        async with self._database.writing() as connection:
            if not await _revoke(connection, api_keys.c.id == key.id, by=by, at=at):
                return False
            await record(connection, entry)
            return True

    async def revoked_since(self, time: int) -> Sequence[tuple[str, int]]:
        """Keys revoked at or after `time`, the oldest first, each with when."""
        return await self._database.read(
            lambda connection: [(row.id, row.deleted_at) for row in connection.execute(_REVOKED_SINCE, {"time": time})]
        )

    async def used(self, uses: Mapping[str, int]) -> None:
        """When each key was used last; other processes may know of later uses."""
        statement = (
            update(api_keys)
            .where(
                api_keys.c.id == bindparam("key_id"),
                or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < bindparam("at")),
            )
            .values(last_used_at=bindparam("at"))
        )
        async with self._database.writing() as connection:
            # In one order everywhere: two programs that write the same keys must not wait for each other.
            await connection.execute(statement, [{"key_id": id_, "at": at} for id_, at in sorted(uses.items())])

    async def _one(self, *where: ColumnElement[bool]) -> ApiKey | None:
        async with self._database.reading() as connection:
            row = (
                await connection.execute(select(api_keys).where(api_keys.c.deleted_at.is_(None), *where))
            ).one_or_none()
            return None if row is None else _key(row)


async def revoke_keys_of_user(
    connection: AsyncConnection, user_id: str, *, by: str, at: int, entry: AuditEntry | None
) -> Sequence[str]:
    """Revokes the keys that a user has made; answers which. `entry` tells of what this is a part of."""
    return await _revoke_all(connection, api_keys.c.user_id == user_id, by, at, entry)


async def revoke_keys_of_organization(
    connection: AsyncConnection, org_id: str, *, by: str, at: int, entry: AuditEntry | None
) -> Sequence[str]:
    return await _revoke_all(connection, api_keys.c.org_id == org_id, by, at, entry)


async def _revoke_all(
    connection: AsyncConnection, which: ColumnElement[bool], by: str, at: int, entry: AuditEntry | None
) -> Sequence[str]:
    revoked = await _revoke(connection, which, by=by, at=at)
    if entry is not None:
        await record(
            connection, *(entry.also("revoke", ApiKey, key.id, key.name, org_id=key.org_id) for key in revoked)
        )
    return [key.id for key in revoked]


async def _revoke(
    connection: AsyncConnection, which: ColumnElement[bool], *, by: str, at: int
) -> Sequence[Row[tuple[str, str, str]]]:
    revoked = await connection.execute(
        update(api_keys)
        .where(which, api_keys.c.deleted_at.is_(None))
        .values(updated_by=by, updated_at=at, deleted_at=at)
        .returning(api_keys.c.id, api_keys.c.name, api_keys.c.org_id)
    )
    return revoked.all()


def _columns(key: ApiKey) -> dict[str, Any]:
    columns = {name: getattr(key, name) for name in ApiKey.__slots__}
    return columns | {"deployments": None if key.deployments is None else orjson.dumps(key.deployments).decode()}


def _key(row: Row[Any]) -> ApiKey:
    values = {name: row._mapping[name] for name in ApiKey.__slots__}
    limited = row.deployments
    return ApiKey(
        **values
        | {
            "digest": bytes(row.digest),
            "deployments": None if limited is None else tuple(orjson.loads(limited)),
        }
    )
