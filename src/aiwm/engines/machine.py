"""What this machine has, and how busy it is. GPUs are NVIDIA's, by its own library; without one there are none."""

from __future__ import annotations

import ctypes
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from aiwm.domain.nodes import Facts, Gpu, GpuReading, Readings
from aiwm.engines.kinds import EngineKind
from aiwm.engines.process import installed

_NVML = "libnvidia-ml.so.1"
"""As pynvml calls it; it is there when there is a driver."""


def facts(folder: Path, kinds: Mapping[str, EngineKind], path: str) -> Facts:
    """`folder` is on the disk that models are kept on; `path` is where programs are looked for."""
    return Facts(
        cpus=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        disk_bytes=shutil.disk_usage(folder).total,
        gpus=_gpus(),
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        engines=tuple(sorted(name for name, kind in kinds.items() if installed(kind, path))),
    )


def readings(folder: Path) -> Readings:
    """The CPU's is since the last call; the first says 0."""
    return Readings(
        cpu_percent=psutil.cpu_percent(),
        memory_free_bytes=psutil.virtual_memory().available,
        disk_free_bytes=shutil.disk_usage(folder).free,
        gpus=_gpu_readings(),
    )


def _gpus() -> Sequence[Gpu]:
    with _nvml() as nvml:
        if nvml is None:
            return ()
        found = []
        for index, handle in _handles(nvml):
            name = nvml.nvmlDeviceGetName(handle)
            total = nvml.nvmlDeviceGetMemoryInfo(handle).total
            found.append(Gpu(index=index, name=name, memory_bytes=int(total)))
        return tuple(found)


def _gpu_readings() -> Sequence[GpuReading]:
    with _nvml() as nvml:
        if nvml is None:
            return ()
        found = []
        for index, handle in _handles(nvml):
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            used = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
            found.append(GpuReading(index=index, used_percent=float(used), free_bytes=int(memory.free)))
        return tuple(found)


def _handles(nvml: Any) -> Iterator[tuple[int, Any]]:
    for index in range(nvml.nvmlDeviceGetCount()):
        yield index, nvml.nvmlDeviceGetHandleByIndex(index)


@contextmanager
def _nvml() -> Iterator[Any]:
    """NVIDIA's library; None where there is none."""
    try:
        ctypes.CDLL(_NVML)
    except OSError:
        yield None
        return
    # Not at the top: it takes two megabytes, and a machine without GPUs never needs it.
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()
