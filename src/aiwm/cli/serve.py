"""`aiwm serve`: AIWM and its identity service on their ports, until a signal; with `--demo`, a provider to try too."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from collections.abc import Awaitable, Mapping

import uvloop

from aiwm import __version__, logs
from aiwm.app import Program, running
from aiwm.cli.demo import Demo, curl_line, prepare
from aiwm.identity.keys import ADMIN_PASSWORD
from aiwm.server import Server, bound
from aiwm.settings import Settings
from aiwm.web.asgi import Asgi
from aiwm.web.call import Application


def serve(*, demo: bool) -> None:
    settings = Settings.from_env(os.environ)
    if not settings.log_format:
        settings = settings.model_copy(update={"log_format": "console" if sys.stderr.isatty() else "json"})
    logs.configure(level=settings.log_level, as_json=settings.log_format == "json")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, demo=demo))


async def _serve(settings: Settings, *, demo: bool) -> None:
    # All ports, before anything is made: one that is taken leaves no trace.
    with bound(_addresses(settings, demo=demo)) as listeners:
        await _serve_on(listeners, settings, demo=demo)


async def _serve_on(listeners: Mapping[str, socket.socket], settings: Settings, *, demo: bool) -> None:
    ports: dict[str, int] = {name: listener.getsockname()[1] for name, listener in listeners.items()}
    settings = settings.model_copy(update={"port": ports["gateway"]})
    applications: dict[int, Application] = {}
    server = Server(applications, drain_seconds=settings.drain_seconds)
    async with running(
        settings,
        variable=os.environ.get,
        draining=lambda: server.draining,
        interrupted=lambda: server.interrupted,
        # Only the demo's own provider, on its one port: other programs on this machine stay out of reach.
        upstreams=(f"127.0.0.1:{ports['simulator']}",) if demo else (),
    ) as program:
        applications[ports["gateway"]] = program.gateway
        if program.identity is not None and "identity" in ports:
            applications[ports["identity"]] = program.identity
        prepared = None
        if demo:
            from aiwm.simulator.app import Simulator

            applications[ports["simulator"]] = Asgi(Simulator())
            prepared = await prepare(program, f"http://127.0.0.1:{ports['simulator']}")
        _greet(settings, ports, program, prepared)
        settling = asyncio.create_task(_settle_memory(program.whole))
        await server.run_on(list(listeners.values()))
        settling.cancel()


def _addresses(settings: Settings, *, demo: bool) -> dict[str, tuple[str, int, str]]:
    addresses = {"gateway": (settings.host, settings.port, "AIWM_PORT")}
    if settings.iam_port and not settings.jwks_url:
        addresses["identity"] = (settings.host, settings.iam_port, "AIWM_IAM_PORT")
    if demo:
        addresses["simulator"] = ("127.0.0.1", settings.simulator_port, "AIWM_SIMULATOR_PORT")
    return addresses


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
