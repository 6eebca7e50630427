"""A download that AIWM is killed under, at places taken at random: it goes on, and ends with the right bytes."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil

from gateway import Caller, Gateway
from hub import Hub, Repository
from patience import PATIENCE

KILLS = 4
WEIGHTS = random.Random(3).randbytes(3_000_000)


def _shown(caller: Caller, model_id: str) -> dict[str, Any]:
    answer = caller.http.get(f"/models/{model_id}")
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def _until_done(caller: Caller, model_id: str, size: int) -> dict[str, Any]:
    """As much of the files is there, as GET /models says."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        shown = _shown(caller, model_id)
        if (shown["download"] or {"bytesDone": 0})["bytesDone"] >= size and shown["status"] != "queued":
            return shown
        time.sleep(0.02)
    raise AssertionError(shown)


def test_a_download_survives_every_kill_of_aiwm(tmp_path: Path) -> None:
    places = sorted(random.sample(range(1, len(WEIGHTS)), KILLS))
    with Hub(org__tiny=Repository({"config.json": b"{}", "model.safetensors": WEIGHTS})) as hub:
        gateway = Gateway(tmp_path / "data", HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"))
        made = None
        arrived = 0
        for place in places:
            hub.faults.hold_after = place - arrived
            hub.faults.released.clear()
            gateway.start()
            if made is None:
                # Its token is good for every AIWM that follows: a login takes long, and a hub that holds still for too
                # long is asked again.
                caller = gateway.login()
                made = caller.http.post(
                    "/models",
                    json={
                        "name": "Tiny",
                        "type": "llm",
                        "deploymentType": "self-hosted",
                        "repository": "org/tiny",
                        "framework": "vllm",
                    },
                ).json()["_id"]
            # What is shown may be a quarter of a second old; what has come is in the kernel's hands.
            _until_done(caller, made, arrived + 1)
            arrived = _part_grows_to(tmp_path, place)
            assert gateway.process is not None
            fetching = psutil.Process(gateway.process.pid).children()
            assert gateway.stop(signal.SIGKILL) == -signal.SIGKILL
            # Who fetches sees that AIWM is gone, and ends; until then it would take what comes now.
            _, alive = psutil.wait_procs(fetching, PATIENCE)
            assert alive == []
            hub.release()
        with gateway:
            deadline = time.monotonic() + PATIENCE
            while (shown := _shown(caller, made))["status"] != "active":
                assert shown["status"] in {"queued", "downloading", "downloaded"}, shown
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert (Path(shown["downloadPath"]) / "model.safetensors").read_bytes() == WEIGHTS
        # Nothing was sent twice.
        assert hub.sent("org/tiny", "model.safetensors") == [None, *(f"bytes={place}-" for place in places)]


def _part_grows_to(folder: Path, size: int) -> int:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if size in [part.stat().st_size for part in folder.rglob("*.aiwm-part")]:
            return size
        time.sleep(0.01)
    raise AssertionError(f"it never came to {size} bytes")
