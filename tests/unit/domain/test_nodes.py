"""What fits where, and what is missing when it does not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from aiwm.domain.nodes import Facts, Gpu, Need, Placement, place, size

GIB = 1024**3
MACHINE = Facts(
    cpus=8,
    memory_bytes=32 * GIB,
    disk_bytes=100 * GIB,
    gpus=[Gpu(index=0, name="A", memory_bytes=80 * GIB), Gpu(index=1, name="B", memory_bytes=24 * GIB)],
)


def test_what_fits_gets_the_smallest_gpu_that_will_do() -> None:
    need = Need(gpus=1, gpu_memory_bytes=20 * GIB)
    assert place(MACHINE, [], need) == Placement(need=need, gpus=(1,))


def test_a_gpu_is_given_to_one_only() -> None:
    first = place(MACHINE, [], Need(gpus=1))
    assert isinstance(first, Placement)
    second = place(MACHINE, [first], Need(gpus=1))
    assert isinstance(second, Placement)
    assert {*first.gpus, *second.gpus} == {0, 1}
    assert place(MACHINE, [first, second], Need(gpus=1)) == "it needs 1 GPU, and no GPU of 2 is free"


@pytest.mark.parametrize(
    ("need", "taken", "missing"),
    [
        (Need(gpus=3), [], "it needs 3 GPUs, and 2 GPUs of 2 are free"),
        (
            Need(gpus=2, gpu_memory_bytes=40 * GIB),
            [],
            "it needs 40.0 GiB on each GPU, and the largest free one has 80.0",
        ),
        (Need(memory_bytes=33 * GIB), [], "it needs 33.0 GiB of memory, and 32.0 GiB of 32.0 GiB is not spoken for"),
        (
            Need(memory_bytes=10 * GIB),
            [Placement(need=Need(memory_bytes=30 * GIB))],
            "it needs 10.0 GiB of memory, and 2.0 GiB of 32.0 GiB is not spoken for",
        ),
        (Need(cpus=6), [Placement(need=Need(cpus=4))], "it needs 6 CPUs, and 4 of 8 are not spoken for"),
    ],
)
def test_what_is_missing_is_said(need: Need, taken: Sequence[Placement], missing: str) -> None:
    said = place(MACHINE, taken, need)
    assert isinstance(said, str)
    assert said.startswith(missing)


def test_all_that_is_missing_is_said_at_once() -> None:
    said = place(MACHINE, [], Need(gpus=3, memory_bytes=64 * GIB, cpus=9))
    assert isinstance(said, str)
    assert said.count("it needs") == 3


def test_sizes_are_for_people() -> None:
    assert [size(512), size(1536), size(5 * 1024**2), size(3 * GIB)] == ["512 bytes", "1.5 KiB", "5.0 MiB", "3.0 GiB"]
