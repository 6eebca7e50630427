"""A real llama.cpp, from its kind's file to an answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from aiwm.engines.driver import EngineSpec
from aiwm.engines.llamacpp import KIND
from aiwm.engines.process import ProcessDriver
from aiwm.engines.replica import Replica, State
from engines import nothing_left
from patience import PATIENCE
from tiny_model import write_tiny_model


@asynccontextmanager
async def _settled(spec: EngineSpec, folder: Path) -> AsyncIterator[Replica]:
    """A replica that is ready, or was given up."""
    changed = asyncio.Event()
    with nothing_left(folder):
        async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
            driver = ProcessDriver(folder, {})
            replica = Replica("a" * 24, 0, spec, driver=driver, http=http, changed=changed.set, pauses=())
            async with asyncio.timeout(PATIENCE):
                while replica.state not in {State.READY, State.GIVEN_UP}:
                    await changed.wait()
                    changed.clear()
            yield replica
            await replica.stop()


async def test_it_answers_who_has_the_key_and_calls_the_model_by_its_name(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny.gguf")
    spec = KIND.spec(
        path=tmp_path, name="tiny", file_name=None, model_type="llm", arguments={"ctx-size": 512}, gpus=None
    )
    async with _settled(spec, tmp_path) as replica, httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
        engine = replica.engine
        assert engine is not None, replica.reason
        url = f"{engine.address}/v1/chat/completions"
        asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        refused = await http.post(url, json=asked)
        answer = await http.post(url, json=asked, headers={"authorization": f"Bearer {engine.key}"})
    assert refused.status_code == 401
    assert answer.json()["model"] == "tiny"
    assert answer.json()["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("content", [b"no gguf at all", b""])
async def test_a_file_that_is_no_model_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.gguf").write_bytes(content)
    spec = KIND.spec(path=tmp_path, name="b", file_name=None, model_type="llm", arguments={}, gpus=None)
    async with _settled(spec, tmp_path) as replica:
        assert replica.state is State.GIVEN_UP
        # What llama.cpp logs has a thread of its own, and may come behind what its program says at the end.
        assert re.search("the model can't be loaded|failed to load model", str(replica.reason))
