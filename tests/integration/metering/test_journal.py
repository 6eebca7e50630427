"""metering/journal: what was appended is found again, whatever happened to the process or the file."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rows
from aiwm.domain.usage import End, UsageRow
from aiwm.errors import StartError, Unavailable
from aiwm.metering.journal import Journal, recover, watch
from patience import PATIENCE
from rows import begun, closing, opening


class Ledger:
    def __init__(self) -> None:
        self.rows: dict[str, UsageRow] = {}
        self.away = False

    async def save(self, rows: Sequence[UsageRow]) -> None:
        if self.away:
            raise Unavailable
        for row in rows:
            self.rows.setdefault(row.request_id, row)


def journal(folder: Path, **options: int) -> Journal:
    return Journal(folder, fsync_seconds=0, **options)


def died(journal: Journal) -> None:
    """What a kill leaves: the files, and no lock on them."""
    for segment in (journal._current, *journal._older):
        segment.close()


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def test_what_a_dead_process_left_is_moved_into_the_ledger_and_its_files_are_removed(tmp_path: Path) -> None:
    ours = journal(tmp_path)
    for number in (1, 2, 3):
        ours.opened(*begun(number))
    ours.closed([closing(2)])
    died(ours)
    ledger = Ledger()
    assert await recover(tmp_path, ledger.save) == 3
    assert ledger.rows == {row.request_id: row for row in (opening(1), closing(2), opening(3))}
    assert files(tmp_path) == []
    assert await recover(tmp_path, ledger.save) == 0


async def test_an_answer_opened_in_one_file_and_closed_in_the_next_is_complete(tmp_path: Path) -> None:
    ours = journal(tmp_path, segment_bytes=1)
    ours.opened(*begun(1))
    ours.opened(*begun(2))
    ours.closed([closing(1)])
    assert len(files(tmp_path)) == 3
    died(ours)
    ledger = Ledger()
    await recover(tmp_path, ledger.save)
    assert ledger.rows[opening(1).request_id] == closing(1)
    assert ledger.rows[opening(2).request_id].end is End.GATEWAY_DIED


async def test_the_journal_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    ours = journal(tmp_path)
    ours.opened(*begun(1))
    ledger = Ledger()
    assert await recover(tmp_path, ledger.save) == 0
    assert len(files(tmp_path)) == 1
    died(ours)


async def test_a_ledger_that_is_away_leaves_the_files_for_the_next_time(tmp_path: Path) -> None:
    ours = journal(tmp_path)
    ours.opened(*begun(1))
    died(ours)
    ledger = Ledger()
    ledger.away = True
    with pytest.raises(Unavailable):
        await recover(tmp_path, ledger.save)
    ledger.away = False
    assert await recover(tmp_path, ledger.save) == 1


async def test_a_journal_that_is_settled_leaves_no_file_and_one_that_is_not_does(tmp_path: Path) -> None:
    ours = journal(tmp_path)
    ours.opened(*begun(1))
    ours.closed([closing(1)])
    ours.settled([closing(1)])
    ours.close()
    assert files(tmp_path) == []
    another = journal(tmp_path)
    another.opened(*begun(2))
    another.close()
    ledger = Ledger()
    assert await recover(tmp_path, ledger.save) == 1


async def test_old_files_go_when_the_ledger_has_all_of_their_rows(tmp_path: Path) -> None:
    ours = journal(tmp_path, segment_bytes=1)
    for number in range(1, 6):
        ours.opened(*begun(number))
        ours.closed([closing(number)])
    assert len(files(tmp_path)) == 10
    ours.settled([closing(number) for number in range(1, 6)])
    assert len(files(tmp_path)) == 1
    ours.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_a_file_that_ends_anywhere_loses_nothing_but_the_line_it_ends_in(
    tmp_path: Path, data: st.DataObject
) -> None:
    ours = journal(tmp_path)
    for number in range(1, 5):
        ours.opened(*begun(number))
    died(ours)
    [path] = files(tmp_path)
    whole = path.read_bytes().rstrip(b"\0")
    end = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:end])
    ledger = Ledger()
    assert await recover(tmp_path, ledger.save) == whole[:end].count(b"\n")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_a_damaged_byte_costs_the_lines_it_touches_and_no_other(tmp_path: Path, data: st.DataObject) -> None:
    ours = journal(tmp_path)
    for number in range(1, 5):
        ours.opened(*begun(number))
    died(ours)
    [path] = files(tmp_path)
    damaged = bytearray(path.read_bytes().rstrip(b"\0"))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    ledger = Ledger()
    assert await recover(tmp_path, ledger.save) in {2, 3}
    assert all(row == opening(int(id_, 16)) for id_, row in ledger.rows.items())


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from rows import begun
from aiwm.errors import Unavailable
from aiwm.metering.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]), fsync_seconds=0, segment_bytes=3000)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
written = refused = 0
for number in range(1, 20):
    try:
        journal.opened(*begun(number))
        written += 1
    except Unavailable:
        refused += 1
assert journal.failing
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.opened(*begun(100))
assert not journal.failing
print(written, refused, flush=True)
signal.pause()
"""


