"""What /openapi.json promises is what is answered: schemathesis sends what it allows, and what it does not.

Every check of schemathesis is on. `default`, which says the shape of every error, is taken out of the description
before, so that each status has to be documented where it is answered.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiwm.domain.users import Role
from gateway import Gateway, get
from inside import SECRET, token

EXAMPLES = 4
"""Random requests for each operation and kind, besides those that try each rule of the description once."""

CONFIGURATION = r"""
# What is right by its form may still be wrong in its state, or name what is not there: the guide says 400 to both.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "409", "429"]

# Takes every method that a provider's API may have.
[[operations]]
include-path = "/deployments/{id}/inference/{path}"
[operations.checks.unsupported_method]
enabled = false
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    # With a shared secret: no log-out among the requests ends the login of those after it.
    with Gateway(tmp_path_factory.mktemp("aiwm") / "data", AIWM_JWT_SECRET=SECRET) as gateway:
        yield gateway


@pytest.mark.timeout(900)
@pytest.mark.parametrize("program", ["gateway", "identity"])
def test_the_description_is_kept(running: Gateway, tmp_path: Path, program: str) -> None:
    address = running.url if program == "gateway" else running.iam_url
    description = get(f"{address}/openapi.json").json()
    for operations in description["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("default", None)
    (tmp_path / "openapi.json").write_text(json.dumps(description))
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    operator = token(Role.UNIVERSE_OWNER, exp=int(time.time()) + 3600)
    before = len(running.log)

    # One worker: Python before 3.11.8 counts the depth of a syntax tree for all threads at once, so hypothesis can't
    # read sources in two of them (python/cpython#106905).
    done = subprocess.run(
        [
            sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
            "--config-file", "schemathesis.toml", "run", "openapi.json", "--url", address,
            "--header", f"Authorization: Bearer {operator}", "--phases", "examples,coverage,fuzzing",
            "--max-examples", str(EXAMPLES), "--generation-database", "none", "--workers", "1", "--no-color",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    tried = re.search(r"(\d+) generated", done.stdout)
    assert tried is not None
    assert int(tried[1]) > 400
    print(f"\n{program}: {tried[1]} requests of schemathesis")
    failed = [line for line in running.log[before:].splitlines() if '"status":5' in line]
    # 501 and 503 are answers that are documented; nothing else of the kind is.
    assert [line for line in failed if '"status":500' in line] == []
    assert "Traceback" not in running.log[before:]
