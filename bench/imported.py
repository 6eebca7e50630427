"""What a process imports that AIWMs are forked from: all that they would import. Their workers are forks too."""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

_WORKER = "aiwm.cli.worker"
_NAME = "worker "
_IMPORTED = (
    *("aiosqlite", "anyio._backends._asyncio", "asyncpg", "httpcore2", "pydantic.v1", "pynvml"),
    "aiwm.api.routes",
    "aiwm.cli.main",
    "aiwm.cli.serve",
    "aiwm.cli.worker",
    "aiwm.iam.routes",
    "aiwm.metering.price_list",
    "aiwm.simulator.app",
    "aiwm.store.migrations",
    "aiwm.web.application",
    "aiwm.workers.parent",
)
"""Each is imported by who needs it when it does."""


def imported() -> None:
    """To be called before the first fork. From now on `python -m aiwm.cli.worker` is a fork of who starts it."""
    for module in _IMPORTED:
        importlib.import_module(module)
    gc.freeze()  # The collector would write to every page that is shared.
    subprocess.Popen = _Popen  # type: ignore[misc]


def worker_number(process: psutil.Process) -> int:
    """0 for one that is not a worker yet, but still its parent's twin, or none any more."""
    with suppress(psutil.Error, OSError, ValueError, KeyError, TypeError):
        name = Path(f"/proc/{process.pid}/comm").read_text()
        if name.startswith(_NAME):
            return int(name.removeprefix(_NAME))
        words = process.cmdline()
        if _WORKER in words:
            return int(json.loads(words[-1])["number"])
    return 0


class _Popen(subprocess.Popen[Any]):
    def __init__(self, args: Sequence[str], *more: Any, **options: Any) -> None:
        if _WORKER in args:
            options["preexec_fn"] = lambda: _be_worker(args[-1], options["pass_fds"])
            options["restore_signals"] = False  # It stays a Python, which ignores SIGPIPE.
        super().__init__(args, *more, **options)


def _be_worker(birth: str, descriptors: Collection[int]) -> None:
    """What has been forked in the middle of its parent's loop. Does not return."""
    code = 1
    try:
        gc.freeze()  # What the parent had open is closed here by number: nothing of it may be closed again.
        kept = sorted({0, 1, 2, *descriptors, os.sysconf("SC_OPEN_MAX")})
        for lower, upper in itertools.pairwise(kept):
            os.closerange(lower + 1, upper)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        asyncio._set_running_loop(None)
        sys.argv = [_WORKER, birth]
        Path("/proc/self/comm").write_text(f"{_NAME}{json.loads(birth)['number']}")
        from aiwm.cli.worker import main

        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:  # As Python's own end is: by the signal.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as its parent
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
