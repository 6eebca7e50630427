"""Nodes: machines that engines run on; resources: what a deployment may use of one; and what fits where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

INFERENCE_CONTAINER = "inference-container"
"""The type of every resource there is."""


class NodeStatus(StrEnum):
    ONLINE = "online"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    index: int
    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a machine has."""

    cpus: int
    memory_bytes: int
    disk_bytes: int
    gpus: Sequence[Gpu] = ()
    system: str = ""
    architecture: str = ""
    engines: Sequence[str] = ()
    """The kinds of engines that are installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    index: int
    used_percent: float
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """How busy it is at the moment."""

    cpu_percent: float
    memory_free_bytes: int
    disk_free_bytes: int
    gpus: Sequence[GpuReading] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """`kind` is `machine` for one that an AIWM runs on, `ray` for one of a Ray cluster."""

    id: str
    kind: str
    name: str
    status: NodeStatus
    facts: Facts
    readings: Readings
    seen_at: int
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A share of a node, that deployments of its organization may be given."""

    id: str
    org_id: str
    user_id: str
    node_id: str
    name: str
    type: str = INFERENCE_CONTAINER
    gpus: int = 0
    cpus: float = 0
    """0: as many as it likes."""
    memory_bytes: int = 0
    """0: as much as it needs."""
    created_by: str
    updated_by: str
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one deployment takes of a node, all its replicas together."""

    gpus: int = 0
    memory_bytes: int = 0
    """Main memory."""
    gpu_memory_bytes: int = 0
    """On each of the GPUs."""
    cpus: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What a deployment was given. It keeps it as long as it is meant to run."""

    need: Need
    gpus: Sequence[int] = ()
    """Their numbers on the node; nobody else gets them."""
    on_cluster: bool = False
    """It is Ray that finds the node, and the GPUs there."""
    host: str = ""
    """The node of the cluster that it must be; empty: any."""
    pinned: bool = False
    """Its caller chose the node: it must not be another one."""
    lost: bool = False
    """Its machine fell silent while it was meant to run. It starts again when that machine is back."""


def place(facts: Facts, taken: Iterable[Placement], need: Need) -> Placement | str:
    """A place on the machine beside what is taken; or what is missing, for people."""
    others = list(taken)
    used = {index for placement in others for index in placement.gpus}
    free = [gpu for gpu in facts.gpus if gpu.index not in used]
    missing = []
    if need.gpus > len(free):
        missing.append(
            f"it needs {_gpus(need.gpus)}, and {_gpus(len(free))} of {len(facts.gpus)} {_is(len(free))} free"
        )
    large = [gpu for gpu in free if gpu.memory_bytes >= need.gpu_memory_bytes]
    if not missing and need.gpus > len(large):
        most = max(gpu.memory_bytes for gpu in free)
        missing.append(f"it needs {size(need.gpu_memory_bytes)} on each GPU, and the largest free one has {size(most)}")
    memory = facts.memory_bytes - sum(placement.need.memory_bytes for placement in others)
    if need.memory_bytes > memory:
        missing.append(
            f"it needs {size(need.memory_bytes)} of memory, and {size(max(0, memory))} of {size(facts.memory_bytes)} "
            "is not spoken for"
        )
    cpus = facts.cpus - sum(placement.need.cpus for placement in others)
    if need.cpus > cpus:
        missing.append(f"it needs {need.cpus:g} CPUs, and {max(0.0, cpus):g} of {facts.cpus} are not spoken for")
    if missing:
        return "; ".join(missing)
    # The smallest that will do: the large ones may be needed by somebody else.
    chosen = sorted(large, key=lambda gpu: (gpu.memory_bytes, gpu.index))[: need.gpus]
    return Placement(need=need, gpus=tuple(sorted(gpu.index for gpu in chosen)))


def size(number: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def _gpus(number: int) -> str:
    return "no GPU" if number == 0 else "1 GPU" if number == 1 else f"{number} GPUs"


def _is(number: int) -> str:
    return "are" if number > 1 else "is"