def test_a_full_disk_refuses_requests_and_loses_none_that_was_accepted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL_DISK, str(tmp_path)]
    tests = str(Path(rows.__file__).parent)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | {"PYTHONPATH": tests}
    ) as process:
        assert process.stdout is not None
        written, refused = map(int, process.stdout.readline().split())
        process.send_signal(signal.SIGKILL)
    assert written > 0
    assert refused > 0
    ledger = Ledger()
    assert asyncio.run(recover(tmp_path, ledger.save)) == written + 1
    assert opening(100).request_id in ledger.rows


async def test_what_the_ledger_had_before_the_end_is_not_moved_again(tmp_path: Path) -> None:
    # It may have been let go since, by age: its sums would be counted twice.
    ours = journal(tmp_path)
    for number in (1, 2, 3):
        ours.opened(*begun(number))
        ours.closed([closing(number)])
    ours.settled([closing(1), closing(3)])
    ours.opened(*begun(4))
    died(ours)
    ledger = Ledger()
    assert await recover(tmp_path, ledger.save) == 2
    assert set(ledger.rows.values()) == {closing(2), opening(4)}
    assert files(tmp_path) == []


def test_what_is_settled_takes_no_room_that_is_kept_for_closings(tmp_path: Path) -> None:
    ours = journal(tmp_path, segment_bytes=10_000)
    ours.opened(*begun(1))
    for _ in range(1000):
        ours.settled([closing(number) for number in range(2, 10)])
    assert len(files(tmp_path)) == 1
    ours.closed([closing(1)])
    assert len(files(tmp_path)) == 1
    died(ours)
    ledger = Ledger()
    asyncio.run(recover(tmp_path, ledger.save))
    assert list(ledger.rows.values()) == [closing(1)]


async def test_a_file_that_its_owner_removes_while_it_is_looked_at_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = journal(tmp_path)
    left.opened(*begun(1))
    [name] = files(tmp_path)
    died(left)
    lock = fcntl.flock

    def lock_late(descriptor: int, how: int) -> None:
        name.unlink()  # By another process, which had it and has just moved its rows.
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    assert await recover(tmp_path, Ledger().save) == 0


async def test_files_that_are_settled_while_others_are_made_durable_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Journal(tmp_path, fsync_seconds=0.001, segment_bytes=1)
    for number in range(1, 6):
        ours.opened(*begun(number))
    loop, synced = asyncio.get_running_loop(), asyncio.Event()
    inode = os.fstat(ours._current.descriptor).st_ino

    def fsync(descriptor: int) -> None:
        ours.settled([opening(number) for number in range(1, 5)])
        if os.fstat(descriptor).st_ino == inode:
            loop.call_soon_threadsafe(synced.set)

    monkeypatch.setattr(os, "fsync", fsync)
    running = asyncio.create_task(ours.run())
    waiting = asyncio.create_task(synced.wait())
    await asyncio.wait((running, waiting), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    assert synced.is_set()
    assert not running.done()
    running.cancel()
    assert len(files(tmp_path)) == 1
    died(ours)


@pytest.mark.parametrize("error", [Unavailable(), OSError("the disk is gone")], ids=["away", "unexpected"])
async def test_journals_of_the_dead_are_moved_as_soon_as_they_can_be(tmp_path: Path, error: Exception) -> None:
    ours = journal(tmp_path)
    ours.opened(*begun(1))
    died(ours)
    errors, moved = [error, error], asyncio.Event()

    async def save(rows: Sequence[UsageRow]) -> None:
        if errors:
            raise errors.pop()
        moved.set()

    watching = asyncio.create_task(watch(lambda: recover(tmp_path, save), every_seconds=0.01))
    async with asyncio.timeout(PATIENCE):
        await moved.wait()
    watching.cancel()


def _let_out_until_full(ours: Journal, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many requests the journal let out on a disk that has no room for another file."""

    def full(descriptor: int, offset: int, room: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    let_out = 0
    with suppress(Unavailable):
        while True:
            ours.opened(*begun(let_out + 1))
            let_out += 1
    return let_out


def test_as_long_as_requests_are_refused_a_closing_that_found_room_does_not_say_that_all_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = journal(tmp_path, segment_bytes=8000)
    let_out = _let_out_until_full(ours, monkeypatch)
    assert ours.failing
    ours.closed([closing(let_out)])
    assert ours.failing
    monkeypatch.undo()
    ours.opened(*begun(100))
    assert not ours.failing
    died(ours)
    ledger = Ledger()
    asyncio.run(recover(tmp_path, ledger.save))
    assert ledger.rows[opening(let_out).request_id] == closing(let_out)


def test_of_answers_that_end_together_a_full_disk_keeps_those_that_find_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = journal(tmp_path, segment_bytes=8000)
    let_out = _let_out_until_full(ours, monkeypatch)
    ours.closed([closing(number) for number in range(1, let_out + 1)])
    died(ours)
    ledger = Ledger()
    asyncio.run(recover(tmp_path, ledger.save))
    assert len(ledger.rows) == let_out
    closed = [number for number in range(1, let_out + 1) if ledger.rows[opening(number).request_id] == closing(number)]
    assert closed
    assert closed == list(range(1, len(closed) + 1))
    assert len(closed) < let_out


def test_a_folder_that_cannot_be_written_is_said_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="journal can't be written"):
        journal(tmp_path / "file")
