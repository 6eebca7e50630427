from __future__ import annotations

import dataclasses

import pytest

from aiwm.simulator import switches
from aiwm.simulator.switches import BadSwitch, Switches


def test_all_switches_are_read() -> None:
    header = (
        "delay=0.5; chunk-delay=0.01; status=429; cut=3; piece=1; cached=7; cache-write=2; reasoning=5; "
        "encoding=gzip; tokens=200; quote-key; hang; Error-Mid-Stream;"
    )
    assert switches.parse(header) == Switches(
        delay=0.5,
        chunk_delay=0.01,
        status=429,
        cut=3,
        piece=1,
        cached=7,
        cache_write=2,
        reasoning=5,
        encoding="gzip",
        tokens=200,
        quote_key=True,
        hang=True,
        error_mid_stream=True,
    )


def test_an_empty_header_asks_for_nothing() -> None:
    assert switches.parse(" ; ") is switches.NONE


def test_the_manual_and_the_fields_are_the_same_list() -> None:
    fields = [field.name.replace("_", "-") for field in dataclasses.fields(Switches)]
    assert sorted(switches.MANUAL) == sorted(fields)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("dely=1", "there is no switch 'dely'"),
        ("=1", "there is no switch ''"),
        ("delay", "'delay' cannot be ''"),
        ("delay=soon", "give seconds"),
        ("delay=nan", "give seconds"),
        ("delay=inf", "give seconds"),
        ("delay=-1", "give seconds"),
        ("status=200", "not one of the statuses"),
        ("status=0429", "not one of the statuses"),
        ("cut=-1", "give a whole number"),
        ("cut=²", "give a whole number"),
        ("cut=1_0", "give a whole number"),
        ("piece=0", "give a whole number"),
        ("cached=99999999999999999999", "give a whole number"),
        ("encoding=rar", "not one of the encodings"),
        ("hang=1", "'hang' takes no value"),
        ("hang; hang", "'hang' is given twice"),
    ],
)
def test_what_cannot_be_obeyed_is_said_with_the_whole_list(header: str, problem: str) -> None:
    with pytest.raises(BadSwitch) as caught:
        switches.parse(header)
    assert problem in str(caught.value)
    assert all(text in str(caught.value) for text in switches.MANUAL.values())
