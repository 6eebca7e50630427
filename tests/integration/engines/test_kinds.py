"""The programs themselves are asked whether they know the words that the files of their kinds tell them.

Most are too large to be locked with the others, and are looked for on the PATH; TEST_ENGINES names folders to look in
besides. Without its program a kind is skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aiwm.engines import kinds
from aiwm.engines.driver import filled
from aiwm.engines.kinds import EngineKind
from aiwm.engines.process import found_program, installed
from aiwm.engines.registry import KINDS

PATH = os.pathsep.join([os.environ.get("TEST_ENGINES", ""), os.environ["PATH"]])
ALL = {"vllm": "--help=all"}
"""Who tells only the half of it else."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_program_knows_every_flag_it_is_given(kind: EngineKind) -> None:
    if not installed(kind, PATH):
        pytest.skip(f"{kind.name} is not installed")
    told = [*kind.command, *(word for words in kind.for_types.values() for word in words)]
    flags = {word.partition("=")[0] for word in told if word.startswith("--")}
    flags |= {argument.flag for argument in kind.arguments.values() if argument.flag}
    own = {"{python}": sys.executable, "{engines}": str(Path(kinds.__file__).parent)}
    plain = [filled(word, own) for word in kind.command if not word.startswith("--") and word != "{model}"]
    command = [found_program(plain[0], PATH), *plain[1:], ALL.get(kind.name, "--help")]
    environment = os.environ | {"COLUMNS": "200"}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    known = set(re.findall(r"--[a-z][a-z0-9-]*", shown.stdout + shown.stderr))
    assert flags <= known, (flags - known, shown.stdout[-2000:], shown.stderr[-2000:])
