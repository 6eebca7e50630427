"""Words that repeat from row to row, kept once: each combination has a number, and rows have the number."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, Table

from aiwm.store.statements import Insertion, Lookup, keeps

_MOST_REMEMBERED = 20_000
"""Combinations whose numbers are kept in memory, and as many of those that came before; a gateway has a few hundred."""

Words = tuple[Any, ...]


class WordBook:
    """A table with `id`, `digest` and the words; lines are never removed."""

    def __init__(self, table: Table) -> None:
        self.names = tuple(column.name for column in table.c if column.name not in {"id", "digest"})
        """What the words are, in their order."""
        self._numbers: dict[Words, int] = {}
        """Of combinations that are committed."""
        self._before: dict[Words, int] = {}
        """Those that were remembered until there were too many. Who comes again is remembered anew."""
        self._insertion = Insertion(table, keeps)
        self._lookup = Lookup(table, "digest", "id")

    def numbers(self, connection: Connection, wanted: Iterable[Words]) -> dict[Words, int]:
        """The number of each combination; those that are new are added."""
        numbers = {words: self._numbers.get(words) or self._before.get(words) for words in wanted}
        missing = {_digest(words): words for words, number in numbers.items() if number is None}
        found = {words: number for words, number in numbers.items() if number is not None}
        if not missing:
            return found
        self._insertion.run(connection, [(digest, *words) for digest, words in missing.items()])
        found |= {missing[bytes(digest)]: number for digest, number in self._lookup.run(connection, list(missing))}
        return found

    def remember(self, numbers: dict[Words, int]) -> None:
        """Once they are committed: a transaction that was rolled back has added none."""
        if len(self._numbers) > _MOST_REMEMBERED:
            self._before, self._numbers = self._numbers, {}
        self._numbers |= numbers


def _digest(words: Words) -> bytes:
    """The same on every machine: what makes words unique in the database, where a null equals nothing."""
    return blake2b(repr(words).encode("utf-8", "surrogatepass"), digest_size=16).digest()
