"""Workers killed at random moments under load: the books are right all the same.

AIWM_TEST_CRASHES is the number of kills; `script/bench crash` makes a thousand and shows figures.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench import report
from bench.crash import crash

CRASHES = int(os.environ.get("AIWM_TEST_CRASHES", "100"))


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
