"""store/migrations: what they build is what `tables` says, on both engines."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from aiwm.errors import StartError, Unavailable
from aiwm.store import migrations
from aiwm.store.database import Database


async def test_migrations_and_tables_agree(database: Database) -> None:
    assert await database.differences() == []
    assert migrations.head() == migrations.HEAD


async def test_migrating_twice_changes_nothing(database: Database) -> None:
    await database.migrate()
    await database.ping()


async def test_a_database_newer_than_the_program_is_refused_and_left_alone(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StartError, match="newer than this program"):
        await database.migrate()
    with pytest.raises(Unavailable):
        await database.ping()


async def test_a_database_that_is_not_there_is_said_in_one_line() -> None:
    database = Database("postgresql+asyncpg://nobody@127.0.0.1:1/none")
    with pytest.raises(StartError) as caught:
        await database.migrate()
    assert "\n" not in str(caught.value)
    await database.aclose()
