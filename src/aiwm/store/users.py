"""Users in the database.

`org_id` is the tenant; None looks through all of them and is for logins and universe.owner only. A change that
ends a user's rights revokes the user's sessions in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Row, and_, exists, insert, or_, select, true, update
from sqlalchemy.exc import IntegrityError

from aiwm.domain.audit import AuditEntry
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.users import Organization, Role, User, UserStatus, username_key
from aiwm.errors import Conflict
from aiwm.store.api_keys import revoke_keys_of_user
from aiwm.store.audit import record
from aiwm.store.connection import AsyncConnection
from aiwm.store.database import Database
from aiwm.store.lists import matching, page
from aiwm.store.organizations import add_organization, lock_organization
from aiwm.store.sessions import revoke_sessions_of
from aiwm.store.tables import users

FIELDS = {"status": users.c.status}
"""API name -> column: what a list can be filtered by."""

SORTABLE = {
    "createdAt": users.c.created_at,
    "updatedAt": users.c.updated_at,
    "username": users.c.username_key,
    "fullname": users.c.fullname,
    "status": users.c.status,
}


class UserStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user: User, *, entry: AuditEntry | None = None) -> bool:
        """False when there is no such organization. Raises Conflict when the username is taken."""
        try:
            async with self._database.writing() as connection:
                if not await lock_organization(connection, user.org_id):
                    return False
                await connection.execute(insert(users).values(_columns(user)))
                await record(connection, entry)
                return True
        except IntegrityError as error:
            raise _taken(user) from error

    async def add_first(self, organization: Organization, user: User, *, entries: Sequence[AuditEntry] = ()) -> bool:
        """Both, unless somebody else was quicker or there has ever been a user: then False and nothing."""
        try:
            async with self._database.writing() as connection:
                if await connection.scalar(select(exists().where(users.c.id.is_not(None)))):
                    return False
                await add_organization(connection, organization)
                await connection.execute(insert(users).values(_columns(user)))
                await record(connection, *entries)
                return True
        except IntegrityError:
            return False

    async def any(self) -> bool:
        """Whether there has ever been a user."""
        async with self._database.reading() as connection:
            return bool(await connection.scalar(select(exists().where(users.c.id.is_not(None)))))

    async def get(self, org_id: str | None, user_id: str) -> User | None:
        async with self._database.reading() as connection:
            return await _one(connection, users.c.id == user_id, _in(org_id))

    async def by_username(self, username: str) -> User | None:
        """Whichever organization the user belongs to: for logins."""
        async with self._database.reading() as connection:
            return await _one(connection, users.c.username_key == username_key(username))

    async def list(self, org_id: str | None, query: PageQuery) -> Page[User]:
        where = and_(
            users.c.deleted_at.is_(None),
            _in(org_id),
            *matching(query, FIELDS, searched=(users.c.username, users.c.fullname)),
        )
        async with self._database.reading() as connection:
            return await page(connection, users, where, query, SORTABLE, FIELDS, _user)

    async def change(
        self,
        before: User,
        after: User,
        *,
        end_sessions: bool,
        keep_session: str = "",
        entry: AuditEntry | None = None,
    ) -> Sequence[str]:
        """Writes `after` and answers the sessions that this has ended, and the API keys if the user may no longer act.

        Raises Conflict when the username is taken, when the organization or the installation would be without an
        active owner, and when somebody else changed the user since `before` was read.
        """
        try:
            async with self._database.writing() as connection:
                await _require_owners(connection, before, after)
                await _change(connection, before, after)
                await record(connection, entry)
                if not end_sessions:
                    return ()
                at = after.updated_at
                ended = await revoke_sessions_of(connection, [before.id], at=at, keep=keep_session)
                if after.status is UserStatus.ACTIVE:
                    return ended
                return [
                    *ended,
                    *await revoke_keys_of_user(connection, before.id, by=after.updated_by, at=at, entry=entry),
                ]
        except IntegrityError as error:
            raise _taken(after) from error

    async def change_hash(self, user: User, password_hash: str) -> None:
        """The same password, hashed anew. Nothing if the password was changed meanwhile."""
        async with self._database.writing() as connection:
            await connection.execute(
                update(users)
                .where(users.c.id == user.id, users.c.password_hash == user.password_hash)
                .values(password_hash=password_hash)
            )

    async def delete(self, before: User, *, by: str, at: int, entry: AuditEntry | None = None) -> Sequence[str]:
        """Soft. Answers the sessions and API keys that this has ended; raises Conflict as `change` does."""
        async with self._database.writing() as connection:
            await _require_owners(connection, before, None)
            await _change(connection, before, before, updated_by=by, updated_at=at, deleted_at=at)
            await record(connection, entry)
            ended = await revoke_sessions_of(connection, [before.id], at=at)
            return [*ended, *await revoke_keys_of_user(connection, before.id, by=by, at=at, entry=entry)]


def _in(org_id: str | None) -> ColumnElement[bool]:
    return true() if org_id is None else users.c.org_id == org_id


async def _one(connection: AsyncConnection, *where: ColumnElement[bool]) -> User | None:
    row = (await connection.execute(select(users).where(users.c.deleted_at.is_(None), *where))).one_or_none()
    return None if row is None else _user(row)


async def _change(connection: AsyncConnection, before: User, after: User, **more: object) -> None:
    values = _columns(after)
    if after.password_hash == before.password_hash:
        # `change_hash` may have written another one meanwhile.
        del values["password_hash"]
    changed = await connection.execute(
        update(users)
        .where(
            users.c.id == before.id,
            users.c.deleted_at.is_(None),
            users.c.updated_at == before.updated_at,
        )
        .values(values | more)
    )
    if changed.rowcount != 1:
        raise Conflict(f'User "{before.username}" was changed by someone else at the same time; try again')


async def _require_owners(connection: AsyncConnection, before: User, after: User | None) -> None:
    """Raises Conflict if the change takes the last active owner from an organization or the installation."""
    if _owns(before, Role.UNIVERSE_OWNER) and not _owns(after, Role.UNIVERSE_OWNER):
        whole = "the installation"
        await _require_another(connection, before, after, whole, _has(Role.UNIVERSE_OWNER))
    if _owns(before, *_OWNERS) and not _owns(after, *_OWNERS):
        here = users.c.org_id == before.org_id
        await _require_another(connection, before, after, "its organization", and_(here, _has(*_OWNERS)))


_OWNERS = (Role.OWNER, Role.UNIVERSE_OWNER)


def _owns(user: User | None, *roles: Role) -> bool:
    return user is not None and user.status is UserStatus.ACTIVE and any(role in user.roles for role in roles)


def _has(*roles: Role) -> ColumnElement[bool]:
    return or_(*(users.c.roles.contains(f'"{role}"', autoescape=True) for role in roles))


async def _require_another(
    connection: AsyncConnection, before: User, after: User | None, of: str, where: ColumnElement[bool]
) -> None:
    # All owners are locked, always in the same order: of two who demote each other the second finds itself alone.
    owners = await connection.execute(
        select(users.c.id)
        .where(users.c.deleted_at.is_(None), users.c.status == UserStatus.ACTIVE, where)
        .order_by(users.c.id)
        .with_for_update()
    )
    if all(id_ == before.id for id_ in owners.scalars()):
        verb = "delete" if after is None else "deactivate" if after.status is not UserStatus.ACTIVE else "demote"
        raise Conflict(
            f'Cannot {verb} user "{before.username}". It is the last active owner of {of}; make another one first.'
        )


def _taken(user: User) -> Conflict:
    return Conflict(f'Username "{user.username}" is already taken')


def _columns(user: User) -> dict[str, Any]:
    columns = {name: getattr(user, name) for name in User.__slots__}
    return columns | {"username_key": username_key(user.username), "roles": orjson.dumps(user.roles).decode()}


def _user(row: Row[Any]) -> User:
    values = {name: row._mapping[name] for name in User.__slots__}
    return User(
        **values | {"status": UserStatus(row.status), "roles": tuple(Role(role) for role in orjson.loads(row.roles))}
    )
