"""Who changes the ledger and its sums takes turns."""

from __future__ import annotations

from sqlalchemy import Connection, text

_WRITER_LOCK = 4_120_240_420
"""PostgreSQL advisory lock: those who add rows take turns, as SQLite makes them do anyway."""


def take_turns(connection: Connection) -> None:
    """Whoever changes rows and sums has them for itself until its transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})"))
