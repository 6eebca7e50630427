"""What a process that serves does: all of `aiwm serve`, or one of its workers (`python -m aiwm.cli.worker`)."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager

import msgspec
import uvloop

from aiwm import __version__, logs
from aiwm.app import Program, running
from aiwm.cli.demo import Demo, curl_line, prepare
from aiwm.errors import StartError
from aiwm.heap import keep_large_buffers
from aiwm.identity.keys import ADMIN_PASSWORD
from aiwm.server import Server
from aiwm.settings import Settings
from aiwm.web.asgi import Asgi
from aiwm.web.call import Application
from aiwm.workers.parent import Birth
from aiwm.workers.siblings import Joined, Siblings


def work(settings: Settings, listeners: Mapping[str, socket.socket], *, demo: bool, birth: Birth | None = None) -> None:
    """Serves on the listeners until a signal. Raises StartError."""
    keep_large_buffers()
    settings = settings.model_copy(update={"log_format": settings.effective_log_format(sys.stderr)})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_work(settings, listeners, demo=demo, birth=birth))


def main() -> int:
    """One of several workers. Exit code 2 and one line on standard error when it can't start."""
    birth = msgspec.json.decode(sys.argv[1], type=Birth)
    try:
        settings = Settings.from_env(os.environ)
        as_json = settings.effective_log_format(sys.stderr) == "json"
        logs.configure(level=settings.log_level, as_json=as_json, worker=birth.number)
        with ExitStack() as held:
            listeners = {
                name: held.enter_context(socket.socket(fileno=descriptor))
                for name, descriptor in birth.listeners.items()
            }
            work(settings, listeners, demo=birth.demo, birth=birth)
    except StartError as error:
        print(f"aiwm: {error}", file=sys.stderr)
        return 2
    return 0


async def _work(settings: Settings, listeners: Mapping[str, socket.socket], *, demo: bool, birth: Birth | None) -> None:
    ports: dict[str, int] = {name: listener.getsockname()[1] for name, listener in listeners.items()}
    settings = settings.model_copy(update={"port": ports["gateway"]})
    applications: dict[int, Application] = {}
    server = Server(applications, drain_seconds=settings.drain_seconds)
    async with (
        _siblings(birth, orphaned=server.stop) as siblings,
        running(
            settings,
            variable=os.environ.get,
            draining=lambda: server.draining,
            interrupted=lambda: server.interrupted,
            # Only the demo's own provider, on its one port: other programs on this machine stay out of reach.
            upstreams=(f"127.0.0.1:{ports['simulator']}",) if demo else (),
            siblings=siblings,
        ) as program,
    ):
        applications[ports["gateway"]] = program.gateway
        server.before_sending(program.write_books)
        if program.identity is not None and "identity" in ports:
            applications[ports["identity"]] = program.identity
        if demo:
            from aiwm.simulator.app import Simulator

            applications[ports["simulator"]] = Asgi(Simulator())
        if birth is None or (siblings.leads and birth.first):
            prepared = await prepare(program, f"http://127.0.0.1:{ports['simulator']}") if demo else None
            _greet(settings, ports, program, prepared)
        settling = asyncio.create_task(_settle_memory(program.whole))
        await server.run_on(list(listeners.values()), ready=siblings.ready)
        settling.cancel()
        if siblings.leads:
            # What others still answer may need what it looks after.
            await siblings.alone()


@asynccontextmanager
async def _siblings(birth: Birth | None, *, orphaned: Callable[[], None]) -> AsyncIterator[Siblings]:
    if birth is None:
        yield Siblings()
        return
    siblings = Joined(birth.number)
    async with siblings.on(birth.line, orphaned=orphaned):
        yield siblings


async def _settle_memory(whole: Awaitable[None]) -> None:
    """What was made at start lives as long as the program: the collector need not look at it again and again."""
    await whole
    gc.collect()
    gc.freeze()
    gc.enable()


def _greet(settings: Settings, ports: Mapping[str, int], program: Program, demo: Demo | None) -> None:
    """What a person who started it wants to know. Passwords and tokens are shown here and nowhere else."""
    url = settings.effective_public_url
    lines = [f"AIWM {__version__}", "", f"  AIWM       {url}   (API page: {url}/docs)"]
    if "identity" in ports:
        lines.append(f"  Identity   {settings.at_port(ports['identity'])}")
    lines.append(f"  Data       {settings.data_dir}")
    if program.admin_password is not None:
        lines += [
            "",
            f"  First user: admin, password {program.admin_password}",
            f"  (kept in {settings.data_dir / ADMIN_PASSWORD}; change it with POST /auth/change-password)",
        ]
    if demo is not None:
        lines += ["", "  Simulated provider: a deployment for each dialect runs. Paste one of these:"]
        for dialect, deployment in demo.deployments:
            lines += ["", f"  # {dialect.name}", f"  {curl_line(url, demo, dialect, deployment)}"]
    print("\n".join([*lines, "", "  Ctrl-C stops it.", ""]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
