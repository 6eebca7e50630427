"""What the bench makes of its figures: a benchmark that reckons wrongly is worse than none."""

from __future__ import annotations

import pytest
from bench import report, soak
from bench.figures import Figure, Section, Target, added, growth, percentile
from bench.steady import is_whole
from hypothesis import given
from hypothesis import strategies as st


def test_a_percentile_is_one_of_the_values() -> None:
    values = list(range(1000, 0, -1))
    assert percentile(values, 50) == 500
    assert percentile(values, 99) == 990
    assert percentile(values, 99.9) == 999
    assert percentile(values, 100) == 1000
    assert percentile([7], 99.9) == 7


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.floats(0, 100))
def test_as_many_values_as_a_percentile_says_do_not_exceed_it(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-6


def test_of_nothing_there_is_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


def test_what_is_added_is_the_difference_of_the_percentiles() -> None:
    assert added({"nginx": [3, 4, 5], "AIWM": [6, 7, 9]}, [1, 2, 3], 50) == {"nginx": 2, "AIWM": 5}


def test_growth_is_in_percent() -> None:
    assert growth(100, 104) == pytest.approx(4)
    assert growth(100, 90) == pytest.approx(-10)


def test_ratios_are_of_rounds_and_not_of_medians() -> None:
    figure = Figure("CPU", "us", aiwm=[20, 90, 30], nginx=[10, 30, 10])
    assert figure.ratios == [2, 3, 3]


def test_the_judgement_is_about_the_ratio_unless_the_target_is_absolute() -> None:
    figure = Figure("CPU", "us", aiwm=[20, 30, 40], nginx=[10, 10, 10], target=Target(3, 2))
    assert figure.judged == 3
    assert report.verdict(figure) == "reach 3x: ok, aim 2x: missed"
    figure.target = Target(35, 20, absolute=True)
    assert report.verdict(figure) == "reach 35 us: ok, aim 20 us: missed"
    figure.target = Target(25, 35, absolute=True, at_least=True)
    assert report.verdict(figure) == "reach 25 us: ok, aim 35 us: missed"


def test_what_was_not_measured_is_not_judged() -> None:
    assert report.verdict(Figure("CPU", "us", nginx=[1], target=Target(3, 2))) == ""
    assert report.verdict(Figure("CPU", "us", aiwm=[1])) == ""


@pytest.fixture
def section() -> Section:
    cpu = Figure("CPU", "us", aiwm=[20, 40, 30], nginx=[10, 10, 10], target=Target(3, 2))
    cpu.put("other", 500)
    series = Figure("memory on the way", "MiB", aiwm=[100, 101.25], series=True)
    return Section("chat: all of it", [cpu, series], notes=["a note"], wrong=["a fault"])


def test_the_table_has_medians_spread_ratios_targets_notes_and_faults(section: Section) -> None:
    title, cpu, memory, note, fault = report.text(section, ["other"]).strip().splitlines()
    assert title == "chat: all of it"
    for part in ("CPU, us", "10", "30 (20 to 40)", "3.00 (2.00 to 4.00)", "500", "50.00", "reach 3x: ok"):
        assert part in cpu
    assert "100, 101.2" in memory
    assert note.strip() == "a note"
    assert fault.strip() == "WRONG: a fault"


def test_two_growths_have_no_ratio() -> None:
    row = report.text(Section("memory", [Figure("growth", "%", aiwm=[-4.0], nginx=[0.5])])).splitlines()[-1]
    assert row.split() == ["growth,", "%", "0.5", "-4"]


def test_every_row_of_the_markdown_has_a_cell_for_every_column(section: Section) -> None:
    for peers in ([], ["other"]):
        shown = report.markdown({"Python": "3"}, {"chat": section}, peers)
        rows = [line for line in shown.splitlines() if line.startswith("|")]
        assert {row.count("|") for row in rows} == {6 + 2 * len(peers)}
        assert "* Python: 3" in shown
        assert "* chat: WRONG: a fault" in shown


def test_machines_are_given_every_round_and_the_judgement(section: Section) -> None:
    [cpu, _] = report.data({}, {"chat": section})["measures"]["chat"]["figures"]
    assert cpu["aiwm"] == [20, 40, 30]
    assert cpu["ratios"] == [2, 4, 3]
    assert cpu["peers"] == {"other": {"values": [500], "ratios": [50]}}
    assert cpu["target"] == {"reach": 3, "aim": 2, "value": 3, "reached": True, "aimed": False}


# --- answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "body", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3", b"ab", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3", b"abc", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked", b"1\r\n0\r\n", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked", b"1\r\n0\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked", b"0\r\n\r\n", True),
    ],
)
def test_an_answer_is_whole_when_its_framing_says_so(head: bytes, body: bytes, *, whole: bool) -> None:
    assert is_whole(head, body) is whole


# --- the books of the soak -----------------------------------------------------------------------------------


def _row(number: int, *, end: str = "complete") -> tuple[str, int, int, str, str, int]:
    return (f"n{number}", *soak.tokens(number), end, "provider", 200)


def test_books_are_exact_when_rows_provider_and_callers_say_the_same() -> None:
    wrong: list[str] = []
    rows = [_row(0), _row(1), _row(2, end="client-gone")]
    notes = soak.compare(rows, bytearray(b"\1\1\0\0"), b"\1\1\1", wrong)
    assert wrong == []
    assert "3 rows for 3 requests that reached the provider, 2 complete, 1 client-gone" in notes[0]


@pytest.mark.parametrize(
    ("rows", "whole", "reached", "fault"),
    [
        ([_row(0), _row(0)], b"\1", b"\1", "rows too many"),
        ([], b"\0", b"\1", "have no row"),
        ([], b"\1", b"\0", "the provider knows nothing of"),
        ([_row(0)], b"\0", b"\0", "never reached the provider"),
        ([_row(0)], b"\1", b"\2", "more than once"),
        ([_row(0, end="client-gone")], b"\1", b"\1", "that it was not"),
        ([("n0", 1, 1, "complete", "provider", 200)], b"\1", b"\1", "other tokens"),
        ([("n0", *soak.tokens(0), "complete", "estimated", 200)], b"\1", b"\1", "other tokens"),
    ],
)
def test_what_is_wrong_with_the_books_is_found(
    rows: list[tuple[str, int, int, str, str, int | None]], whole: bytes, reached: bytes, fault: str
) -> None:
    wrong: list[str] = []
    soak.compare(rows, bytearray(whole), reached, wrong)
    assert any(fault in each for each in wrong), wrong


def test_a_third_are_streams_and_a_tenth_leave_of_both_kinds() -> None:
    numbers = range(30_000)
    assert sum(map(soak.streams, numbers)) == 10_000
    assert sum(map(soak.leaves, numbers)) == 3000
    assert sum(soak.leaves(each) and soak.streams(each) for each in numbers) == 1000
    assert sum(soak.leaves(each) and soak.goes_within(each) for each in numbers) == 500
