"""Statements that run thousands of times: compiled once for each engine, fed with plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Executable, Table, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

_AT_ONCE = 512
"""Keys asked for in one statement: below the number of bound values that SQLite and PostgreSQL take."""

Values = tuple[object, ...]


class _Texts:
    """SQL in the driver's own spelling, by size of the statement."""

    def __init__(self, text: Callable[[Dialect, int], str]) -> None:
        self._text = text
        self._dialect: Dialect | None = None
        self._known: dict[int, str] = {}

    def of(self, dialect: Dialect, size: int = 1) -> str:
        if dialect is not self._dialect:
            self._dialect, self._known = dialect, {}
        if size not in self._known:
            self._known[size] = self._text(dialect, size)
        return self._known[size]


class Insertion:
    """Puts rows into a table."""

    def __init__(
        self, table: Table, *, keys: Sequence[str] = (), added: Sequence[str] = (), replaced: Sequence[str] = ()
    ) -> None:
        """Where a row with the same `keys` is already, its `added` columns grow by the new values and its `replaced`
        ones take them; without `keys`, it stays as it is."""
        self._table, self._keys, self._added, self._replaced = table, keys, added, replaced
        self._names = tuple(column.name for column in table.c if column.autoincrement is not True)
        self._texts = _Texts(self._text)

    def run(self, connection: Connection, rows: Sequence[Values]) -> None:
        """The values of each row in the order of the table's columns, without the number that the database makes."""
        connection.exec_driver_sql(self._texts.of(connection.dialect), list(rows))

    def _text(self, dialect: Dialect, _: int) -> str:
        table = self._table
        statement: Any = (sqlite if dialect.name == "sqlite" else postgresql).insert(table).inline()
        if self._keys:
            new = statement.excluded
            grown = {name: table.c[name] + new[name] for name in self._added}
            taken = {name: new[name] for name in self._replaced}
            statement = statement.on_conflict_do_update(index_elements=self._keys, set_=grown | taken)
        else:
            statement = statement.on_conflict_do_nothing()
        return _spelled(statement, dialect, self._names)


class Lookup:
    """Finds rows by one key each, among those with the same values in `fixed` columns."""

    def __init__(self, table: Table, key: str, *found: str, fixed: Sequence[str] = ()) -> None:
        self._table, self._key, self._found, self._fixed = table, key, found, fixed
        self._texts = _Texts(self._text)

    def run(self, connection: Connection, keys: Sequence[object], *fixed: object) -> Iterator[Sequence[Any]]:
        """Those that are there: the key, then the `found` columns."""
        for first in range(0, len(keys), _AT_ONCE):
            part = keys[first : first + _AT_ONCE]
            # Sizes are powers of two: a few statements, which the driver keeps prepared, instead of hundreds.
            size = 1 << (len(part) - 1).bit_length()
            filled = (*fixed, *part, *[part[-1]] * (size - len(part)))
            yield from connection.exec_driver_sql(self._texts.of(connection.dialect, size), filled)

    def _text(self, dialect: Dialect, size: int) -> str:
        columns = self._table.c
        statement = select(columns[self._key], *(columns[name] for name in self._found)).where(
            *(columns[name] == bindparam(name) for name in self._fixed),
            columns[self._key].in_([bindparam(f"key_{number}") for number in range(size)]),
        )
        return _spelled(statement, dialect)


def _spelled(statement: Executable, dialect: Dialect, names: Sequence[str] | None = None) -> str:
    return str(statement.compile(dialect=dialect, column_keys=names))  # type: ignore[attr-defined]
