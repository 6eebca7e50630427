"""The connection to SQLite or PostgreSQL: transactions, migrations, and the errors of both in our words.

Everything above this room sees two ways in, `reading()` and `writing()`, each one transaction. On
SQLite a writing transaction takes the write lock at its first word (BEGIN IMMEDIATE), so what it
reads stays true until it commits; on PostgreSQL the store locks the rows it decides on.

What is done again and again goes through `read` and `written`: the same transactions, given as a
function. The asynchronous driver of SQLite changes threads twice for each step of a transaction,
some ten times in all; these change threads once.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from aiwm.errors import StartError, Unavailable
from aiwm.logs import Log
from aiwm.store import migrations
from aiwm.store.connection import AsyncConnection, dispose, to_its_end, transaction
from aiwm.store.tables import metadata

BUSY_SECONDS = 5
"""How long a statement waits for SQLite's lock or for a pooled connection before the caller is told to try again."""

_TURN_SECONDS = 0.01

_READING, _WRITING = "BEGIN", "BEGIN IMMEDIATE"
_OTHERS = 0o077
_MIGRATION_LOCK = 4_120_240_419
"""PostgreSQL advisory lock: two programs started at once migrate one after the other."""

_REMEDY = "set AIWM_DATA_DIR or AIWM_DATABASE_URL to a place that AIWM can write to"

_log = Log(__name__)

T = TypeVar("T")


