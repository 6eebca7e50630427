"""Statements that run thousands of times: compiled once for each engine, fed with plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Executable, Table, bindparam, select
from sqlalchemy.engine import Dialect

_ROWS_AT_ONCE = 16
"""Rows inserted by one statement: SQLite's driver gives way to other threads once for each."""

_KEYS_AT_ONCE = 512
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

    def __init__(self, table: Table, conflict: Conflict) -> None:
        self._table, self._conflict = table, conflict
        self._names = tuple(column.name for column in table.c if column.autoincrement is not True)
        self._texts = _Texts(self._text)

    def run(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Each row once in `rows`, its values in the order of the table's columns, without a number that the database
        makes."""
        whole = len(rows) - len(rows) % _ROWS_AT_ONCE
        several = [tuple(chain.from_iterable(rows[n : n + _ROWS_AT_ONCE])) for n in range(0, whole, _ROWS_AT_ONCE)]
        for size, values in ((_ROWS_AT_ONCE, several), (1, list(rows[whole:]))):
            if values:
                connection.exec_driver_sql(self._texts.of(connection.dialect, size), values)

    def _text(self, dialect: Dialect, size: int) -> str:
        values: list[dict[str, Any]] = [
            {name: bindparam(f"{name}_{row}") for name in self._names} for row in range(size)
        ]
        return _spelled(self._conflict(_insert(dialect, self._table).values(values).inline()), dialect)


Conflict = Callable[[Any], Any]
"""What an insertion does where a row with the same key is already."""


def refuses(statement: Any) -> Any:
    """All of it fails."""
    return statement


def keeps(statement: Any) -> Any:
    """The row stays as it is."""
    return statement.on_conflict_do_nothing()


def grows(keys: Sequence[str], added: Sequence[str], replaced: Sequence[str] = ()) -> Conflict:
    """The row's `added` columns grow by the new values, its `replaced` ones take them."""

    def grow(statement: Any) -> Any:
        table, new = statement.table, statement.excluded
        grown = {name: table.c[name] + new[name] for name in added}
        return statement.on_conflict_do_update(index_elements=keys, set_=grown | {name: new[name] for name in replaced})

    return grow


def rises(name: str, *, key: str) -> Conflict:
    """The row's column takes the new value if that is larger."""

    def rise(statement: Any) -> Any:
        old, new = statement.table.c[name], statement.excluded[name]
        return statement.on_conflict_do_update(index_elements=[key], set_={name: new}, where=new > old)

    return rise


class Lookup:
    """Finds rows by one key each, among those with the same values in `fixed` columns."""

    def __init__(self, table: Table, key: str, *found: str, fixed: Sequence[str] = ()) -> None:
        self._table, self._key, self._found, self._fixed = table, key, found, fixed
        self._texts = _Texts(self._text)

    def run(self, connection: Connection, keys: Sequence[object], *fixed: object) -> Iterator[Sequence[Any]]:
        """Those that are there: the key, then the `found` columns."""
        for first in range(0, len(keys), _KEYS_AT_ONCE):
            part = keys[first : first + _KEYS_AT_ONCE]
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


def _insert(dialect: Dialect, table: Table) -> Any:
    """What SQLAlchemy knows of the other database is not loaded."""
    if dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)


def _spelled(statement: Executable, dialect: Dialect) -> str:
    return str(statement.compile(dialect=dialect))  # type: ignore[attr-defined]
