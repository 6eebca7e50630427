"""files/hub.py and files/fetcher.py: the real client library, in its process, against a hub of our own."""

# ruff: noqa: ASYNC221, ASYNC240 - nobody else waits for the loop of a test
from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiwm.domain.sources import HubFiles
from aiwm.errors import FetchFailed
from aiwm.files import fetcher
from aiwm.files.fetcher import Fetched, Told
from aiwm.files.hub import Hub
from gateway import free_ports
from hub import Hub as FakeHub
from hub import Repository, git_id, sha256
from patience import PATIENCE, eventually

WEIGHTS = random.Random(1).randbytes(1_000_000)
FILES = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "pytorch_model.bin": b"x" * 2000}
KILLS = 6
WHOLE = HubFiles("org/tiny", "main", None)
ONE = HubFiles("org/tiny", "main", "model.safetensors")


@pytest.fixture
def served() -> Iterator[FakeHub]:
    with FakeHub(org__tiny=Repository(FILES)) as hub:
        yield hub


@pytest.fixture
def variables(served: FakeHub, tmp_path: Path) -> dict[str, str]:
    """What the server's environment says, besides what every process needs."""
    return {"HF_ENDPOINT": served.url, "HF_HOME": str(tmp_path / "home"), "AIWM_JWT_SECRET": "not for a fetcher"}


@pytest.fixture
def hub(tmp_path: Path, variables: dict[str, str]) -> Hub:
    given = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return Hub(tmp_path / "models", variable=lambda name: {**given, **variables}.get(name))


async def _fetch(hub: Hub, source: HubFiles = WHOLE) -> tuple[Fetched, list[Told]]:
    told: list[Told] = []
    return await hub.fetch(source, told.append), told


async def _reason(hub: Hub, source: HubFiles = WHOLE) -> str:
    with pytest.raises(FetchFailed) as failed:
        await hub.fetch(source, lambda _: None)
    return str(failed.value)


@asynccontextmanager
async def _held(hub: Hub, source: HubFiles, at: int) -> AsyncIterator[asyncio.Task[Fetched]]:
    """A fetch that has told of `at` bytes, and gets no more."""
    arrived = asyncio.Event()

    def tell(word: Told) -> None:
        if word.bytes_done >= at:
            arrived.set()

    task = asyncio.create_task(hub.fetch(source, tell))
    waiting = asyncio.create_task(arrived.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
    assert arrived.is_set(), task
    try:
        yield task
    finally:
        waiting.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _fetchers(parent: int | None = None) -> list[int]:
    """Fetchers that a process, else this one, has started and that still run."""
    command = ["ps", "-o", "pid=,stat=,args=", "--ppid", str(parent or os.getpid())]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [int(pid) for pid, state, command in rows if "aiwm.files.fetcher" in command and not state.startswith("Z")]


# --- what comes ----------------------------------------------------------------------------------------------


async def test_the_files_of_a_model_are_there_under_their_names(hub: Hub, served: FakeHub, tmp_path: Path) -> None:
    fetched, told = await _fetch(hub)

    folder = Path(fetched.path)
    commit = served.repositories["org/tiny"].commit
    assert folder == tmp_path / "models" / "models--org--tiny" / "snapshots" / commit
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "config.json": FILES["config.json"],
        "model.safetensors": WEIGHTS,
    }
    assert fetched.size == len(WEIGHTS) + 8
    assert {word.bytes_total for word in told} == {fetched.size}
    assert (tmp_path / "models/models--org--tiny/refs/main").read_text() == commit
    assert not list(tmp_path.rglob(f"*{fetcher.PART}*"))


async def test_one_file_is_pointed_to_itself(hub: Hub) -> None:
    fetched, _ = await _fetch(hub, ONE)
    assert Path(fetched.path).name == "model.safetensors"
    assert Path(fetched.path).read_bytes() == WEIGHTS


