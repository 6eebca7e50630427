"""Failed attempts to log in, in the database: every program on it sees them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import delete, insert, select, text

from aiwm.store.connection import AsyncConnection
from aiwm.store.database import Database
from aiwm.store.tables import failed_attempts

Allowance = tuple[bytes, int]
"""Who or what, and how many failures are too many."""


class AttemptStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def closed(self, allowances: Sequence[Allowance], *, since: int) -> int | None:
        """The time of the failure after `since` that must grow old first; None if none has failed too often."""
        async with self._database.reading() as connection:
            return await _closed(connection, allowances, since)

    async def add(self, allowances: Sequence[Allowance], *, since: int, at: int) -> int | None:
        """Writes a failure down for each of them, unless one has failed too often: then it answers as `closed` does.

        Of many at the same time no more than are allowed are written, whichever programs they come to.
        """
        async with self._database.writing() as connection:
            await self._take_turns(connection, [digest for digest, _ in allowances])
            closed = await _closed(connection, allowances, since)
            if closed is None:
                await connection.execute(delete(failed_attempts).where(failed_attempts.c.failed_at <= since))
                rows = [{"digest": digest, "failed_at": at} for digest, _ in allowances]
                await connection.execute(insert(failed_attempts), rows)
            return closed

    async def forget(self, digest: bytes) -> None:
        async with self._database.writing() as connection:
            await connection.execute(delete(failed_attempts).where(failed_attempts.c.digest == digest))

    async def _take_turns(self, connection: AsyncConnection, digests: Collection[bytes]) -> None:
        if self._database.is_shared:
            # Always in the same order: two that meet in two locks must not wait for each other.
            for number in sorted(int.from_bytes(digest[:8], signed=True) for digest in digests):
                await connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


async def _closed(connection: AsyncConnection, allowances: Sequence[Allowance], since: int) -> int | None:
    found = []
    for digest, most in allowances:
        nth = (
            select(failed_attempts.c.failed_at)
            .where(failed_attempts.c.digest == digest, failed_attempts.c.failed_at > since)
            .order_by(failed_attempts.c.failed_at.desc())
            .offset(most - 1)
            .limit(1)
        )
        found.append(await connection.scalar(nth))
    return max((time for time in found if time is not None), default=None)
