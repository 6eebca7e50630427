"""The Hugging Face hub as AIWM sees it: one child process for each download, `aiwm.files.fetcher`.

A child, because the hub's library blocks and can't be interrupted, and is large. It is told what to fetch and gets the
operator's variables for the hub and the network, and nothing else of AIWM's environment. It ends with AIWM.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import msgspec

from aiwm.domain.sources import HubFiles
from aiwm.errors import FetchFailed
from aiwm.files.fetcher import Failed, Fetched, Job, Told, Word

VARIABLES = (
    "HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "HF_HUB_OFFLINE",
    *(f"{name}_PROXY" for name in ("HTTP", "HTTPS", "ALL", "NO")),
    *(f"{name}_proxy" for name in ("http", "https", "all", "no")),
    "SSL_CERT_FILE", "SSL_CERT_DIR", "HOME", "PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH",
)  # fmt: skip
"""What a fetcher knows of the server's environment."""

_SILENCE_SECONDS = 120.0
"""Longer than a fetcher needs to give up by itself."""


class Hub:
    """Keeps repositories in `folder`. `variable` reads the server's environment."""

    def __init__(self, folder: Path, *, variable: Callable[[str], str | None]) -> None:
        self._folder = folder
        self._variable = variable

    async def fetch(self, source: HubFiles, tell: Callable[[Told], None]) -> Fetched:
        """Goes on where an earlier one was interrupted. Raises FetchFailed. When cancelled, nothing is left running."""
        environment = {name: value for name in VARIABLES if (value := self._variable(name))}
        environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
        try:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "aiwm.files.fetcher"),
                env=environment,
                stdin=PIPE,
                stdout=PIPE,
                # What the library writes may show addresses that are signed.
                stderr=DEVNULL,
                # Ctrl-C on the terminal is for AIWM to handle.
                start_new_session=True,
            )
        except OSError as error:
            raise FetchFailed(f"a process to fetch the files can't be started ({error.strerror}): try again") from error
        try:
            return await self._listen(child, source, tell)
        finally:
            with suppress(ProcessLookupError):
                child.kill()
            cast("StreamWriter", child.stdin).close()
            await asyncio.shield(child.wait())

    async def _listen(self, child: Process, source: HubFiles, tell: Callable[[Told], None]) -> Fetched:
        words, answers = cast("StreamWriter", child.stdin), cast("StreamReader", child.stdout)
        job = Job(source.repository, source.revision, source.file, str(self._folder))
        with suppress(ConnectionError):
            words.write(msgspec.json.encode(job) + b"\n")
            await words.drain()
        while True:
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    line = await answers.readline()
            except TimeoutError:
                raise FetchFailed("the download stood still: see the network of the server, and try again") from None
            if not line.endswith(b"\n"):
                code = await child.wait()
                raise FetchFailed(
                    f"the process that fetched the files ended without a word ({_ending(code)}): try again"
                )
            match msgspec.json.decode(line, type=Word):
                case Told() as told:
                    tell(told)
                case Failed(reason):
                    raise FetchFailed(reason)
                case Fetched() as fetched:
                    return fetched


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