async def test_files_are_kept_where_the_hubs_own_library_looks_for_them(
    hub: Hub, served: FakeHub, tmp_path: Path
) -> None:
    await _fetch(hub)
    code = (
        "import sys, huggingface_hub as h;"
        "print(h.snapshot_download('org/tiny', cache_dir=sys.argv[1], ignore_patterns='*.bin', local_files_only=True),"
        "h.hf_hub_download('org/tiny', 'model.safetensors', cache_dir=sys.argv[1], local_files_only=True))"
    )
    environment = os.environ | {"HF_ENDPOINT": served.url, "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "models")], capture_output=True, text=True, env=environment
    )
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.split()[1]).read_bytes() == WEIGHTS


async def test_what_is_there_is_not_fetched_again(hub: Hub, served: FakeHub) -> None:
    first, _ = await _fetch(hub)
    second, _ = await _fetch(hub)
    assert first == second
    assert served.sent("org/tiny", "model.safetensors") == [None]
    # Nor when it comes under another name, or in another revision.
    served.repositories["org/tiny"].files = FILES | {"README.md": b"new", "copy.safetensors": WEIGHTS}
    third, _ = await _fetch(hub)
    assert third.path != first.path
    assert served.sent("org/tiny", "model.safetensors") == [None]
    assert (Path(third.path) / "copy.safetensors").read_bytes() == WEIGHTS


async def test_a_revision_is_the_one_asked_for(hub: Hub, served: FakeHub) -> None:
    served.repositories["org/tiny"].revisions = ("main", "v1/beta")
    await _fetch(hub, HubFiles("org/tiny", "v1/beta", None))
    assert "/api/models/org/tiny/revision/v1/beta" in [each.path for each in served.asked]
    commit = served.repositories["org/tiny"].commit
    assert Path((await _fetch(hub, HubFiles("org/tiny", commit, None)))[0].path).name == commit


async def test_the_token_of_the_server_is_shown_to_the_hub_and_to_nobody_it_sends_to(
    hub: Hub, served: FakeHub, variables: dict[str, str]
) -> None:
    served.repositories["org/tiny"].token = variables["HF_TOKEN"] = "hf_0123456789abcdefghij"
    with FakeHub(org__tiny=Repository(FILES)) as elsewhere:
        served.large_files_at = elsewhere.url
        fetched, _ = await _fetch(hub)
        assert (Path(fetched.path) / "model.safetensors").read_bytes() == WEIGHTS
        assert {each.authorization for each in elsewhere.asked} == {None}
    shown = {each.authorization for each in served.asked if each.path != "/api/agent-harnesses"}
    assert shown == {"Bearer hf_0123456789abcdefghij"}


# --- interruptions -------------------------------------------------------------------------------------------


async def test_a_broken_connection_is_taken_up_where_it_broke(hub: Hub, served: FakeHub) -> None:
    served.faults.cut_after = 300_000
    fetched, _ = await _fetch(hub, ONE)
    assert Path(fetched.path).read_bytes() == WEIGHTS
    assert served.sent("org/tiny", "model.safetensors") == [None, *(f"bytes={n}-" for n in (300_000, 600_000, 900_000))]


async def test_a_killed_fetcher_goes_on_where_it_was(hub: Hub, served: FakeHub) -> None:
    served.faults.hold_after = 700_000
    async with _held(hub, ONE, 1) as fetching:
        [child] = _fetchers()
        await _until_part_has(hub, 700_000)
        os.kill(child, signal.SIGKILL)
        with pytest.raises(FetchFailed, match=r"ended without a word \(signal 9\): try again"):
            await fetching
    served.release()

    fetched, _ = await _fetch(hub, ONE)

    assert Path(fetched.path).read_bytes() == WEIGHTS
    assert served.sent("org/tiny", "model.safetensors") == [None, "bytes=700000-"]


async def test_kills_at_any_moment_cost_no_byte_and_leave_the_right_ones(hub: Hub, served: FakeHub) -> None:
    chance = random.Random()
    served.faults.bytes_per_second = 80_000  # Slower than it can be killed so often.
    kills = 0
    while True:
        fetching = asyncio.create_task(hub.fetch(WHOLE, lambda _: None))
        _, running = await asyncio.wait([fetching], timeout=chance.uniform(0.3, 2.0) if kills < KILLS else None)
        if not running:
            break
        for child in await eventually(_fetchers):
            os.kill(child, signal.SIGKILL)
        with pytest.raises(FetchFailed, match="ended without a word"):
            await fetching
        kills += 1
        if kills == KILLS:
            served.faults.released.set()
    assert kills == KILLS
    folder = Path(fetching.result().path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "config.json": FILES["config.json"],
        "model.safetensors": WEIGHTS,
    }
    # Each request goes on where the file had come to.
    starts = [int((asked or "bytes=0-")[6:-1]) for asked in served.sent("org/tiny", "model.safetensors")]
    assert starts == sorted(starts)
    assert not list(hub._folder.rglob(f"*{fetcher.PART}"))


