"""What an engine writes, and how it is read."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiwm.engines.lines import KEPT_BYTES, MAX_BYTES, Lines


def test_a_file_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert Lines(tmp_path / "none").last(5) == []


def test_control_characters_and_the_key_are_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a\x1b[31mred\nkey s3cret\rprogress\n")
    assert Lines(path, secret="s3cret").last(5) == ["a\ufffd[31mred", "key …", "progress"]


def test_a_file_stays_short_and_its_writer_can_go_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = Lines(path)
    with path.open("ab", buffering=0) as writer:
        for number in range(MAX_BYTES // 100 + 10):
            writer.write(f"{number:099}\n".encode())
        lines.shorten()
        assert path.stat().st_size <= KEPT_BYTES
        writer.write(b"after\n")
    assert lines.last(2)[1] == "after"
    assert len(path.read_bytes().splitlines()[0]) == 99


async def test_who_follows_sees_what_comes_and_survives_the_shortening(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\ntwo\n")
    pieces = Lines(path).follow(last=1)
    seen = ""

    async def until(text: str) -> None:
        nonlocal seen
        async with asyncio.timeout(5):
            while not seen.endswith(text):
                seen += await anext(pieces)

    await until("two\n")
    with path.open("a") as writer:
        writer.write("thr")
        writer.flush()
        writer.write("ee\n")
    await until("two\nthree\n")
    path.write_text("new\n")
    await until("three\nnew\n")
    await pieces.aclose()
