from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aiwm.simulator.dialect import Fields, ProtoFields, Wrong


@pytest.mark.parametrize(
    ("read", "field"),
    [
        (lambda fields: fields.needed("nothing"), "nothing"),
        (lambda fields: fields.needed_text("null"), "null"),
        (lambda fields: fields.text("number"), "number"),
        (lambda fields: fields.whole("text"), "text"),
        (lambda fields: fields.whole("yes"), "yes"),
        (lambda fields: fields.whole("zero"), "zero"),
        (lambda fields: fields.whole("number", most=1), "number"),
        (lambda fields: fields.flag("number"), "number"),
        (lambda fields: fields.inner("text"), "text"),
        (lambda fields: fields.inner("inner").text("number"), "inner.number"),
        (lambda fields: fields.items("text"), "text"),
        (lambda fields: fields.items("list"), "list[1]"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(read: Callable[[Fields], Any], field: str) -> None:
    values = {"text": "a", "number": 2, "zero": 0, "yes": True, "null": None, "inner": {"number": 2}, "list": [{}, 1]}
    with pytest.raises(Wrong) as caught:
        read(Fields(values))
    assert caught.value.field == field


def test_what_is_null_is_absent() -> None:
    fields = Fields({"null": None})
    assert fields.text("null") is None
    assert fields.whole("null") is None
    assert fields.flag("null") is False
    assert fields.items("null") == []
    assert fields.inner("null").get("anything") is None


def test_protocol_buffers_fields_go_by_either_name() -> None:
    fields = ProtoFields({"a_long_name": {"inner_name": 1}, "otherName": 2})
    assert fields.inner("aLongName").get("innerName") == 1
    assert fields.get("otherName") == 2