async def test_a_cancelled_fetch_leaves_no_process_and_what_has_come(hub: Hub, served: FakeHub) -> None:
    served.faults.hold_after = 700_000
    async with _held(hub, ONE, 1):
        await _until_part_has(hub, 700_000)
    assert _fetchers() == []
    served.release()
    await _fetch(hub, ONE)
    assert served.sent("org/tiny", "model.safetensors")[1:] == ["bytes=700000-"]


async def test_a_hub_that_is_deaf_to_ranges_sends_all_again(hub: Hub, served: FakeHub) -> None:
    served.faults.cut_after, served.faults.cuts, served.faults.deaf_to_ranges = 300_000, 1, True
    fetched, _ = await _fetch(hub, ONE)
    assert Path(fetched.path).read_bytes() == WEIGHTS


async def test_two_fetchers_of_one_file_do_not_write_into_each_other(hub: Hub, served: FakeHub) -> None:
    served.faults.hold_after = 400_000
    async with _held(hub, ONE, 1):
        await _until_part_has(hub, 400_000)
        [first_child] = _fetchers()
        second = asyncio.create_task(_fetch(hub, ONE))
        await asyncio.sleep(1)
        assert not second.done()
        served.faults.hold_after = None
        os.kill(first_child, signal.SIGKILL)
        fetched, _ = await second
    assert Path(fetched.path).read_bytes() == WEIGHTS
    assert served.sent("org/tiny", "model.safetensors") == [None, "bytes=400000-"]


async def _until_part_has(hub: Hub, size: int) -> None:
    for _ in range(50 * int(PATIENCE)):
        if any(path.stat().st_size == size for path in hub._folder.rglob(f"*{fetcher.PART}")):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came so far")


# --- what goes wrong is said, with what to do ----------------------------------------------------------------


async def test_a_file_that_is_not_what_was_promised_is_removed(hub: Hub, served: FakeHub) -> None:
    served.faults.change = lambda data: data[:-1] + b"!"
    for source, name in ((ONE, "model.safetensors"), (HubFiles("org/tiny", "main", "config.json"), "config.json")):
        assert await _reason(hub, source) == (
            f"{name} is not what the hub says it is: its hash is another. What came was removed, so try again"
        )
    assert not list(hub._folder.rglob("*.aiwm-part"))
    served.faults.change = None
    assert Path((await _fetch(hub, ONE))[0].path).read_bytes() == WEIGHTS


async def test_a_repository_that_is_not_there_or_private(hub: Hub, served: FakeHub) -> None:
    served.repositories["org/private"] = Repository(FILES, token="hf_of_somebody")
    for name in ("org/nowhere", "org/private"):
        assert await _reason(hub, HubFiles(name, "main", None)) == (
            f"{name} is not found at {served.url}, or it is private: see that the name is right; a private one needs a "
            "HF_TOKEN that may read it, set where AIWM is started"
        )


async def test_a_gated_repository(hub: Hub, served: FakeHub) -> None:
    served.repositories["org/tiny"].gated = True
    assert await _reason(hub) == (
        f"org/tiny is gated: accept its terms at {served.url}/org/tiny, start AIWM with HF_TOKEN set to a token of "
        "that account, and try again"
    )


async def test_a_revision_or_file_that_is_not_there(hub: Hub, served: FakeHub) -> None:
    assert await _reason(hub, HubFiles("org/tiny", "v2", None)) == (
        f"org/tiny has no revision v2: see its branches and tags at {served.url}/org/tiny"
    )
    assert await _reason(hub, HubFiles("org/tiny", "main", "a.gguf")) == (
        "there is no file a.gguf in the repository; it has config.json, model.safetensors, pytorch_model.bin"
    )


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (403, "{url} refused access to org/tiny (403): see that the HF_TOKEN of AIWM is valid and may read it"),
        (500, "{url} answered 500 for org/tiny: try again later"),
        (429, "{url} answered 429 for org/tiny: try again later"),
        (418, "{url} answered 418 for org/tiny: try again later"),
    ],
)
async def test_a_hub_that_refuses(hub: Hub, served: FakeHub, status: int, reason: str) -> None:
    served.faults.status = status
    assert await _reason(hub) == reason.format(url=served.url)


