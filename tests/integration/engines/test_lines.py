"""What an engine writes, and how it is read."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiwm.engines.lines import KEPT_BYTES, MAX_BYTES, Lines, followed
from patience import PATIENCE


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
    pieces = followed(lambda: {0: Lines(path)}, lambda: ["s3cret"], last=1, until=lambda: False)
    seen = b""

    async def until(text: bytes) -> None:
        nonlocal seen
        async with asyncio.timeout(PATIENCE):
            while not seen.endswith(text):
                seen += await anext(pieces)

    await until(b"two\n")
    with path.open("a") as writer:
        writer.write("thr")
        writer.flush()
        writer.write("ee s3cret\n")
    await until("two\nthree …\n".encode())
    path.write_text("new\n")
    await until(b"\nnew\n")
    await pieces.aclose()


async def test_lines_of_several_replicas_say_whose_they_are(tmp_path: Path) -> None:
    files = {number: Lines(tmp_path / str(number)) for number in range(2)}
    for number, lines in files.items():
        lines.note(f"starts {number}")
    pieces = [piece async for piece in followed(lambda: files, list, last=5, until=lambda: True)]
    assert b"".join(pieces) == b"[0] [aiwm] starts 0\n[1] [aiwm] starts 1\n"
