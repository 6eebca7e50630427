"""What tests of every room share: real databases, and the search for secrets when all has run.

The same tests run on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings

import forks
import planted
from aiwm.store.database import Database
from gateway import Gateway
from postgresql import PostgreSql

# Thousands of tests are objects that stay. Looking through them for garbage again and again, as some tests do to see
# what is left, takes longer than the tests themselves.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _settled() -> None:
    """What the modules before have left stays too: in the end each look through it took a third of a second."""
    gc.collect()
    gc.freeze()


# Who runs the tests in a shell's background has Ctrl-C switched off, and would switch it off for all they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Properties are tried on the same examples in every run; `--hypothesis-profile=default` looks for others.
settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def _watched(tmp_path_factory: pytest.TempPathFactory) -> None:
    planted.begin(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session", autouse=True)
def _forking() -> Iterator[None]:
    yield
    forks.close()


_LEAKS = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """When all processes have ended: a secret in anything that was written fails the run."""
    if hasattr(session.config, "workerinput"):
        return
    # Of the workers, too: theirs are below it.
    factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
    found = session.config.stash[_LEAKS] = list(planted.leaks(factory.getbasetemp()))
    if found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if found := config.stash.get(_LEAKS, []):
        terminalreporter.section("secrets in what was written", red=True)
        for line in found:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSql]:
    """A real server of our own, started once for each test process that asks for it."""
    folder = Path(tempfile.mkdtemp(prefix="aiwm-pg-"))
    server = PostgreSql(folder)
    try:
        yield server
    finally:
        server.stop()
        for leak in planted.leaks(folder / "data"):
            planted.saw(f"PostgreSQL, {leak}", planted.MARK.encode())
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What databases are copied from: to migrate each anew takes longer than most tests do."""
    path = tmp_path_factory.mktemp("migrated") / "aiwm.db"
    _migrate(f"sqlite+aiosqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql: PostgreSql) -> str:
    """The name of a database; the same."""
    url = postgresql.new_database()
    _migrate(url)
    return url.rpartition("/")[2]


def _migrate(url: str) -> None:
    async def migrate() -> None:
        database = Database(url)
        await database.migrate()
        await database.aclose()

    with ThreadPoolExecutor(1) as thread:  # This one may have a loop of its own.
        thread.submit(asyncio.run, migrate()).result()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database, once on each engine: empty, or migrated if the test asks for `database` too."""
    migrated = "database" in request.fixturenames
    if request.param == "sqlite":
        path = tmp_path / "aiwm.db"
        if migrated:
            shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite+aiosqlite:///{path}"
        return
    server: PostgreSql = request.getfixturevalue("postgresql")
    if not migrated:
        yield server.new_database()
        return
    like = request.getfixturevalue("migrated_postgresql")
    url = server.borrowed(like)
    yield url
    server.give_back(url, like)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database, once on each engine."""
    database = Database(database_url)
    try:
        yield database
    finally:
        await database.aclose()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """AIWM as a process of its own that may call this machine; one for each test module."""
    with Gateway(tmp_path_factory.mktemp("aiwm"), "--demo", AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as running:
        yield running
