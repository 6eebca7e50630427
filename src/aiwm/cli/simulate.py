"""`aiwm simulate`: the simulated provider alone, for trying, tests and load."""

from __future__ import annotations

import asyncio
import os

import uvloop

from aiwm.listeners import bind
from aiwm.server import Server
from aiwm.settings import Settings
from aiwm.simulator.app import Simulator
from aiwm.web.asgi import Asgi


def simulate(*, port: int | None) -> None:
    settings = Settings.from_env(os.environ)
    listener = bind(settings.host, settings.simulator_port if port is None else port, "AIWM_SIMULATOR_PORT")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        host, bound = listener.getsockname()[:2]
        print(
            f"Simulated provider on http://{host}:{bound} (OpenAI, Anthropic, Google; any key). Ctrl-C stops it.",
            flush=True,
        )
        server = Server({bound: Asgi(Simulator())}, drain_seconds=settings.drain_seconds)
        runner.run(server.run_on([listener]))
