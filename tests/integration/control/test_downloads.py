"""control/downloads.py: who is told how far files have come, when a download begins and ends, and what is shared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import patience
import store_rows as rows
from aiwm.control.downloads import Downloads
from aiwm.domain.models import DeploymentType, Download, Model, ModelStatus
from aiwm.domain.sources import HubFiles, Place
from aiwm.errors import FetchFailed, Invalid, Unavailable
from aiwm.files.fetcher import Fetched, Told
from aiwm.files.folders import Folders
from aiwm.files.hub import Hub
from aiwm.store.database import Database
from aiwm.store.models import ModelStore
from patience import PATIENCE
from people import Clock


@dataclass
class Fetching:
    """A fetch that a test drives."""

    source: HubFiles
    tell: Callable[[Told], None]
    outcome: asyncio.Future[Fetched] = field(default_factory=asyncio.Future)


class ScriptedHub(Hub):
    """No process: a test says what is told and how it ends."""

    def __init__(self) -> None:
        self.running: list[Fetching] = []
        self.started = 0

    async def fetch(self, source: HubFiles, tell: Callable[[Told], None]) -> Fetched:
        fetching = Fetching(source, tell)
        self.running.append(fetching)
        self.started += 1
        try:
            return await fetching.outcome
        finally:
            self.running.remove(fetching)


class Office:
    """Downloads on a database, and what a test asks of them."""

    def __init__(self, database: Database, folder: Path, *, at_once: int = 2) -> None:
        self.store = ModelStore(database)
        self.hub = ScriptedHub()
        self.clock = Clock()
        self.downloads = Downloads(
            store=self.store, hub=self.hub, folders=Folders([folder]), at_once=at_once, clock=self.clock
        )

    async def model(self, repository: str = "org/name", **changes: object) -> Model:
        """Registered, and waiting for its files."""
        of_a_provider = ("provider", "api_endpoint", "model_identifier", "api_config")
        fields = {"status": ModelStatus.QUEUED, "repository": repository, "framework": "vllm"} | changes
        model = rows.model(deployment_type=DeploymentType.SELF_HOSTED, **dict.fromkeys(of_a_provider), **fields)
        await self.store.add(model)
        self.downloads.begin(model.place)
        return model

    async def now(self, model: Model) -> Model:
        found = await self.store.by_id(model.id)
        assert found is not None
        return found

    async def until(self, model: Model, status: ModelStatus) -> Model:
        return await eventually(lambda: self.now(model), lambda found: found.status is status)

    async def fetching(self, number: int = 1) -> list[Fetching]:
        """So many are under way."""
        return await eventually(self._running, lambda running: len(running) == number)

    async def _running(self) -> list[Fetching]:
        return list(self.hub.running)


async def eventually(ask, is_so):  # type: ignore[no-untyped-def]
    for _ in range(50 * int(PATIENCE)):
        if is_so(found := await ask()):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"it never came to that: {found}")


@pytest.fixture
async def office(database: Database, tmp_path: Path) -> AsyncIterator[Office]:
    office = Office(database, tmp_path)
    yield office
    await office.downloads.aclose()
    assert office.hub.running == []


async def test_a_model_is_queued_downloading_checked_and_active(office: Office) -> None:
    model = await office.model(file_name="a.gguf")
    [fetching] = await office.fetching()
    assert fetching.source == HubFiles("org/name", "main", "a.gguf")
    assert (await office.now(model)).status is ModelStatus.QUEUED

    fetching.tell(Told(5, 10, "a.gguf"))
    shown = await office.until(model, ModelStatus.DOWNLOADING)
    assert shown.download == Download(bytes_done=5, bytes_total=10, file="a.gguf")
    fetching.tell(Told(10, 10, "a.gguf", checking=True))
    shown = await office.until(model, ModelStatus.DOWNLOADED)
    assert shown.download == Download(bytes_done=10, bytes_total=10, file="a.gguf")
    office.clock.ms = 1_900_000_000_000
    fetching.outcome.set_result(Fetched("/models/a.gguf", 10))
    shown = await office.until(model, ModelStatus.ACTIVE)

    assert shown == replace(
        model,
        status=ModelStatus.ACTIVE,
        download=Download(bytes_done=10, bytes_total=10, file="a.gguf"),
        download_path="/models/a.gguf",
        file_size=10,
        updated_at=1_900_000_000_000,
    )


async def test_models_of_the_same_files_share_one_download(office: Office) -> None:
    first = await office.model()
    [fetching] = await office.fetching()
    second = await office.model(org_id="blue")
    other = await office.model(file_name="a.gguf")
    await office.fetching(2)

    fetching.tell(Told(5, 10, "a"))
    for model in (first, second):
        assert (await office.until(model, ModelStatus.DOWNLOADING)).download is not None
    fetching.outcome.set_result(Fetched("/models/a", 10))
    for model in (first, second):
        assert (await office.until(model, ModelStatus.ACTIVE)).download_path == "/models/a"

    assert (await office.now(other)).status is ModelStatus.QUEUED


async def test_of_two_models_that_share_one_can_be_deleted(office: Office) -> None:
    first, second = await office.model(), await office.model()
    [fetching] = await office.fetching()
    await office.store.retire(first, first, deleted_at=5)
    fetching.tell(Told(5, 10, "a"))
    await office.until(second, ModelStatus.DOWNLOADING)
    fetching.outcome.set_result(Fetched("/models/a", 10))
    await office.until(second, ModelStatus.ACTIVE)


async def test_a_download_that_no_model_waits_for_ends(office: Office) -> None:
    model = await office.model()
    await office.fetching()
    await office.store.retire(model, model, deleted_at=5)
    await office.fetching(0)


async def test_a_model_that_comes_while_the_last_one_goes_gets_its_files(office: Office) -> None:
    model = await office.model()
    await office.fetching()
    await office.store.retire(model, model, deleted_at=5)
    late = await office.model()

    async def has_its_files() -> bool:
        # The fetch of the first one may go on, or end and be followed by another.
        for each in office.hub.running:
            if not each.outcome.done():
                each.outcome.set_result(Fetched("/models/a", 10))
        return (await office.now(late)).status is ModelStatus.ACTIVE

    await asyncio.sleep(0.6)
    await patience.eventually(has_its_files)


async def test_a_model_that_comes_when_the_files_have_just_arrived_gets_them_too(office: Office) -> None:
    first = await office.model()
    [fetching] = await office.fetching()
    fetching.outcome.set_result(Fetched("/models/a", 10))
    await office.until(first, ModelStatus.ACTIVE)
    second = await office.model()
    [fetching] = await office.fetching()
    fetching.outcome.set_result(Fetched("/models/a", 10))
    await office.until(second, ModelStatus.ACTIVE)


async def test_why_a_download_failed_is_said_to_all_that_waited(office: Office) -> None:
    models = [await office.model(), await office.model()]
    [fetching] = await office.fetching()
    fetching.outcome.set_exception(FetchFailed("no access: set HF_TOKEN"))
    for model in models:
        shown = await office.until(model, ModelStatus.DOWNLOAD_FAILED)
        assert shown.error_message == "no access: set HF_TOKEN"
    await office.fetching(0)


async def test_a_mistake_of_ours_leaves_no_model_waiting_for_ever(office: Office) -> None:
    model = await office.model()
    [fetching] = await office.fetching()
    fetching.outcome.set_exception(ZeroDivisionError("secret details"))
    shown = await office.until(model, ModelStatus.ERROR)
    assert shown.error_message == "Something went wrong in the gateway; its log has the details. Try again"


async def test_only_so_many_come_at_once_and_the_others_are_in_line(database: Database, tmp_path: Path) -> None:
    office = Office(database, tmp_path, at_once=1)
    first, second = await office.model("org/first"), await office.model("org/second", status=ModelStatus.DOWNLOADING)
    [fetching] = await office.fetching()
    fetching.tell(Told(5, 10, "a"))
    await office.until(first, ModelStatus.DOWNLOADING)
    # It was under way before AIWM was started again.
    await office.until(second, ModelStatus.QUEUED)
    assert office.hub.started == 1
    fetching.outcome.set_result(Fetched("/models/a", 10))
    await eventually(office._running, lambda running: [each.source.repository for each in running] == ["org/second"])
    await office.downloads.aclose()


async def test_what_is_under_way_when_aiwm_stops_goes_on_at_the_next_start(database: Database, tmp_path: Path) -> None:
    before = Office(database, tmp_path)
    models = [await before.model(), await before.model(file_name="a.gguf"), await before.model()]
    running = await before.fetching(2)
    running[0].tell(Told(5, 10, "a"))
    await before.until(models[0], ModelStatus.DOWNLOADING)
    await before.downloads.aclose()
    assert before.hub.running == []
    assert (await before.now(models[0])).status is ModelStatus.DOWNLOADING

    after = Office(database, tmp_path)
    async with watching(after):
        for fetching in await after.fetching(2):
            fetching.outcome.set_result(Fetched("/models/a", 10))
        for model in models:
            await after.until(model, ModelStatus.ACTIVE)


@asynccontextmanager
async def watching(office: Office) -> AsyncIterator[None]:
    task = asyncio.create_task(office.downloads.watch(every_seconds=0.05))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await office.downloads.aclose()


async def test_what_another_aiwm_on_the_database_takes_in_is_fetched_by_the_one_that_fetches(
    database: Database, tmp_path: Path
) -> None:
    door, worker = Office(database, tmp_path, at_once=0), Office(database, tmp_path)
    async with watching(worker), watching(door):
        model = await door.model()
        [fetching] = await worker.fetching()
        fetching.tell(Told(5, 10, "a"))
        await door.until(model, ModelStatus.DOWNLOADING)
        fetching.outcome.set_result(Fetched("/models/a", 10))
        await door.until(model, ModelStatus.ACTIVE)
        assert (door.hub.started, worker.hub.started) == (0, 1)


async def test_an_aiwm_that_is_told_to_fetch_nothing_leaves_models_in_line(database: Database, tmp_path: Path) -> None:
    office = Office(database, tmp_path, at_once=0)
    model = await office.model()
    (tmp_path / "file").write_bytes(b"12345")
    local = await office.model(f"file://{tmp_path / 'file'}")
    # What is on this server's disk has not to be fetched.
    await office.until(local, ModelStatus.ACTIVE)
    assert await office.now(model) == model
    assert office.hub.started == 0
    await office.downloads.aclose()


async def test_files_of_this_server_are_there_at_once(office: Office, tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "a.gguf").write_bytes(b"12345")
    whole = await office.model(f"file://{tmp_path / 'llama'}")
    one = await office.model(f"file://{tmp_path / 'llama'}", file_name="a.gguf")
    known = await office.model("org/name", download_path=str(tmp_path / "llama"))
    for model, path in ((whole, "llama"), (one, "llama/a.gguf"), (known, "llama")):
        shown = await office.until(model, ModelStatus.ACTIVE)
        assert (shown.download_path, shown.file_size) == (str(tmp_path / path), 5)
    assert office.hub.started == 0


async def test_a_file_that_went_away_since_is_an_error(office: Office, tmp_path: Path) -> None:
    model = await office.model(f"file://{tmp_path / 'nowhere'}")
    shown = await office.until(model, ModelStatus.ERROR)
    assert shown.error_message == f"there is no file or folder {tmp_path / 'nowhere'} on this server"


async def test_a_place_is_judged_before_a_model_is_made(office: Office, tmp_path: Path) -> None:
    await office.downloads.check(Place("org/name"))
    with pytest.raises(Invalid, match=r"^repository: /etc is not below a folder of AIWM_MODEL_PATHS"):
        await office.downloads.check(Place("file:///etc"))
    with pytest.raises(Invalid, match=r"^downloadPath: there is no file or folder"):
        await office.downloads.check(Place("org/name", "x", str(tmp_path)))


async def test_a_database_that_is_away_for_a_while_loses_no_outcome(database: Database, tmp_path: Path) -> None:
    class Away(ModelStore):
        failing = 0

        async def progress(self, *args: object) -> bool:  # type: ignore[override]
            self._fail()
            return await super().progress(*args)  # type: ignore[arg-type]

        async def arrived(self, *args: object, at: int) -> object:  # type: ignore[override]
            self._fail()
            return await super().arrived(*args, at=at)  # type: ignore[arg-type]

        def _fail(self) -> None:
            if self.failing:
                self.failing -= 1
                raise Unavailable

    office = Office(database, tmp_path)
    office.store = office.downloads._store = Away(database)
    model = await office.model()
    [fetching] = await office.fetching()
    office.store.failing = 1
    fetching.tell(Told(5, 10, "a"))
    await office.until(model, ModelStatus.DOWNLOADING)
    office.store.failing = 2
    fetching.outcome.set_result(Fetched("/models/a", 10))
    await office.until(model, ModelStatus.ACTIVE)
    assert office.store.failing == 0
    await office.downloads.aclose()