async def test_a_hub_that_is_out_of_reach(hub: Hub, variables: dict[str, str]) -> None:
    variables["HF_ENDPOINT"] = f"http://127.0.0.1:{free_ports(1)[0]}"
    reason = await _reason(hub)
    assert reason.startswith(f"{variables['HF_ENDPOINT']} can't be reached (")
    assert reason.endswith("): see that this machine is online, or set HF_ENDPOINT to a mirror")


async def test_a_connection_that_always_breaks(hub: Hub, served: FakeHub) -> None:
    served.faults.cut_after = 0
    reason = await _reason(hub, ONE)
    assert reason.startswith(f"{served.url} can't be reached (")


async def test_a_server_that_was_told_to_stay_offline(hub: Hub, served: FakeHub, variables: dict[str, str]) -> None:
    variables["HF_HUB_OFFLINE"] = "1"
    assert (await _reason(hub)).startswith("HF_HUB_OFFLINE is set on the server: unset it")
    assert served.asked == []


async def test_a_mirror_with_a_password_in_its_address_is_named_without_it(
    hub: Hub, served: FakeHub, variables: dict[str, str]
) -> None:
    variables["HF_ENDPOINT"] = served.url.replace("://", "://mirror:s3cret@")
    reason = await _reason(hub, HubFiles("org/nowhere", "main", None))
    assert reason.startswith(f"org/nowhere is not found at {served.url}, or it is private")


