from __future__ import annotations

from typing import Any

import pytest

from aiwm.simulator import words


@pytest.mark.parametrize(
    "prompt",
    [
        "Hello",
        ["Goodbye", "Hello"],
        {"parts": [{"text": "Hello"}]},
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}],
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hello"}]}],
    ],
)
def test_the_answer_says_what_it_is_and_quotes_the_users_last_words(prompt: object) -> None:
    assert words.answer(prompt).text == words.OPENING + "Hello"


@pytest.mark.parametrize("prompt", [None, [], {}, 7, [{"role": "system", "content": "Be brief"}], [{"content": 5}]])
def test_silence_is_answered_too(prompt: object) -> None:
    assert words.answer(prompt).text == words.SILENCE


def test_long_words_are_not_quoted_in_full() -> None:
    assert words.answer("x" * 5000).text == words.OPENING + "x" * words.QUOTED


@pytest.mark.parametrize("length", [1, 3, 20, 500])
def test_an_answer_has_the_length_asked_for(length: int) -> None:
    said = words.answer("Hello", length=length)
    assert said.tokens == length
    assert len(said.text) == 4 * length
    assert not said.cut_short


def test_a_limit_cuts_and_is_noticed() -> None:
    assert words.answer("Hello", limit=2) == words.Said(["This", " is "], cut_short=True)
    assert words.answer("Hello", length=2, limit=2).cut_short is False


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "STRING"}, "simulated"),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"type": ["integer", "null"], "minimum": 5}, 5),
        ({"type": "boolean"}, True),
        ({"enum": ["a", "b"]}, "a"),
        ({"const": 9}, 9),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, 1),
        ({"type": "array", "items": {"type": "number"}}, [1]),
        ({"type": "object", "properties": {"a": {}, "b": {"type": "boolean"}}, "required": ["b"]}, {"b": True}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "string"}}}, "simulated"),
        ({"$ref": "#/nowhere"}, None),
        ({}, None),
        ("nonsense", None),
    ],
)
def test_a_schema_is_filled_with_the_least_that_fits(schema: Any, value: Any) -> None:
    assert words.example(schema) == value


def test_a_schema_that_contains_itself_ends() -> None:
    assert words.example({"type": "array", "items": {"$ref": "#"}})


def test_arguments_are_an_object_whatever_the_schema() -> None:
    assert words.arguments(None) == {}
    assert words.arguments({"type": "string"}) == {}
