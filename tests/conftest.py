"""What tests of every room share: real databases, and the search for secrets when all has run.

The same tests run on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import planted
from aiwm.store.database import Database
from gateway import Gateway
from postgresql import PostgreSql

# Properties are tried on the same examples in every run; `--hypothesis-profile=default` looks for others.
settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def _watched(tmp_path_factory: pytest.TempPathFactory) -> None:
    planted.begin(tmp_path_factory.getbasetemp())


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


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once on each engine."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'aiwm.db'}"
    server: PostgreSql = request.getfixturevalue("postgresql")
    return server.new_database()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database, once on each engine."""
    database = Database(database_url)
    await database.migrate()
    try:
        yield database
    finally:
        await database.aclose()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """AIWM as a process of its own that may call this machine; one for each test module."""
    with Gateway(tmp_path_factory.mktemp("aiwm"), "--demo", AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as running:
        yield running