class Database:
    def __init__(self, url: str, *, must_exist: bool = False) -> None:
        """Raises StartError when the URL can't be read, or the file of SQLite not be made.

        `must_exist` is for who has nothing to do in a new database: then that file is not made either.
        """
        self._url = _read(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        if must_exist and self._sqlite and self._url.database and not Path(self._url.database).exists():
            raise StartError(
                f"there is no database {self._url.database}: set AIWM_DATA_DIR or AIWM_DATABASE_URL as AIWM was "
                "started with"
            )
        self._engine = _sqlite_engine(self._url) if self._sqlite else _postgresql_engine(url)
        self._reader = _Thread(self._url, _READING) if self._sqlite else None
        self._writer = _Thread(self._url, _WRITING) if self._sqlite else None

    @property
    def is_shared(self) -> bool:
        """Whether AIWMs on other machines may be using it too."""
        return not self._sqlite

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that changes nothing. Raises Unavailable when the database does not answer."""
        async with _logged(), self._transaction(_READING) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is all done or not at all. Raises Unavailable when the database does not answer."""
        async with _logged(), self._transaction(_WRITING) as connection:
            yield connection

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` answers, run within one reading transaction. Raises Unavailable like `reading`."""
        if self._reader is not None:
            async with _logged(), _translated():
                return await self._reader.run(work)
        async with self.reading() as connection:
            return await connection.run_sync(work)

    async def written(self, work: Callable[[Connection], T]) -> T:
        """What `work` answers, run within one writing transaction. Raises Unavailable like `writing`.

        When the caller is cancelled the transaction may still be done.
        """
        if self._writer is not None:
            async with _logged(), _translated():
                return await self._writer.run(work)
        async with self.writing() as connection:
            return await connection.run_sync(work)

    @asynccontextmanager
    async def _transaction(self, first_word: str) -> AsyncIterator[AsyncConnection]:
        async with _translated(), transaction(self._engine, aiwm_begin=first_word) as connection:
            yield connection

    async def ping(self) -> None:
        """Raises Unavailable unless the database answers and has the schema of this program."""
        async with self.reading() as connection:
            revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        if revision != migrations.HEAD:
            raise Unavailable("The database has another version than this program")

    async def migrate(self) -> None:
        """Brings an older database up to this program. Raises StartError for a newer one, or when none is there."""
        try:
            async with self._transaction(_READING) as connection:
                found = await connection.run_sync(migrations.revision)
            if found == migrations.HEAD:
                return
            if found is not None and found not in migrations.known():
                raise StartError(
                    f"the database {self._shown} is newer than this program (it has revision {found}): "
                    "install the AIWM that made it, or a later one"
                )
            async with self._transaction(_WRITING) as connection:
                if not self._sqlite:
                    await connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
                await connection.run_sync(migrations.upgrade)
        except Unavailable as error:
            raise StartError(
                f"the database {self._shown} can't be opened ({_reason(error.__cause__)}): "
                "see that it is there and may be written, or set AIWM_DATABASE_URL"
            ) from error

    async def differences(self) -> list[Any]:
        """What separates the database from `tables`; empty when migrations and schema agree. For tests."""
        async with self.reading() as connection:
            return await connection.run_sync(lambda sync: migrations.differences(sync, metadata))

    async def aclose(self) -> None:
        """All of it, even if who waits for it is cancelled."""
        await to_its_end(self._close())

    async def _close(self) -> None:
        for thread in (self._reader, self._writer):
            if thread is not None:
                await thread.aclose()
        await dispose(self._engine)

    @property
    def _shown(self) -> str:
        return self._url.render_as_string(hide_password=True)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """The libraries' ways of saying `not now` become Unavailable. A broken rule stays an IntegrityError."""
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, PoolTimeout, OSError) as error:
        raise Unavailable from error


@asynccontextmanager
async def _logged() -> AsyncIterator[None]:
    """The caller is told to try again; why is for the operator."""
    try:
        yield
    except Unavailable as error:
        if error.__cause__ is not None:
            _log.warning("the database is not available", reason=_reason(error.__cause__))
        raise


def _read(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        # Neither error is quoted: they may hold the password.
        raise StartError("AIWM_DATABASE_URL is not a URL: postgresql+asyncpg://user:password@host:port/name") from None


def _reason(error: BaseException | None) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).splitlines()[0] if str(original) else type(original).__name__


def _sqlite_engine(url: URL) -> Engine:
    if url.database:
        try:
            Path(url.database).touch(mode=0o600, exist_ok=True)
            _require_closed(url.database)
        except OSError as error:
            raise StartError(f"can't write the database {url.database} ({error.strerror}): {_REMEDY}") from error
    engine = create_engine(url, pool_size=8, max_overflow=0, pool_timeout=BUSY_SECONDS)
    _configure(engine)
    return engine


def _require_closed(path: str) -> None:
    """Raises StartError when others may read the file, or what SQLite has beside it."""
    for each in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            if Path(each).stat().st_mode & _OTHERS:
                raise StartError(f"other users of this machine can read {each}: run `chmod 600 '{each}'`")


class _Thread:
    """A thread with a connection of its own to SQLite. Transactions begin with `first_word`."""

    def __init__(self, url: URL, first_word: str) -> None:
        engine = create_engine(url.set(drivername="sqlite+pysqlite"), pool_size=1, max_overflow=0)
        _configure(engine)
        self._engine = engine.execution_options(aiwm_begin=first_word)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aiwm-database")

    async def run(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    def _run(self, work: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            return work(connection)

    async def aclose(self) -> None:
        """After what is being done."""
        await asyncio.to_thread(self._thread.shutdown)
        self._engine.dispose()


def _configure(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        # The driver would begin transactions by itself, late and deferred; `_begin` does it instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
        _log_ahead(cursor)
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()
        # SQLite's own knows no letters beyond ASCII.
        connection.create_function("lower", 1, _lower, deterministic=True)

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(connection.get_execution_options()["aiwm_begin"])


def _log_ahead(cursor: Any) -> None:
    """SQLite lets nobody wait for this who makes a new database beside others: they are told that it is locked."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_TURN_SECONDS)
        else:
            return


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _postgresql_engine(url: str) -> Engine:
    return create_engine(
        url,
        pool_size=8,
        max_overflow=8,
        pool_timeout=BUSY_SECONDS,
        pool_pre_ping=True,
        connect_args={"timeout": BUSY_SECONDS},
    )
