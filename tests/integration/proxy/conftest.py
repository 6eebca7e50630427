"""What the tests of the upstream client share. Every test here runs on two event loops.

The product runs on uvloop; asyncio's own loop keeps us honest about what is guaranteed and what only happens.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import uvloop

from aiwm.proxy.upstream import Upstream
from aiwm.wire.addresses import AddressPolicy
from patience import PATIENCE
from upstream_client import Client, MakeClient


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture
async def make_client() -> AsyncIterator[MakeClient]:
    """Clients that may connect to 127.0.0.1. Afterwards nothing is left open and nothing went wrong unseen."""
    loop = asyncio.get_running_loop()
    unseen: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    made: list[Upstream] = []

    def make(*, scheme: str = "http", host: str = "127.0.0.1", **options: Any) -> Client:
        upstream = Upstream(**{"policy": AddressPolicy(["127.0.0.1"]), **options})
        made.append(upstream)
        return Client(upstream, scheme=scheme, host=host)

    yield make
    for upstream in made:
        await asyncio.wait_for(upstream.aclose(), PATIENCE)
    gc.collect()
    await asyncio.sleep(0)
    assert unseen == []
