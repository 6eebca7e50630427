"""bench/fuzz.py for some seconds, and that it finds what it looks for. `script/bench fuzz` runs it for ten minutes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from bench.fuzz import Found, _slice, fuzz
from bench.fuzzed import Part, parts
from bench.mutations import Mutations

from aiwm.errors import AiwmError, Invalid


def _mutations(seed: int = 1) -> Mutations:
    return Mutations(random.Random(seed))


@pytest.mark.timeout(300)
def test_nearly_right_input_is_refused_and_nothing_breaks(tmp_path: Path) -> None:
    section = fuzz(tmp_path, seconds=6)
    assert section.wrong == [], section.title
    # Every part had its turn, and so had the program.
    counted = {figure.name: figure.aiwm[0] for figure in section.figures}
    for name in (*(part.name for part in parts()), "requests, byte by byte", "bodies, value by value"):
        assert counted[name] > 0, name


@pytest.mark.timeout(300)
def test_nearly_right_requests_break_nothing_in_two_workers(tmp_path: Path) -> None:
    section = fuzz(tmp_path, seconds=2, which=[], workers=2)
    # A worker that dies is replaced, and the log says so: that is wrong here too.
    assert section.wrong == [], section.title
    assert all(figure.aiwm[0] > 0 for figure in section.figures if not figure.name.endswith("refused"))


@pytest.mark.parametrize("part", parts(), ids=lambda part: part.name)
def test_each_part_bears_its_examples(part: Part) -> None:
    for example in part.examples:
        try:
            part.run(example, _mutations())
        except AiwmError:
            continue


def test_what_raises_anything_else_or_breaks_a_promise_or_hangs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(data: bytes, _: Mutations) -> None:
        if b"%" in data:
            raise KeyError("a bug")
        if b"\n" in data:
            raise Invalid("refused")
        assert b"\0" not in data

    found = Found()
    _slice(Part("broken", [b"abc"], breaks), _mutations(), found)
    assert {text.split(" in ")[0] for text in found.wrong} == {"broken: KeyError", "broken: AssertionError"}
    assert found.refused["broken"] > 0

    def hangs(_: bytes, __: Mutations) -> None:
        while True:
            pass

    monkeypatch.setattr("bench.fuzz._LONGEST_CPU_SECONDS", 0.1)
    found = Found()
    _slice(Part("slow", [b"abc"], hangs), _mutations(), found)
    assert [text.split(" in ")[0] for text in found.wrong] == ["slow: _Hung"]


def test_inputs_follow_from_the_seed_and_differ() -> None:
    first, again, other = (
        [_mutations(seed).bytes([b"GET / HTTP/1.1\r\n\r\n"]) for _ in range(1)]
        + [_mutations(seed).json({"a": [1, {"b": "c"}]})]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    mutations = _mutations()
    assert len({mutations.bytes([b"abc" * 10]) for _ in range(200)}) > 100
    text = b"abcdefgh" * 100
    assert all(b"".join(mutations.pieces(text)) == text for _ in range(50))
