"""Transactions and their statements, awaited: what is used of `sqlalchemy.ext.asyncio`, without the ORM, which comes
with that and takes 6 MiB.

It stands on the same ground: what `greenlet_spawn` runs may wait for an asynchronous driver, and others have their turn
meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple, overload

from sqlalchemy import Connection, CursorResult, Engine, Executable, Result, Row, ScalarResult, Select
from sqlalchemy.sql.selectable import TypedReturnsRows
from sqlalchemy.util.concurrency import greenlet_spawn

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Values = Mapping[str, Any] | None
Several = Values | Sequence[Mapping[str, Any]]


class AsyncConnection:
    """Within a transaction."""

    def __init__(self, sync: Connection) -> None:
        self._sync = sync

    @overload
    async def execute(  # type: ignore[overload-overlap]  # what is no Select may tell how many rows it has changed
        self, statement: Select[*Ts]
    ) -> Result[*Ts]: ...

    @overload
    async def execute(self, statement: Executable, parameters: Several = None) -> CursorResult[*tuple[Any, ...]]: ...

    async def execute(self, statement: Executable, parameters: Several = None) -> Result[*tuple[Any, ...]]:
        """All rows are there when it returns."""

        def run(sync: Connection) -> Result[*tuple[Any, ...]]:
            result = sync.execute(statement, parameters)
            # Who reads them can't wait for the driver.
            return result.freeze()() if result.returns_rows else result

        return await self.run_sync(run)

    @overload
    async def scalar(self, statement: TypedReturnsRows[T], values: Values = None) -> T | None: ...

    @overload
    async def scalar(self, statement: Executable, values: Values = None) -> Any: ...

    async def scalar(self, statement: Executable, values: Values = None) -> Any:
        """The first column of the first row; None if there is no row."""
        return await self.run_sync(lambda sync: sync.scalar(statement, values))

    @overload
    async def scalars(self, statement: TypedReturnsRows[T], values: Values = None) -> ScalarResult[T]: ...

    @overload
    async def scalars(self, statement: Executable, values: Values = None) -> ScalarResult[Any]: ...

    async def scalars(self, statement: Executable, values: Values = None) -> ScalarResult[Any]:
        """The first column of each row."""
        return (await self.execute(statement, values)).scalars()

    async def partitions(self, statement: Select[*Ts], size: int) -> AsyncIterator[Sequence[Row[*Ts]]]:
        """Some rows at a time, as the database finds them."""
        result = await self.run_sync(lambda sync: sync.execute(statement, execution_options={"stream_results": True}))
        while rows := await greenlet_spawn(result.fetchmany, size):
            yield rows

    async def run_sync(self, work: Callable[[Connection], T]) -> T:
        return await greenlet_spawn(work, self._sync)


@asynccontextmanager
async def transaction(engine: Engine, **options: Any) -> AsyncIterator[AsyncConnection]:
    """All done or not at all. The engine's driver is an asynchronous one; `options` are the connection's."""
    sync = await greenlet_spawn(engine.connect)
    try:
        sync.execution_options(**options)
        await greenlet_spawn(sync.begin)
        yield AsyncConnection(sync)
        await greenlet_spawn(sync.commit)
    finally:
        # It rolls back what is not committed.
        await to_its_end(greenlet_spawn(sync.close))


async def dispose(engine: Engine) -> None:
    await greenlet_spawn(engine.dispose)


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Who waits for it and is cancelled leaves when it is done: a connection goes back to the pool whole."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    try:
        task.result()
    finally:
        if cancelled is not None:
            raise cancelled
