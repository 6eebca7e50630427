"""Workers killed at random moments under load: the books are right all the same.

AIWM_TEST_CRASHES is the number of kills; `script/bench crash` makes a thousand and shows figures.
AIWM_TEST_WORKER_CRASHES is that of workers of one AIWM, on each database.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench import report
from bench.crash import crash, crash_workers

CRASHES = int(os.environ.get("AIWM_TEST_CRASHES", "100"))
WORKER_CRASHES = int(os.environ.get("AIWM_TEST_WORKER_CRASHES", "4"))


@pytest.mark.timeout(600 + 10 * CRASHES)
def test_whatever_is_killed_each_request_is_booked_once_with_what_its_answer_says(tmp_path: Path) -> None:
    section = crash(tmp_path, kills=CRASHES)
    print(report.text(section))
    assert section.wrong == []
    figures = {figure.name: figure.aiwm[0] for figure in section.figures}
    assert figures["killed at work"] >= CRASHES
    assert figures["answers that clients received whole"] > CRASHES
    # Kills that broke nothing off would prove nothing.
    assert figures["requests broken off by a kill"] > CRASHES


@pytest.mark.timeout(600 + 10 * WORKER_CRASHES)
@pytest.mark.parametrize(("kind", "seed"), [("sqlite", 1), ("postgresql", 2)])
def test_whichever_workers_and_parents_are_killed_each_request_is_booked_once_and_counted_at_once(
    tmp_path: Path, kind: str, seed: int, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgresql").new_database() if kind == "postgresql" else ""
    section = crash_workers(tmp_path, kills=WORKER_CRASHES, database_url=url, seed=seed)
    print(report.text(section))
    assert section.wrong == []
    figures = {figure.name: figure.aiwm[0] for figure in section.figures}
    assert figures["killed at work"] + figures["killed while starting"] >= WORKER_CRASHES
    assert figures["killed at work"] >= WORKER_CRASHES / 2
    assert figures["parents killed"] >= WORKER_CRASHES / 2
    assert figures["answers that clients received whole"] > 10 * WORKER_CRASHES
    assert figures["requests broken off by a kill"] > WORKER_CRASHES
    assert figures["counts asked for meanwhile"] > WORKER_CRASHES
