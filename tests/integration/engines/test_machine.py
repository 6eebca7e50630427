"""What this machine has, asked for real."""

from __future__ import annotations

import os
from pathlib import Path

from aiwm.engines import machine
from aiwm.engines.kinds import EngineKind
from aiwm.engines.registry import KINDS


def test_the_facts_are_those_of_this_machine(tmp_path: Path) -> None:
    facts = machine.facts(tmp_path, KINDS, "/usr/bin:/bin")
    assert facts.cpus == os.cpu_count()
    assert facts.memory_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert facts.disk_bytes > 0
    assert "llamacpp" in facts.engines
    assert facts.architecture == os.uname().machine


def test_readings_lie_within_the_facts(tmp_path: Path) -> None:
    facts, readings = machine.facts(tmp_path, {}, ""), machine.readings(tmp_path)
    assert 0 < readings.memory_free_bytes < facts.memory_bytes
    assert 0 < readings.disk_free_bytes < facts.disk_bytes
    assert 0 <= readings.cpu_percent <= 100 * facts.cpus
    assert len(readings.gpus) == len(facts.gpus)


def test_an_engine_that_is_not_installed_is_not_named(tmp_path: Path) -> None:
    kinds = {
        "none": EngineKind(name="none", provider="none", command=("no-such-program",)),
        "module": EngineKind(name="module", provider="none", command=("{python}",), module="no_such_module"),
        "shell": EngineKind(name="shell", provider="none", command=("sh",)),
    }
    assert machine.facts(tmp_path, kinds, "/usr/bin:/bin").engines == ("shell",)
