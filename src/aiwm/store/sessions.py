"""Logins in the database."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import and_, bindparam, delete, insert, or_, select, update

from aiwm.domain.users import Session, UserStatus
from aiwm.store.connection import AsyncConnection
from aiwm.store.database import Database
from aiwm.store.tables import sessions, users

_GOOD = and_(users.c.deleted_at.is_(None), users.c.status == UserStatus.ACTIVE)

# Asked for twice a second as long as AIWM runs, so it is made once.
_REVOKED_SINCE = (
    select(sessions.c.id, sessions.c.revoked_at)
    .where(sessions.c.revoked_at >= bindparam("time"))
    .order_by(sessions.c.revoked_at)
)


class SessionStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, session: Session, *, password_hash: str, forget_before: int) -> bool:
        """Begins a login, unless the user was deactivated or deleted or got another password since it was verified.

        The session would outlive a change that was to end all of them. Sessions of the user that ended before
        `forget_before` are removed.
        """
        async with self._database.writing() as connection:
            # The lock makes a change of the user wait until it can see the new session.
            verified = await connection.scalar(
                select(users.c.id)
                .where(users.c.id == session.user_id, users.c.password_hash == password_hash, _GOOD)
                .with_for_update()
            )
            if verified is None:
                return False
            await connection.execute(
                delete(sessions).where(
                    sessions.c.user_id == session.user_id,
                    or_(sessions.c.expires_at < forget_before, sessions.c.revoked_at < forget_before),
                )
            )
            await connection.execute(
                insert(sessions).values({name: getattr(session, name) for name in Session.__slots__})
            )
            return True

    async def rotate(self, session_id: str, *, old_hash: str, new_hash: str, now: int, expires_at: int) -> str | None:
        """Puts a new refresh token in the place of the one that is good now and answers the id of its user.

        None, and nothing done, when `old_hash` is not that token's.
        """
        async with self._database.writing() as connection:
            rotated = await connection.execute(
                update(sessions)
                .where(
                    sessions.c.id == session_id,
                    sessions.c.refresh_hash == old_hash,
                    sessions.c.revoked_at.is_(None),
                    sessions.c.expires_at > now,
                    sessions.c.user_id.in_(select(users.c.id).where(_GOOD)),
                )
                .values(refresh_hash=new_hash, expires_at=expires_at)
                .returning(sessions.c.user_id)
            )
            user_id: str | None = rotated.scalar_one_or_none()
            return user_id

    async def revoke(self, session_id: str, *, at: int) -> bool:
        """False when there is no such session or it is revoked already."""
        async with self._database.writing() as connection:
            revoked = await connection.execute(
                update(sessions)
                .where(sessions.c.id == session_id, sessions.c.revoked_at.is_(None))
                .values(revoked_at=at)
            )
            return revoked.rowcount == 1

    async def revoked_since(self, time: int) -> Sequence[tuple[str, int]]:
        """Sessions revoked at or after `time`, the oldest first, each with when."""
        return await self._database.read(
            lambda connection: [(row.id, row.revoked_at) for row in connection.execute(_REVOKED_SINCE, {"time": time})]
        )


async def revoke_sessions_of(
    connection: AsyncConnection, user_ids: Collection[str], *, at: int, keep: str = ""
) -> Sequence[str]:
    """Revokes the sessions of these users, but for one; answers which."""
    ended = await connection.execute(
        update(sessions)
        .where(sessions.c.user_id.in_(user_ids), sessions.c.revoked_at.is_(None), sessions.c.id != keep)
        .values(revoked_at=at)
        .returning(sessions.c.id)
    )
    return list(ended.scalars())
