"""`aiwm serve`: AIWM and its identity service on their ports, until a signal; with `--demo`, a provider to try too."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from collections.abc import Mapping

from aiwm import logs
from aiwm.listeners import bound
from aiwm.settings import Settings


def serve(*, demo: bool, workers: int | None = None) -> int:
    """The exit code. More than one worker are processes of their own, and this one their parent."""
    settings = Settings.from_env(os.environ)
    workers = workers or settings.workers
    logs.configure(level=settings.log_level, as_json=settings.effective_log_format(sys.stderr) == "json")
    # All ports, before anything is made: one that is taken leaves no trace.
    with bound(_addresses(settings, demo=demo)) as listeners:
        if workers > 1:
            return _parent(listeners, workers, demo=demo)
        from aiwm.cli.worker import work

        work(settings, listeners, demo=demo)
        return 0


def _parent(listeners: Mapping[str, socket.socket], workers: int, *, demo: bool) -> int:
    gc.enable()
    from aiwm.workers.parent import Parent

    with asyncio.Runner() as runner:
        return runner.run(Parent(listeners, workers=workers, module="aiwm.cli.worker", demo=demo).run())


def _addresses(settings: Settings, *, demo: bool) -> dict[str, tuple[str, int, str]]:
    addresses = {"gateway": (settings.host, settings.port, "AIWM_PORT")}
    if settings.iam_port and not settings.jwks_url:
        addresses["identity"] = (settings.host, settings.iam_port, "AIWM_IAM_PORT")
    if demo:
        addresses["simulator"] = ("127.0.0.1", settings.simulator_port, "AIWM_SIMULATOR_PORT")
    return addresses
