"""planted.py: what it finds, and that a run of tests fails of it."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import planted
from patience import PATIENCE
from planted import MARK, PASSWORD

TESTS = Path(planted.__file__).parent


@pytest.fixture
def folder() -> Iterator[Path]:
    """Outside of the run's own: what is planted there must not be found when the run has ended."""
    with tempfile.TemporaryDirectory(prefix="aiwm-planted-") as name:
        yield Path(name)


@pytest.mark.parametrize(
    "text",
    [
        MARK.encode(),
        b"\0" * 5000 + PASSWORD.encode() + b"\0",
        MARK.encode().hex().encode(),
        *(base64.b64encode(b"x" * before + PASSWORD.encode() + b"y" * 5) for before in range(6)),
        base64.urlsafe_b64encode(PASSWORD.encode()),
        b"aiwm_sk_" + b"A" * 43,
        b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI2YjA0NWM4NjM4NTVjMTJl.ctpCwu8c2UiF9GTKQu0SbjG0uPQ",
    ],
)
def test_a_secret_is_found_in_whatever_form_it_was_written(folder: Path, text: bytes) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file.db").write_bytes(b"before" + text + b"behind")
    assert len(list(planted.leaks(folder))) == 1
    assert next(iter(planted.leaks(folder))).startswith("a/b/file.db: a")


@pytest.mark.parametrize("text", [b"", b"Pl4nted", b"aiwm_sk_...", b"eyJhbGciOiJIUzI1NiJ9", os.urandom(10_000)])
def test_what_is_no_secret_is_not_found(folder: Path, text: bytes) -> None:
    (folder / "file").write_bytes(text)
    (folder / "gone").symlink_to("nowhere")
    assert list(planted.leaks(folder)) == []


def test_a_token_is_shown_on_standard_output_and_nowhere_else(folder: Path) -> None:
    (folder / "1.output").write_text("aiwm_sk_" + "A" * 43)
    assert list(planted.leaks(folder)) == []
    (folder / "1.output").write_text(PASSWORD)
    (folder / "1.log").write_text("aiwm_sk_" + "A" * 43)
    assert len(list(planted.leaks(folder))) == 2


@pytest.mark.parametrize("processes", [0, 2])
def test_a_run_of_tests_fails_of_what_it_left(folder: Path, processes: int) -> None:
    (folder / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (folder / "test_it.py").write_text(
        "import planted\n"
        "def test_that_leaves_a_secret(tmp_path): (tmp_path / 'left').write_text(planted.PASSWORD)\n"
        "def test_that_sees_one(): planted.saw('GET /models', planted.PROVIDER_KEY.encode())\n"
        "def test_that_is_good(tmp_path): (tmp_path / 'good').write_text('nothing')\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        f"--basetemp={folder / 'kept'}",
        f"--rootdir={folder}",
        str(folder),
    ]
    options = ["-c", os.devnull, "-p", "no:cacheprovider", "-n", str(processes), "-o", f"pythonpath={TESTS}"]
    options += ["-p", "no:anyio", "-p", "no:schemathesis"]
    waits = 3 * PATIENCE
    run = subprocess.run([*command, *options], capture_output=True, text=True, cwd=folder, timeout=waits, check=False)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "3 passed" in run.stdout
    assert "left: a planted secret as it is" in run.stdout
    assert "an answer: GET /models: a planted secret as it is" in run.stdout
    assert MARK not in run.stdout + run.stderr
