"""app.py: what a program that serves and rests has not loaded, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import asyncio, sys
from pathlib import Path

import aiwm.cli.worker
from aiwm import logs
from aiwm.app import running
from aiwm.settings import Settings

async def main():
    logs.configure(level="warning", as_json=True)
    settings = Settings(data_dir=Path(sys.argv[1]), host="127.0.0.1")
    async with running(settings, variable=lambda name: None, draining=lambda: False) as program:
        await program.whole
        print(*sys.modules)

asyncio.run(main())
"""

_NEEDLESS = {
    "alembic": "the schema is there",
    "httpcore2": "no engine is asked for its health",
    "pynvml": "there is no GPU",
    "rich": "it writes no tables for people",
    "sqlalchemy.dialects.postgresql": "the database is SQLite's",
    "sqlalchemy.orm": "tables and statements are enough",
}
"""Each takes megabytes that nobody needs, and why."""


def _loaded(folder: Path) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, folder], capture_output=True, text=True, check=True, timeout=60
    )
    return set(run.stdout.split())


def test_a_gateway_at_rest_has_loaded_only_what_it_needs(tmp_path: Path) -> None:
    _loaded(tmp_path)  # The first start makes the database.
    loaded = _loaded(tmp_path)
    assert {"fastapi", "sqlalchemy", "aiwm.metering.price_list"} <= loaded
    has_gpu = Path("/dev/nvidiactl").exists()
    assert _NEEDLESS.keys() & loaded <= ({"pynvml"} if has_gpu else set())
