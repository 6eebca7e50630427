"""The files of self-hosted models over HTTP, from a hub of our own and from folders of the server."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from aiwm.domain.users import Role
from hub import Faults, Hub, Repository
from inside import Caller, Inside, inside, self_hosted
from patience import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

WEIGHTS = random.Random(2).randbytes(400_000)
TOKEN = "hf_0123456789abcdefghijklmnop"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def aiwm(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> AsyncIterator[Inside]:
    folder = tmp_path_factory.mktemp("aiwm")
    (folder / "opened").mkdir()
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(folder / "home")}
    settings: dict[str, Any] = {"parallel_downloads": 4, "model_paths": (folder / "opened",)}
    async with inside(folder / "data", environment=environment, **settings) as running:
        yield running


@pytest.fixture
def opened(aiwm: Inside) -> Path:
    return aiwm.folder.parent / "opened"


@pytest.fixture
def name(hub: Hub, org: str) -> Iterator[str]:
    """A repository of the test's own."""
    hub.repositories[f"org/{org}"] = Repository({"config.json": b"{}", "model.safetensors": WEIGHTS}, token=TOKEN)
    yield f"org/{org}"
    hub.release()
    hub.faults = Faults()


async def _until(caller: Caller, model: dict[str, Any], *statuses: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        shown: dict[str, Any] = (await caller("GET", f"/models/{model['_id']}")).json()
        return shown if shown["status"] in statuses else None

    found: dict[str, Any] = await eventually(look)
    return found


def _refused(answer: Any, status: int) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()["message"]


async def test_a_model_is_fetched_shown_and_active(aiwm: Inside, editor: Caller, hub: Hub, name: str) -> None:
    hub.faults.hold_after = 150_000
    made = await editor.model(**self_hosted(repository=name))
    assert (made["status"], made["download"], made["downloadPath"]) == ("queued", None, None)

    shown = await _until(editor, made, "downloading")
    while (shown["download"] or {}).get("bytesDone", 0) <= 2:
        shown = await _until(editor, made, "downloading")
        await asyncio.sleep(0.02)
    assert shown["download"]["bytesTotal"] == len(WEIGHTS) + 2
    assert shown["download"]["file"] == "model.safetensors"
    assert shown["updatedAt"] == made["updatedAt"]
    hub.release()
    shown = await _until(editor, made, "active")

    assert shown["fileSize"] == len(WEIGHTS) + 2
    assert shown["errorMessage"] is None
    folder = Path(shown["downloadPath"])
    assert folder.is_relative_to(aiwm.folder / "models")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert shown["updatedAt"] > made["updatedAt"]


async def test_what_went_wrong_is_said_and_can_be_tried_again(editor: Caller, hub: Hub, name: str) -> None:
    hub.faults.status = 403
    made = await editor.model(**self_hosted(repository=name))
    shown = await _until(editor, made, "download-failed")
    assert shown["errorMessage"].startswith(f"{hub.url} refused access to {name} (403): see that the HF_TOKEN")
    again = await editor("POST", f"/models/{made['_id']}/activate")
    assert "can't be activated before its files are there" in _refused(again, 400)

    hub.faults.status = 0
    again = await editor("POST", f"/models/{made['_id']}/download")
    assert (again.status_code, again.json()["status"], again.json()["errorMessage"]) == (200, "queued", None)
    shown = await _until(editor, made, "active")
    assert shown["errorMessage"] is None


async def test_only_a_download_that_failed_can_be_tried_again(
    aiwm: Inside, org: str, editor: Caller, hub: Hub, name: str
) -> None:
    path = f"/models/{(await editor.model())['_id']}/download"
    assert _refused(await editor("POST", path), 400) == (
        'Model "GPT-4 Turbo" is api-based: it has no files to download'
    )
    hub.faults.hold_after = 1000
    made = await editor.model(**self_hosted(repository=name))
    path = f"/models/{made['_id']}/download"
    await _until(editor, made, "downloading")
    assert _refused(await editor("POST", path), 400) == (
        'Model "Llama" is being downloaded already. Current status: downloading'
    )
    hub.release()
    await _until(editor, made, "active")
    assert _refused(await editor("POST", path), 400) == ('Model "Llama" has its files already. Current status: active')
    _refused(await aiwm.caller(Role.VIEWER, org=org)("POST", path), 403)
    _refused(await aiwm.caller(Role.OWNER, org="b" * 24)("POST", path), 404)


async def test_two_models_of_the_same_files_share_one_download(
    editor: Caller, stranger: Caller, hub: Hub, name: str
) -> None:
    hub.faults.hold_after = 1000
    first, second = (
        await editor.model(**self_hosted(repository=name)),
        await stranger.model(**self_hosted(repository=name)),
    )
    for caller, model in ((editor, first), (stranger, second)):
        await _until(caller, model, "downloading")
    hub.release()
    paths = {
        (await _until(caller, model, "active"))["downloadPath"]
        for caller, model in ((editor, first), (stranger, second))
    }
    assert len(paths) == 1
    assert len([asked for asked in hub.asked if asked.path == f"/api/models/{name}/revision/main"]) == 1


async def test_deleting_a_model_ends_its_download(editor: Caller, hub: Hub, name: str) -> None:
    hub.faults.hold_after = 1000
    made = await editor.model(**self_hosted(repository=name))
    await _until(editor, made, "downloading")
    assert _fetchers() == 1
    assert (await editor("DELETE", f"/models/{made['_id']}")).status_code == 200
    await eventually(lambda: not _fetchers())


def _fetchers() -> int:
    """How many processes that this one has started are fetching."""
    found = 0
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # It may end while it is looked at.
            found += "aiwm.files.fetcher" in child.cmdline()
    return found


async def test_another_repository_is_fetched_anew(editor: Caller, hub: Hub, name: str) -> None:
    hub.repositories[f"{name}-2"] = Repository({"a.gguf": WEIGHTS[:5000]})
    made = await editor.model(**self_hosted(repository=f"{name}-nowhere"))
    failed = await _until(editor, made, "download-failed")
    changed = await editor("PUT", f"/models/{made['_id']}", json={"repository": name})
    assert (changed.json()["status"], changed.json()["errorMessage"]) == ("queued", None)
    first = await _until(editor, made, "active")
    # The whole of what was shown, given back with a change, changes only that.
    given = ("name", "repository", "fileName", "downloadPath", "framework")
    same = {field: first[field] for field in given if first[field] is not None} | {"name": "New"}
    same = await editor("PUT", f"/models/{made['_id']}", json=same)
    assert (same.json()["status"], same.json()["name"]) == ("active", "New")
    changed = await editor("PUT", f"/models/{made['_id']}", json={"repository": f"{name}-2", "fileName": "a.gguf"})
    assert [changed.json()[field] for field in ("status", "downloadPath", "fileSize")] == ["queued", None, None]
    second = await _until(editor, made, "active")
    assert second["downloadPath"].endswith("/a.gguf")
    assert second["fileSize"] == 5000
    assert failed["downloadPath"] is None


async def test_files_in_an_opened_folder_are_used_where_they_are(editor: Caller, opened: Path) -> None:
    (opened / "a.gguf").write_bytes(WEIGHTS)
    for fields in (
        {"repository": f"file://{opened}/a.gguf"},
        {"repository": "org/x", "downloadPath": f"{opened}/a.gguf"},
    ):
        made = await editor.model(**self_hosted(**fields))
        shown = await _until(editor, made, "active")
        assert (shown["downloadPath"], shown["fileSize"]) == (f"{opened}/a.gguf", len(WEIGHTS))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"repository": "file:///etc/passwd"}, "repository: /etc/passwd is not below a folder of AIWM_MODEL_PATHS"),
        ({"downloadPath": "/etc"}, "downloadPath: /etc is not below a folder of AIWM_MODEL_PATHS"),
        (
            {"repository": "file://OPENED/../data/aiwm.db"},
            "repository: OPENED/../data/aiwm.db is not below a folder of AIWM_MODEL_PATHS",
        ),
        (
            {"repository": "file://OPENED/nowhere"},
            "repository: there is no file or folder OPENED/nowhere on this server",
        ),
        (
            {"repository": "file://OPENED", "fileName": "../data"},
            "fileName: must be a file's path inside the repository",
        ),
    ],
)
async def test_a_path_outside_of_the_opened_folders_is_refused(
    aiwm: Inside, editor: Caller, opened: Path, fields: dict[str, str], said: str
) -> None:
    before = aiwm.contents()
    body = self_hosted(**{field: value.replace("OPENED", str(opened)) for field, value in fields.items()})
    assert _refused(await editor("POST", "/models", json=body), 400) == [said.replace("OPENED", str(opened))]
    assert aiwm.contents() == before


async def test_nobody_is_shown_the_token_and_other_organizations_no_path(
    aiwm: Inside, editor: Caller, stranger: Caller, name: str
) -> None:
    made = await editor.model(**self_hosted(repository=name, scope="public"))
    shown = await _until(editor, made, "active")
    seen = (await stranger("GET", f"/models/{made['_id']}")).json()
    assert set(shown) - set(seen) == {"downloadPath", "errorMessage"}
    assert TOKEN not in str(shown)
    assert TOKEN not in "\n".join(aiwm.contents())
