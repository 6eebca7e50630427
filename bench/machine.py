"""The machine that is measured on: which Python, how fast, and who else is at work on it."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_A_LOOK = 0.5
_MUCH = 0.05
"""Of all cores, by others: more, and the figures say so."""


def python() -> str:
    options = sysconfig.get_config_var("CONFIG_ARGS")
    build = ""
    # Debian's, which is optimized, does not tell, or tells only what else was chosen.
    if options is not None and sys.base_prefix != "/usr":
        build = f"built {'with' if '--enable-optimizations' in options else 'WITHOUT'} profile-guided optimization, "
    return f"{platform.python_version()}, {build}{_speed()}"


def others_at_work() -> list[str]:
    """Processes that take more than a tenth of a core while nothing of ours runs, the busiest first."""
    before = _by_process()
    time.sleep(_A_LOOK)
    mine = os.getpid()
    taken = {
        pid: each.seconds - before[pid].seconds for pid, each in _by_process().items() if pid in before and pid != mine
    }
    busiest = sorted(taken.items(), key=lambda each: -each[1])
    return [
        f"{before[pid].name} ({pid}): {seconds / _A_LOOK:.0%} of a core"
        for pid, seconds in busiest
        if seconds > 0.1 * _A_LOOK
    ]


class Watch:
    """What others took of the cores while a measure ran. `ours` are the CPU seconds of what the bench has started."""

    def __init__(self, ours: Callable[[], float]) -> None:
        self._ours = ours
        self._cores = os.cpu_count() or 1
        self._before = (time.monotonic(), _busy(), self._own())

    def warning(self) -> str | None:
        """None when they took next to nothing."""
        then, busy, own = self._before
        seconds = (time.monotonic() - then) * self._cores
        share = (_busy() - busy - (self._own() - own)) / seconds
        if share < _MUCH:
            return None
        return f"others took {share:.0%} of all cores meanwhile: rates and times are worse than they would be alone"

    def _own(self) -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system + self._ours()


@dataclass(frozen=True, slots=True)
class _Process:
    name: str
    seconds: float


def _speed() -> str:
    """Builds of Python differ by half, and so does one core from minute to minute."""
    began = time.process_time()
    total = 0
    for number in range(1_000_000):
        total += number
    return f"{(time.process_time() - began) * 1000:.0f} ms of CPU for a loop of 1,000,000 additions"


def _busy() -> float:
    """CPU seconds of all cores since the machine started; what its host kept from it counts too."""
    user, nice, system, _idle, _wait, irq, soft, steal, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + soft + steal) / _TICKS_PER_SECOND


def _by_process() -> Mapping[int, _Process]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue  # It has ended.
        fields = rest.split()
        found[int(path.parent.name)] = _Process(name, (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND)
    return found
