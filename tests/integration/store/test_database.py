"""store/database.py: all or nothing, and the engines' ways of saying `not now` in our words."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import stat
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

import store_rows as rows
from aiwm.domain.pages import PageQuery
from aiwm.errors import StartError, Unavailable
from aiwm.store import database as database_
from aiwm.store.database import Database
from aiwm.store.ledger import LedgerStore
from aiwm.store.models import ModelStore
from logged import logged
from patience import PATIENCE
from postgresql import PostgreSql


async def _count(database: Database) -> int:
    async with database.reading() as connection:
        return int(await connection.scalar(text("SELECT count(*) FROM organizations")) or 0)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


_INSERT = text(
    "INSERT INTO organizations (id, name, description, created_by, updated_by, created_at, updated_at) "
    "VALUES (:id, 'n', '', 'x', 'x', 1, 1)"
)


async def test_a_transaction_that_fails_leaves_no_trace(database: Database) -> None:
    async def write_half() -> None:
        async with database.writing() as connection:
            await connection.execute(_INSERT, {"id": "a" * 24})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await write_half()
    assert await _count(database) == 0


async def test_a_transaction_that_is_cancelled_leaves_no_trace_and_no_lock(database: Database) -> None:
    inside = asyncio.Event()

    async def write() -> None:
        async with database.writing() as connection:
            await connection.execute(_INSERT, {"id": "a" * 24})
            inside.set()
            await asyncio.Event().wait()

    for _ in range(20):  # More than the pool has connections: none of them is lost.
        inside.clear()
        task = asyncio.create_task(write())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with database.writing() as connection:
        await connection.execute(_INSERT, {"id": "b" * 24})
    assert await _count(database) == 1


async def test_many_writers_take_turns(database: Database) -> None:
    async def write(number: int) -> None:
        async with database.writing() as connection:
            before = await connection.scalar(text("SELECT count(*) FROM organizations"))
            assert before is not None
            await connection.execute(_INSERT, {"id": f"{number:024x}"})

    await asyncio.gather(*(write(number) for number in range(40)))
    assert await _count(database) == 40


async def test_many_statements_in_one_step_are_all_done_or_not_at_all(database: Database) -> None:
    def write(first: int, connection: Connection) -> int:
        for number in (first, first + 1):
            connection.execute(_INSERT, {"id": f"{number:024x}"})
        return first

    assert await database.written(partial(write, 1)) == 1
    with pytest.raises(IntegrityError):
        await database.written(partial(write, 0))
    assert await _count(database) == 2
    assert await asyncio.gather(*(database.written(partial(write, 10 * n)) for n in range(1, 20))) == [
        10 * n for n in range(1, 20)
    ]
    assert await _count(database) == 40


async def test_what_is_read_in_one_step_is_what_was_committed_and_takes_no_lock(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(_INSERT, {"id": "a" * 24})
        statement = text("SELECT id FROM organizations")
        seen = [await database.read(lambda reader: reader.scalars(statement).all()) for _ in range(2)]
    assert seen == [[], []]
    assert await database.read(lambda reader: reader.scalars(statement).all()) == ["a" * 24]


async def test_a_transaction_that_is_cancelled_at_any_moment_leaves_nothing_to_be_done(database: Database) -> None:
    """What is left to be done then would be broken off when the program ends."""
    await _count(database)
    mine = asyncio.current_task()
    moment = 0
    while True:
        task = asyncio.create_task(_count(database))
        for _ in range(moment):
            await asyncio.sleep(0)
        if not task.cancel():
            break
        await asyncio.wait((task,))
        assert asyncio.all_tasks() <= {mine}, moment
        moment += 1
    assert moment > 10


async def test_a_database_whose_closing_is_cancelled_is_closed(tmp_path: Path) -> None:
    """What nobody closes is told when it is collected, and warnings are errors here."""
    moment, cancelled = 1, True  # Before that it has not begun.
    while cancelled:
        database = Database(f"sqlite+aiosqlite:///{tmp_path / 'new.db'}")
        async with database.reading() as connection:
            await connection.scalar(text("SELECT 1"))
        task = asyncio.create_task(database.aclose())
        for _ in range(moment):
            await asyncio.sleep(0)
        cancelled = task.cancel()
        await asyncio.wait((task,))
        del database, connection, task
        gc.collect()
        moment += 1
    assert moment > 10


async def test_a_step_whose_caller_is_cancelled_is_done_or_not_and_leaves_no_lock(database: Database) -> None:
    def write(connection: Connection) -> None:
        connection.execute(_INSERT, {"id": "a" * 24})
        connection.execute(_INSERT, {"id": "b" * 24})

    task = asyncio.create_task(database.written(write))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await database.written(lambda connection: connection.execute(_INSERT, {"id": "c" * 24}).close())
    assert await _count(database) in {1, 3}


async def test_a_step_waits_for_a_locked_sqlite_and_then_says_that_it_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_, "BUSY_SECONDS", 0)
    path = tmp_path / "aiwm.db"
    database = Database(f"sqlite+aiosqlite:///{path}")
    await database.migrate()
    row = rows.usage_row("d" * 24)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with logged() as logs, pytest.raises(Unavailable):
            await LedgerStore(database).add([row])
        assert [line["reason"] for line in logs] == ["database is locked"]
    await LedgerStore(database).add([row])
    assert await LedgerStore(database).of_deployment("red", "d" * 24) == [row]
    await database.aclose()


async def test_a_reader_is_not_kept_waiting_by_a_writer(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(_INSERT, {"id": "a" * 24})
        assert await asyncio.wait_for(_count(database), PATIENCE) == 0
    assert await _count(database) == 1


async def test_a_locked_sqlite_is_unavailable_with_its_reason_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_, "BUSY_SECONDS", 0)
    path = tmp_path / "aiwm.db"
    database = Database(f"sqlite+aiosqlite:///{path}")
    await database.migrate()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with logged() as logs, pytest.raises(Unavailable) as caught:
            await ModelStore(database).add(rows.model())
        assert caught.value.message == "The database is not available; try again"
        assert caught.value.headers == {"retry-after": "1"}
        assert [line["reason"] for line in logs] == ["database is locked"]
        assert (await ModelStore(database).list(rows.principal(), PageQuery())).total == 0
    finally:
        other.execute("ROLLBACK")
        other.close()
    await ModelStore(database).add(rows.model())
    await database.aclose()


async def test_a_database_that_goes_away_is_unavailable_and_found_again_when_it_is_back(
    postgresql: PostgreSql,
) -> None:
    database = Database(postgresql.new_database())
    await database.migrate()
    await database.ping()
    postgresql.stop()
    try:
        with logged() as logs, pytest.raises(Unavailable):
            await database.ping()
        assert logs
        assert "SELECT" not in str(logs)
    finally:
        postgresql.start()
    await database.ping()
    await database.aclose()


async def test_the_files_of_sqlite_are_for_this_user_only(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'aiwm.db'}")
    await database.migrate()
    async with database.writing() as connection:
        await connection.execute(_INSERT, {"id": "a" * 24})
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in _files(tmp_path)}
    assert modes == {"aiwm.db": 0o600, "aiwm.db-wal": 0o600, "aiwm.db-shm": 0o600}
    await database.aclose()


async def test_programs_that_start_at_once_migrate_one_after_the_other(database_url: str) -> None:
    programs = [Database(database_url) for _ in range(4)]
    await asyncio.gather(*(program.migrate() for program in programs))
    for program in programs:
        await program.ping()
        await program.aclose()


async def test_who_comes_while_another_makes_the_database_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "aiwm.db"
    path.touch(mode=0o600)
    # As a program that has begun, and does not log ahead yet.
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as first:
        first.execute("BEGIN IMMEDIATE")
        ending = threading.Timer(0.3, first.rollback)
        ending.start()
        database = Database(f"sqlite+aiosqlite:///{path}")
        await database.migrate()
        await database.ping()
        await database.aclose()
        ending.join()


async def test_who_is_never_let_in_says_that_the_database_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_, "BUSY_SECONDS", 0)
    path = tmp_path / "aiwm.db"
    path.touch(mode=0o600)
    with closing(sqlite3.connect(path, isolation_level=None)) as first:
        first.execute("BEGIN IMMEDIATE")
        database = Database(f"sqlite+aiosqlite:///{path}")
        with pytest.raises(StartError, match="locked"):
            await database.migrate()
        await database.aclose()


# --- what keeps a program from starting ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["postgresql+asyncpg://mai:p4ssw0rd@host:port/name", "postgresql+asyncpg://mai:p4ssw0rd@[::1/name"],
)
def test_a_url_that_can_not_be_read_is_told_without_its_password(url: str) -> None:
    with pytest.raises(StartError) as caught:
        Database(url)
    assert "AIWM_DATABASE_URL" in str(caught.value)
    assert "p4ssw0rd" not in str(caught.value)


@pytest.mark.parametrize("path", ["none/aiwm.db", "file/aiwm.db"])
def test_a_file_that_can_not_be_made_is_told_with_what_to_do(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"can't write the database .* set AIWM_DATA_DIR or AIWM_DATABASE_URL"):
        Database(f"sqlite+aiosqlite:///{tmp_path / path}")


def test_a_database_that_must_be_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=f"there is no database {tmp_path}/aiwm.db: set AIWM_DATA_DIR"):
        Database(f"sqlite+aiosqlite:///{tmp_path / 'aiwm.db'}", must_exist=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["aiwm.db", "aiwm.db-wal"])
def test_a_database_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch(mode=0o640)
    with pytest.raises(
        StartError, match=f"other users of this machine can read .*: run `chmod 600 '{tmp_path / name}'`"
    ):
        Database(f"sqlite+aiosqlite:///{tmp_path / 'aiwm.db'}")


async def test_a_file_that_is_no_database_is_told_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "aiwm.db"
    path.write_bytes(b"a letter to a friend, longer than any header of a database is" * 20)
    path.chmod(0o600)
    before = path.read_bytes()
    database = Database(f"sqlite+aiosqlite:///{path}")
    with logged() as logs, pytest.raises(StartError, match=r"can't be opened .*file is not a database"):
        await database.migrate()
    assert logs == []
    assert path.read_bytes() == before
    await database.aclose()


async def test_a_password_is_not_told_when_nobody_answers() -> None:
    database = Database("postgresql+asyncpg://mai:p4ssw0rd@127.0.0.1:1/none")
    with pytest.raises(StartError) as caught:
        await database.migrate()
    assert "p4ssw0rd" not in str(caught.value)
    assert "mai:***@127.0.0.1:1/none" in str(caught.value)
    await database.aclose()
