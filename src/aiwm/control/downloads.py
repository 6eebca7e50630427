"""The files of self-hosted models: fetched here, and nowhere else.

Of each `Place` there is at most one download, whoever waits for it: its task is the only writer of how far it has come,
and writes that for all models with the same place at once. It ends when the files are there, when they can't come, or
when no model waits for them any more. What was under way when AIWM ended goes on at the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiwm.domain.models import Download, ModelStatus
from aiwm.domain.sources import HubFiles, Place
from aiwm.domain.times import Clock
from aiwm.errors import FetchFailed, Invalid, Unavailable
from aiwm.files.fetcher import Told
from aiwm.files.folders import Folders
from aiwm.files.hub import Hub
from aiwm.logs import Log
from aiwm.store.models import ModelStore

_STEP_SECONDS = 0.5
"""How often progress is written, and how soon it is noticed that nobody waits."""

_log = Log(__name__)


class Downloads:
    """`at_once` limits how many come from the hub at the same time; 0: none do, models stay queued."""

    def __init__(
        self,
        *,
        store: ModelStore,
        hub: Hub,
        folders: Folders,
        at_once: int,
        clock: Clock,
        elsewhere: Callable[[Place], None] | None = None,
    ) -> None:
        """With `elsewhere` another process fetches what it is told of, and this one nothing."""
        self._elsewhere = elsewhere
        self._store = store
        self._hub = hub
        self._folders = folders
        self._hub_is_used = at_once > 0
        self._turns = asyncio.Semaphore(at_once)
        self._clock = clock
        self._tasks: dict[Place, asyncio.Task[None]] = {}
        self._asked_again: set[Place] = set()

    async def check(self, place: Place) -> None:
        """Raises Invalid for a place that files can never come from: said at once, to whoever names it."""
        source = place.source()
        if not isinstance(source, HubFiles):
            try:
                await asyncio.to_thread(self._folders.find, source)
            except Invalid as error:
                raise Invalid([f"{'repository' if place.path is None else 'downloadPath'}: {error}"]) from error

    async def watch(self, *, every_seconds: float = 5.0) -> None:
        """Begins what models wait for and nobody here fetches: what an AIWM that died left, or another one took in."""
        while self._elsewhere is None:
            with suppress(Unavailable):
                for place in await self._store.waited_for():
                    if place not in self._tasks:
                        self.begin(place)
            await asyncio.sleep(every_seconds)

    def begin(self, place: Place) -> None:
        """A model waits for these files from now on; the caller has written that before."""
        if self._elsewhere is not None:
            self._elsewhere(place)
            return
        if place in self._tasks:
            # It may be about to end because the last one that waited has gone.
            self._asked_again.add(place)
            return
        task = self._tasks[place] = asyncio.create_task(self._run(place))
        task.add_done_callback(lambda _: self._ended(place))

    async def aclose(self) -> None:
        """Nothing is left running; models stay as they are, for the next start."""
        tasks = list(self._tasks.values())
        self._asked_again.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, place: Place) -> None:
        del self._tasks[place]
        if place in self._asked_again:
            self._asked_again.discard(place)
            self.begin(place)

    async def _run(self, place: Place) -> None:
        try:
            source = place.source()
            if not isinstance(source, HubFiles):
                found = await asyncio.to_thread(self._folders.find, source)
                await self._arrived(place, str(found.path), found.size)
            elif self._hub_is_used:
                if self._turns.locked():
                    await self._is_waited_for(place, [])
                async with self._turns:
                    await self._fetch(place, source)
        except FetchFailed as error:
            await self._failed(place, ModelStatus.DOWNLOAD_FAILED, str(error))
        except (Invalid, OSError) as error:
            # It was there when the model was registered.
            await self._failed(place, ModelStatus.ERROR, str(error))
        except Exception:  # noqa: BLE001 - no model waits for ever for a task that broke
            _log.exception("a download broke", repository=place.repository)
            await self._failed(
                place, ModelStatus.ERROR, "Something went wrong in the gateway; its log has the details. Try again"
            )

    async def _fetch(self, place: Place, source: HubFiles) -> None:
        told: list[Told] = []
        fetching = asyncio.create_task(self._hub.fetch(source, lambda word: told.__setitem__(slice(None), [word])))
        try:
            while not fetching.done():
                if not await self._is_waited_for(place, told):
                    _log.info("a download was given up: no model waits for it", repository=place.repository)
                    return
                await asyncio.wait([fetching], timeout=_STEP_SECONDS)
            fetched = await fetching
            await self._arrived(place, fetched.path, fetched.size)
        finally:
            fetching.cancel()
            with suppress(asyncio.CancelledError, FetchFailed):
                await fetching

    async def _is_waited_for(self, place: Place, told: list[Told]) -> bool:
        """Writes what was told last; a database that is away is no reason to stop."""
        try:
            if not told:
                return await self._store.progress(place, ModelStatus.QUEUED, None)
            [last] = told
            status = ModelStatus.DOWNLOADED if last.checking else ModelStatus.DOWNLOADING
            download = Download(bytes_done=last.bytes_done, bytes_total=last.bytes_total, file=last.file)
            return await self._store.progress(place, status, download)
        except Unavailable:
            return True

    async def _arrived(self, place: Place, path: str, size: int) -> None:
        await self._written(lambda: self._store.arrived(place, path, size, at=self._clock()))
        _log.info("the files of a model are there", repository=place.repository, path=path, bytes=size)

    async def _failed(self, place: Place, status: ModelStatus, reason: str) -> None:
        await self._written(lambda: self._store.failed(place, status, reason, at=self._clock()))
        _log.warning("the files of a model did not come", repository=place.repository, reason=reason)

    async def _written(self, write: Callable[[], Awaitable[object]]) -> None:
        """The outcome must not be lost because the database was away for a while."""
        while True:
            try:
                await write()
            except Unavailable:
                await asyncio.sleep(_STEP_SECONDS)
            else:
                return
