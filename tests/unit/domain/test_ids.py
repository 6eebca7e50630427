"""domain/ids.py"""

from __future__ import annotations

import subprocess
import sys

import pytest

from aiwm.domain.ids import checked_id, new_id, new_request_id
from aiwm.errors import Invalid


def test_ids_are_24_hexadecimal_digits_and_never_the_same() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(checked_id(id_, "Model") == id_ for id_ in ids)


def test_an_id_made_in_a_later_second_sorts_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for second in (1_000_000_000, 1_000_000_001, 1_763_888_000):
        monkeypatch.setattr("time.time", lambda now=second: now + 0.5)
        ids.append(new_id())
    assert ids == sorted(ids)
    assert ids[0].startswith(f"{1_000_000_000:08x}")


def test_ids_of_requests_are_never_the_same_and_sort_by_age(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [new_request_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(checked_id(id_, "Request") == id_ for id_ in ids)
    monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)
    assert new_request_id() > max(ids)


def test_a_clock_that_is_set_back_makes_no_id_of_a_request_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for second in (1_763_888_000, 1_763_888_001, 1_763_888_000, 1_763_884_400, 1_763_888_000):
        monkeypatch.setattr("time.time", lambda now=second: float(now))
        ids += [new_request_id() for _ in range(100)]
    assert len(set(ids)) == 500


_FORKS = """
import os
from aiwm.domain.ids import new_request_id
new_request_id()
if child := os.fork():
    os.waitpid(child, 0)
print(new_request_id(), flush=True)
"""


def test_a_process_and_its_fork_do_not_make_the_same_ids() -> None:
    ran = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True, check=True)
    one, other = ran.stdout.split()
    assert one[8:16] != other[8:16]


def test_an_id_in_upper_case_is_the_same_id() -> None:
    assert checked_id("67A1B2C3D4E5F60718293A4B", "Model") == "67a1b2c3d4e5f60718293a4b"


@pytest.mark.parametrize(
    "text",
    ["", "67a1", "67a1b2c3d4e5f6g7h8i9j0k1", "0" * 23, "0" * 25, "0" * 24 + "\n", " " + "0" * 23, "０" * 24, "../" * 8],
)
def test_what_does_not_have_the_form_of_an_id_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        checked_id(text, "Deployment")
    assert str(caught.value) == "Deployment ID must be 24 hexadecimal digits"