async def test_a_library_that_is_not_installed(hub: Hub, variables: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError")
    variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert await _reason(hub) == ("huggingface_hub is not installed beside AIWM: pip install 'aiwm[hf]', and try again")


async def test_something_that_is_no_hub(hub: Hub, served: FakeHub) -> None:
    class Odd(Repository):
        def listed(self, repository: str) -> dict[str, object]:
            shown = super().listed(repository)
            for sibling in shown["siblings"]:
                del sibling["size"]
            return shown

    served.repositories["org/tiny"] = Odd(FILES)
    assert "see that HF_ENDPOINT leads to a Hugging Face hub" in await _reason(hub)


@pytest.mark.parametrize("more", [-100, 100])
async def test_a_hub_that_sends_another_size_than_it_says(hub: Hub, served: FakeHub, more: int) -> None:
    class Odd(Repository):
        def listed(self, repository: str) -> dict[str, object]:
            shown = super().listed(repository)
            shown["siblings"][1] |= {"size": len(WEIGHTS) - more}
            return shown

    served.repositories["org/tiny"] = Odd(FILES)
    served.faults.deaf_to_ranges = True
    assert await _reason(hub, ONE) == (
        f"the hub sent {'more' if more > 0 else 'less'} of model.safetensors than it said; "
        "what came was removed, so try again"
    )
    assert not list(hub._folder.rglob(f"*{fetcher.PART}"))


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/../../b"])
async def test_a_hub_can_not_write_outside_of_the_folder(hub: Hub, served: FakeHub, name: str, tmp_path: Path) -> None:
    served.repositories["org/tiny"].files = {name: b"evil"}
    assert "see that HF_ENDPOINT leads to a Hugging Face hub" in await _reason(hub)
    assert not list(tmp_path.rglob("evil"))


async def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(hub: Hub, served: FakeHub) -> None:
    free = shutil.disk_usage(Path.home()).free

    class Huge(Repository):
        def listed(self, repository: str) -> dict[str, object]:
            shown = super().listed(repository)
            shown["siblings"][1] |= {"size": 1 << 60}
            return shown

    served.repositories["org/tiny"] = Huge(FILES)
    assert free < 1 << 60
    reason = await _reason(hub)
    assert reason.startswith("the disk is full: 1,152,921,504.6 GB are missing, and ")
    assert reason.endswith(f"are free in {hub._folder}; make room, or set AIWM_MODEL_DIR to a larger disk")
    assert served.sent("org/tiny", "config.json") == []


async def test_a_quota_that_is_used_up(hub: Hub, served: FakeHub) -> None:
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    # What a process is started with, it keeps.
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, most))
    try:
        fetching = asyncio.create_task(_reason(hub, ONE))
        await eventually(_fetchers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    assert (await fetching).startswith("the disk is full (File too large) at ")
    await _fetch(hub, ONE)
    assert served.sent("org/tiny", "model.safetensors") == [None, "bytes=500000-"]


@pytest.mark.skipif(os.getuid() != 0, reason="a small disk of our own needs root to mount")
async def test_a_disk_that_fills_up_while_fetching_and_has_room_again(
    served: FakeHub, variables: dict[str, str], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        hub = Hub(disk, variable=lambda name: (variables | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}).get(name))
        served.faults.hold_after = 500_000
        async with _held(hub, ONE, 1) as fetching:
            await _until_part_has(hub, 500_000)
            (disk / "somebody else's").write_bytes(b"x" * 600_000)
            served.release()
            with pytest.raises(FetchFailed) as failed:
                await fetching
        assert str(failed.value) == (
            f"the disk is full (No space left on device) at {disk}: make room, or set AIWM_MODEL_DIR to a larger disk, "
            "and try again; what has come so far is kept"
        )
        (disk / "somebody else's").unlink()
        fetched, _ = await _fetch(hub, ONE)
        assert Path(fetched.path).read_bytes() == WEIGHTS
        [first, second] = served.sent("org/tiny", "model.safetensors")
        assert first is None
        assert second is not None
        assert int(second.removeprefix("bytes=").removesuffix("-")) >= 500_000
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_folder_that_can_not_be_written(served: FakeHub, variables: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a file").write_bytes(b"")
    folder = tmp_path / "a file" / "models"
    hub = Hub(folder, variable=lambda name: (variables | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}).get(name))
    assert await _reason(hub) == (
        f"{folder} can't be written (Not a directory): see that AIWM may write to it, or set AIWM_MODEL_DIR"
    )


# --- the process ---------------------------------------------------------------------------------------------


async def test_a_fetcher_knows_nothing_of_aiwms_environment(
    hub: Hub, served: FakeHub, variables: dict[str, str]
) -> None:
    variables |= {"OPENAI_API_KEY": "sk-of-a-provider", "HF_TOKEN": "hf_0123456789abcdefghij"}
    served.faults.hold_after = 1000
    async with _held(hub, ONE, 1):
        [child] = _fetchers()
        environment = Path(f"/proc/{child}/environ").read_bytes().decode()
        arguments = Path(f"/proc/{child}/cmdline").read_bytes().decode()
    assert "not for a fetcher" not in environment
    assert "sk-of-a-provider" not in environment
    # What other users of the machine can see of a process.
    assert "hf_" not in arguments
    assert "org/tiny" not in arguments


GATEWAY = """
import asyncio, os, sys
from pathlib import Path
from aiwm.domain.sources import HubFiles
from aiwm.files.hub import Hub

hub = Hub(Path(sys.argv[1]), variable=os.environ.get)
asyncio.run(hub.fetch(HubFiles("org/tiny", "main", "model.safetensors"), lambda word: print(word, flush=True)))
"""


async def test_a_fetcher_ends_when_aiwm_was_killed(served: FakeHub, variables: dict[str, str], tmp_path: Path) -> None:
    served.faults.hold_after = 1000
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", GATEWAY, str(tmp_path / "models")),
        env=os.environ | variables,
        stdout=asyncio.subprocess.PIPE,
    )
    assert gateway.stdout is not None
    await gateway.stdout.readline()
    [child] = _fetchers(gateway.pid)

    gateway.kill()
    await gateway.wait()

    assert await _has_ended(child)


async def _has_ended(pid: int) -> bool:
    for _ in range(20 * int(PATIENCE)):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        await asyncio.sleep(0.05)
    return False


def test_small_and_large_files_are_known_by_the_hashes_of_the_hub() -> None:
    assert git_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert len(sha256(b"")) == 64
