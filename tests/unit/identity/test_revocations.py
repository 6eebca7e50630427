import asyncio
from collections.abc import Collection, Sequence

from aiwm.errors import Unavailable
from aiwm.identity.revocations import Revocations, Revoked
from logged import logged
from patience import PATIENCE

HOUR = 3_600_000


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


class Store:
    """The sessions table, as far as revocations see it."""

    def __init__(self) -> None:
        self.rows: list[Revoked] = []
        self.asked: list[int] = []
        self.away = False

    async def read(self, since: int) -> Sequence[Revoked]:
        if self.away:
            raise Unavailable
        self.asked.append(since)
        return [row for row in self.rows if row[1] >= since]


async def test_what_this_process_revokes_applies_at_once_and_is_told_once() -> None:
    told: list[Collection[str]] = []
    revocations = Revocations(keep_seconds=3600, clock=Clock())
    revocations.on_revoked(told.append)

    revocations.revoke(["a", "b"])
    revocations.revoke(["b", "c"])

    assert "a" in revocations
    assert "d" not in revocations
    assert told == [{"a", "b"}, {"c"}]


async def test_what_another_process_revoked_is_seen_at_the_next_look() -> None:
    store, clock = Store(), Clock()
    revocations = Revocations(keep_seconds=3600, clock=clock)
    await revocations.refresh(store.read)
    store.rows.append(("theirs", clock.now))

    await revocations.refresh(store.read)

    assert "theirs" in revocations


async def test_the_first_look_goes_back_as_far_as_a_token_can_live() -> None:
    store, clock = Store(), Clock()
    store.rows = [("recent", clock.now - HOUR), ("long ago", clock.now - 2 * HOUR)]
    revocations = Revocations(keep_seconds=3600, clock=clock)

    await revocations.refresh(store.read)

    assert "recent" in revocations
    assert "long ago" not in revocations


async def test_later_looks_read_only_what_is_new_and_a_minute_before() -> None:
    store, clock = Store(), Clock()
    revocations = Revocations(keep_seconds=3600, clock=clock)
    await revocations.refresh(store.read)
    first = clock.now
    clock.now += 500

    await revocations.refresh(store.read)

    assert store.asked[1] == first - 60_000


async def test_a_row_of_a_clock_that_is_behind_is_still_seen() -> None:
    store, clock = Store(), Clock()
    revocations = Revocations(keep_seconds=3600, clock=clock)
    await revocations.refresh(store.read)
    store.rows.append(("theirs", clock.now - 20_000))

    await revocations.refresh(store.read)

    assert "theirs" in revocations


async def test_a_revocation_is_forgotten_when_no_token_can_be_left() -> None:
    store, clock = Store(), Clock()
    revocations = Revocations(keep_seconds=3600, clock=clock)
    revocations.revoke(["old"])
    clock.now += HOUR
    await revocations.refresh(store.read)
    assert "old" in revocations

    clock.now += 60_001
    await revocations.refresh(store.read)

    assert "old" not in revocations


async def test_watching_goes_on_when_the_store_was_away() -> None:
    store, clock = Store(), Clock()
    store.away = True
    revocations = Revocations(keep_seconds=3600, clock=clock)
    seen = asyncio.Event()
    revocations.on_revoked(lambda _: seen.set())

    with logged() as logs:
        watching = asyncio.create_task(revocations.watch(store.read, every_seconds=0.001))
        await asyncio.sleep(0.02)
        store.rows.append(("theirs", clock.now))
        store.away = False
        await asyncio.wait_for(seen.wait(), PATIENCE)
        watching.cancel()

    assert len(logs) == 1
