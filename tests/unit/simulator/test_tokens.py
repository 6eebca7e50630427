from __future__ import annotations

import pytest

from aiwm.simulator import tokens


@pytest.mark.parametrize(("text", "expected"), [("", 1), ("a", 1), ("abcd", 1), ("abcde", 2), ("日本語です", 2)])
def test_a_token_is_four_characters_and_nothing_is_free(text: str, expected: int) -> None:
    assert tokens.count(text) == expected


def test_pieces_are_as_many_as_counted_and_make_the_text_again() -> None:
    for text in ("", "abc", "abcd", "abcdefghij"):
        assert len(tokens.pieces(text)) == tokens.count(text)
        assert "".join(tokens.pieces(text)) == text


def test_only_texts_count_wherever_they_are() -> None:
    messages = [
        {"role": "system", "content": "1234"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "5678"}, {"type": "image_url", "image_url": {"url": "x"}}],
        },
        {"parts": [{"text": "9012"}], "name": "not counted"},
        {"type": "function_call_output", "output": "3456"},
    ]
    assert tokens.of(messages) == 4


def test_nesting_deeper_than_the_stack_is_counted() -> None:
    nested: object = "abcd"
    for _ in range(5000):
        nested = [nested]
    assert tokens.of(nested) == 1


def test_a_list_of_token_numbers_counts_as_its_length() -> None:
    assert tokens.of_input([5, 6, 7]) == 3
    assert tokens.of_input("abcde") == 2


def test_what_is_asked_for_comes_on_top() -> None:
    usage = tokens.usage(["abcd", "efgh"], tokens.count("answer"), cached=10, cache_write=20, reasoning=30)
    assert (usage.fresh, usage.visible) == (2, 2)
    assert (usage.total_in, usage.total_out, usage.total) == (32, 32, 64)
