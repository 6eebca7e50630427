"""What an engine writes: a file that it appends to itself, kept short by us.

Not a pipe: an engine lives on when AIWM is gone, and must be able to go on writing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from pathlib import Path

MAX_BYTES = 4 * 1024 * 1024
KEPT_BYTES = 1024 * 1024
"""What stays, at least, of a file that has grown larger than MAX_BYTES."""

_LONGEST_LINE = 2000
_LOOK_SECONDS = 0.25
_HIDDEN = "…"


class Lines:
    """The file may not be there yet, and may be gone again. `secret` is never shown."""

    def __init__(self, path: Path, *, secret: str = "") -> None:
        self._path = path
        self._secret = secret

    def last(self, number: int) -> Sequence[str]:
        tail = self.read(max(0, self.size() - min(KEPT_BYTES, number * _LONGEST_LINE)))
        return shown(tail, [self._secret]).splitlines()[-number:] if number else []

    def shorten(self) -> None:
        """Call now and then. What is written at the very moment may be lost."""
        if self.size() <= MAX_BYTES:
            return
        tail = self.read(self.size() - KEPT_BYTES)
        # The engine has the file open to append to: the same file must become short.
        with self._path.open("r+b") as file:
            file.truncate(0)
            file.write(tail[tail.find(b"\n") + 1 :])

    def note(self, text: str) -> None:
        """A line of ours among the engine's."""
        self.append(f"[aiwm] {text}\n".encode())

    def append(self, data: bytes) -> None:
        """What an engine wrote elsewhere."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def reader(self, last: int) -> Reader:
        """From the last lines on."""
        return Reader(self, sum(len(line) for line in self._tail(last)))

    def _tail(self, number: int) -> Sequence[bytes]:
        data = self.read(max(0, self.size() - KEPT_BYTES))
        return data.splitlines(keepends=True)[-number:] if number else []

    def size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def read(self, position: int) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(position)
                return file.read(MAX_BYTES)
        except OSError:
            return b""


class Reader:
    """Reads on where it stopped."""

    def __init__(self, lines: Lines, back: int) -> None:
        self._lines = lines
        self._position = max(0, lines.size() - back)

    def more(self) -> bytes:
        """What has come since, up to the end of the last whole line."""
        if self._lines.size() < self._position:
            self._position = 0  # It was shortened, or is another file.
        data = self._lines.read(self._position)
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        return whole


async def followed(
    files: Callable[[], Mapping[int, Lines]],
    secrets: Callable[[], Collection[str]],
    *,
    last: int,
    until: Callable[[], bool],
) -> AsyncGenerator[bytes, None]:
    """The last lines of all replicas, then what comes, `until` says that it is enough. `secrets` are not shown."""
    readers: dict[int, Reader] = {}
    enough = False
    while True:
        found = files()
        for number, lines in found.items():
            if number not in readers:
                readers[number] = lines.reader(last)
            text = shown(readers[number].more(), secrets())
            if len(found) > 1:
                text = "".join(f"[{number}] {line}" for line in text.splitlines(keepends=True))
            if text:
                yield text.encode()
        if enough:
            return
        enough = until()
        if not enough:
            await asyncio.sleep(_LOOK_SECONDS)


def shown(data: bytes, secrets: Collection[str]) -> str:
    """For people: without secrets, and without what would drive a terminal."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    for secret in filter(None, secrets):
        text = text.replace(secret, _HIDDEN)
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)
