"""store/words.py: each combination of words has one number, which is remembered without end and without asking."""

from __future__ import annotations

from functools import partial

from aiwm.store.database import Database
from aiwm.store.tables import usage_series
from aiwm.store.words import WordBook


def _words(number: int) -> tuple[str | None, ...]:
    return "red", f"user-{number}", None, "d" * 24, "gpt-4", "openai"


async def test_a_combination_has_one_number_whoever_asks(database: Database) -> None:
    wanted = [_words(n) for n in range(5)]
    first = await database.written(lambda connection: WordBook(usage_series).numbers(connection, wanted[:3]))
    second = await database.written(lambda connection: WordBook(usage_series).numbers(connection, wanted))
    assert len(set(second.values())) == 5
    assert first == {words: second[words] for words in wanted[:3]}


async def test_more_combinations_than_are_remembered_keep_their_numbers(database: Database) -> None:
    book, wanted = WordBook(usage_series), [_words(n) for n in range(30_000)]
    first = {}
    for begin in range(0, len(wanted), 6000):
        part = wanted[begin : begin + 6000]
        first |= (found := await database.written(partial(book.numbers, wanted=part)))
        book.remember(found)
    for begin in (24_000, 0, 12_000):
        part = wanted[begin : begin + 2000]
        found = await database.written(partial(book.numbers, wanted=part))
        assert found == {words: first[words] for words in part}
        book.remember(found)
