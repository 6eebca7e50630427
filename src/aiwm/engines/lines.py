"""What an engine writes: a file that it appends to itself, kept short by us.

Not a pipe: an engine lives on when AIWM is gone, and must be able to go on writing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
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
        tail = self._read(max(0, self._size() - min(KEPT_BYTES, number * _LONGEST_LINE)))
        return self._shown(tail).splitlines()[-number:] if number else []

    async def follow(self, *, last: int, forever: bool = True) -> AsyncGenerator[str, None]:
        """The last lines, then what comes, until the reader has enough. Pieces end with a line."""
        begun = self.last(last)
        position = self._size()
        yield "".join(f"{line}\n" for line in begun)
        rest = b""
        while forever:
            size = self._size()
            if size < position:
                position = 0  # It was shortened, or is another file.
            data = rest + self._read(position)
            position += len(data) - len(rest)
            whole, _, rest = data.rpartition(b"\n")
            if whole:
                yield self._shown(whole) + "\n"
            else:
                await asyncio.sleep(_LOOK_SECONDS)

    def shorten(self) -> None:
        """Call now and then. What is written at the very moment may be lost."""
        if self._size() <= MAX_BYTES:
            return
        tail = self._read(self._size() - KEPT_BYTES)
        # The engine has the file open to append to: the same file must become short.
        with self._path.open("r+b") as file:
            file.truncate(0)
            file.write(tail[tail.find(b"\n") + 1 :])

    def note(self, text: str) -> None:
        """A line of ours among the engine's."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"[aiwm] {text}\n".encode())
        finally:
            os.close(descriptor)

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def _read(self, position: int) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(position)
                return file.read(MAX_BYTES)
        except OSError:
            return b""

    def _shown(self, data: bytes) -> str:
        text = data.decode("utf-8", "replace").replace("\r", "\n")
        if self._secret:
            text = text.replace(self._secret, _HIDDEN)
        return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)
