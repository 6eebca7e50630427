"""What is kept for large bodies, seen from the kernel: in a process of its own, for it holds for the whole process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import resource
from aiwm.heap import keep_large_buffers

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(5_000_000)[:] = b"x" * 5_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if {kept}:
    keep_large_buffers()
faults()
print(faults())
"""


def _faults_of_another_body(*, kept: bool) -> int:
    """Pages that the kernel had to give for 5 MB behind others that are free again."""
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(kept=kept)], capture_output=True, text=True, check=True, timeout=60
    )
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_the_next_large_body_gets_the_memory_of_the_last_one() -> None:
    pages = 5_000_000 // 4096
    assert _faults_of_another_body(kept=True) < pages / 10
    assert _faults_of_another_body(kept=False) > pages / 2
