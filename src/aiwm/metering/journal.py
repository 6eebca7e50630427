"""The crash-safe file between the data plane and the ledger.

Each process appends to a file of its own: a line when a request is about to go out (`opened`), a line when its answer
is about to end (`closed`). The file is mapped into memory and its room is taken from the disk beforehand, so a line is
a copy of some hundred bytes: it survives `kill -9`, needs no call of the kernel, and can't meet a full disk. An fsync
every few milliseconds bounds what a power cut can take. Rows leave the journal when the ledger has them, and a file is
removed when all of its have left.

A line is a checksum (CRC-32 over the rest, in hex), a kind (`O` or `C`) and the row as JSON. The opening is already the
row to book if the process dies: `gateway-died`. So recovery is to read the files that no living process holds, to
let closings replace openings, and to hand the rows to the ledger, which takes each request once. A line of the kind `S`
has the ids of rows that the ledger got: it need not know them for ever.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from zlib import crc32

import msgspec

from aiwm.domain.usage import UsageRow
from aiwm.errors import StartError, Unavailable
from aiwm.logs import Log
from aiwm.metering.subject import Begun, Subject

_SUFFIX = ".journal"
_SEGMENT_BYTES = 4 * 1024 * 1024
"""Room of a file. When it is used up a new one follows, so that old rows can be removed."""
_KEPT_FREE = 16
"""The last part of this many parts of a file is for closings: what was let out can be booked on a full disk."""
_RECOVERED_BATCH = 1000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(UsageRow).decode
_decode_ids = msgspec.json.Decoder(list[str]).decode
_log = Log(__name__)

Save = Callable[[Sequence[UsageRow]], Awaitable[None]]


class _Segment:
    """One file, locked as long as it is open: the lock is what tells other processes that its owner lives."""

    __slots__ = ("_map", "_room", "_room_to_open", "descriptor", "path", "size", "unsettled")

    def __init__(self, folder: Path, room: int) -> None:
        """Raises OSError when the disk has no room for it."""
        self.path = folder / f"{os.getpid()}-{secrets.token_hex(8)}{_SUFFIX}"
        # Locked before it has the name that recovery looks for: nobody can take it for a dead process's.
        draft = self.path.with_suffix(".new")
        self.descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            os.posix_fallocate(self.descriptor, 0, room)
            self._map = mmap.mmap(self.descriptor, room)
            draft.rename(self.path)
        except BaseException:
            os.close(self.descriptor)
            draft.unlink(missing_ok=True)
            raise
        self._room = room
        self._room_to_open = room - room // _KEPT_FREE
        self.size = 0
        self.unsettled: set[str] = set()
        """Requests with a line in here that the ledger does not have yet."""

    def append(self, lines: bytes, *, opening: bool) -> bool:
        """False when there is no room for them."""
        end = self.size + len(lines)
        if end > (self._room_to_open if opening else self._room):
            return False
        self._map[self.size : end] = lines
        self.size = end
        return True

    def close(self) -> None:
        """Leaves it to the next start."""
        self._map.close()
        os.close(self.descriptor)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()


class Journal:
    """Owned by one process. `opened` and `closed` are a write each, with no waiting."""

    def __init__(self, folder: Path, *, fsync_seconds: float, segment_bytes: int = _SEGMENT_BYTES) -> None:
        """`fsync_seconds` 0 makes every line durable before the call returns. Raises StartError."""
        self._folder = folder
        self._fsync_seconds = fsync_seconds
        self._segment_bytes = segment_bytes
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._current = _Segment(folder, segment_bytes)
        except OSError as error:
            raise StartError(f"the journal can't be written in {folder}: {error.strerror}") from error
        self._older: list[_Segment] = []
        self._dirty: dict[_Segment, None] = {}
        self._any_dirty = asyncio.Event()
        self.failing = False
        """Whether the last line could not be written. Requests are refused until one can be."""

    def opened(self, subject: Subject, begun: Begun) -> None:
        """Before a request goes out. Raises Unavailable when it can't be booked: then it must not go out."""
        if not self._append(_line(b"O", subject.opening(begun)), (begun.request_id,), opening=True):
            raise Unavailable(
                "The journal can't be written, so the request would not be booked; the operator must make room"
            )

    def closed(self, rows: Sequence[UsageRow]) -> None:
        """Before their callers get the last byte. When they can't be written, the ledger still gets them."""
        lines = [_line(b"C", _encode(row)) for row in rows]
        ids = [row.request_id for row in rows]
        if not self._append(b"".join(lines), ids, opening=False) and len(rows) > 1:
            # On a full disk there may be room for some.
            for line, id_ in zip(lines, ids, strict=True):
                self._append(line, (id_,), opening=False)

    def settled(self, rows: Sequence[UsageRow]) -> None:
        """The ledger has these rows: files that hold nothing else are removed."""
        ids = [row.request_id for row in rows]
        for segment in (self._current, *self._older):
            segment.unsettled.difference_update(ids)
        for segment in [segment for segment in self._older if not segment.unsettled]:
            self._older.remove(segment)
            self._dirty.pop(segment, None)
            segment.remove()
        self._current.append(_line(b"S", _encode(ids)), opening=True)

    async def run(self) -> None:
        """Makes lines durable, until cancelled."""
        loop = asyncio.get_running_loop()
        while self._fsync_seconds:
            await self._any_dirty.wait()
            await asyncio.sleep(self._fsync_seconds)
            self._any_dirty.clear()
            dirty, self._dirty = self._dirty, {}
            for segment in dirty:
                if segment not in (self._current, *self._older):
                    continue  # Removed while another one was waited for: the ledger has all of it.
                descriptor = os.dup(segment.descriptor)
                try:
                    await loop.run_in_executor(None, os.fsync, descriptor)
                except OSError as error:
                    self._fails(error)
                finally:
                    os.close(descriptor)

    def close(self) -> None:
        """Removes what is settled; the rest is for the next start to recover."""
        for segment in (self._current, *self._older):
            if segment.unsettled:
                segment.close()
            else:
                segment.remove()

    def _append(self, lines: bytes, ids: Iterable[str], *, opening: bool) -> bool:
        """False when they can't be written. `ids` are those of their requests."""
        try:
            segment = self._current
            if not segment.append(lines, opening=opening):
                segment = self._turned(len(lines))
                segment.append(lines, opening=opening)
            if not self._fsync_seconds:
                os.fsync(segment.descriptor)
        except OSError as error:
            self._fails(error)
            return False
        segment.unsettled.update(ids)
        if segment not in self._dirty:
            self._dirty[segment] = None
            self._any_dirty.set()
        if self.failing and opening:  # A closing finds room where no opening does.
            self.failing = False
            _log.warning("the journal is written again")
        return True

    def _turned(self, least: int) -> _Segment:
        """A new file, with room for a line of this size. Raises OSError."""
        fresh = _Segment(self._folder, max(self._segment_bytes, least + least // (_KEPT_FREE - 1) + 1))
        old, self._current = self._current, fresh
        if old.unsettled:
            self._older.append(old)
        else:
            self._dirty.pop(old, None)
            old.remove()
        return fresh

    def _fails(self, error: OSError) -> None:
        if not self.failing:
            _log.error("the journal can't be written", reason=error.strerror, folder=str(self._folder))
        self.failing = True


def _line(kind: bytes, said: bytes) -> bytes:
    text = kind + b" " + said
    return b"%08x %b\n" % (crc32(text), text)


async def recover(folder: Path, save: Save) -> int:
    """Moves what dead processes left into the ledger and removes their files; answers how many rows that were.

    A row that the ledger has already changes nothing there. Raises Unavailable when the ledger can't be written: then
    the files stay.
    """
    found = _abandoned_in(folder)
    try:
        # All files together: a long answer may have been opened in one and closed in the next.
        rows: dict[str, UsageRow] = {}
        settled: set[str] = set()
        for path, _ in found:
            _read(path, rows, settled)
        last_words = [row for id_, row in rows.items() if id_ not in settled]
        for first in range(0, len(last_words), _RECOVERED_BATCH):
            await save(last_words[first : first + _RECOVERED_BATCH])
        for path, _ in found:
            path.unlink(missing_ok=True)
    finally:
        for _, descriptor in found:
            os.close(descriptor)
    if last_words:
        _log.warning("recovered the journals of processes that died", rows=len(last_words), files=len(found))
    return len(last_words)


async def watch(recovered: Callable[[], Awaitable[object]], *, every_seconds: float = 5.0) -> None:
    """Recovers what other processes leave when they die, until cancelled. A ledger that is away is tried again."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await recovered()
        except Unavailable:
            continue
        except Exception:  # noqa: BLE001 - the files are still there
            _log.exception("journals of processes that died can't be moved; it is tried again")


def _abandoned_in(folder: Path) -> list[tuple[Path, int]]:
    """Files and locked descriptors of processes that are no more."""
    return [
        (path, descriptor)
        for path in sorted(folder.glob(f"*{_SUFFIX}"))
        if (descriptor := _abandoned(path)) is not None
    ]


def _abandoned(path: Path) -> int | None:
    """The file, locked by us; None while a living process holds it, or when it has been removed meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    # Who had the lock before may have settled all of it after we had opened it.
    if not os.fstat(descriptor).st_nlink:
        os.close(descriptor)
        return None
    return descriptor


def _read(path: Path, rows: dict[str, UsageRow], settled: set[str]) -> None:
    """Adds the last line of each request in a file to `rows`, by request id; a closing replaces an opening."""
    damaged = 0
    with path.open("rb") as file:
        for kind, said in _lines(file):
            if said is None:
                damaged += 1
            elif not isinstance(said, UsageRow):
                settled.update(said)
            elif kind == b"C" or said.request_id not in rows:
                rows[said.request_id] = said
    if damaged:
        _log.warning("lines of a journal are not whole and were passed over", lines=damaged, file=path.name)


def _lines(file: Iterator[bytes]) -> Iterator[tuple[bytes, UsageRow | Sequence[str] | None]]:
    """Kind of each line, and what it says; nothing for a line that is not what was once written."""
    for line in file:
        text = line.rstrip(b"\n")
        if not text.strip(b"\0"):
            continue  # Room that was not used.
        checksum, _, rest = text.partition(b" ")
        try:
            if not line.endswith(b"\n") or int(checksum, 16) != crc32(rest):
                yield b"", None
                continue
            yield rest[:1], (_decode_ids if rest[:1] == b"S" else _decode)(rest[2:])
        except (ValueError, msgspec.DecodeError):
            yield b"", None
