"""store/turns.py: who changes the ledger has it for itself until its transaction ends."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from aiwm.store.database import Database
from aiwm.store.turns import take_turns


async def test_what_is_read_in_a_turn_is_true_until_it_ends(database: Database) -> None:
    async def count() -> None:
        async with database.writing() as connection:
            await connection.run_sync(take_turns)
            found = await connection.scalar(text("SELECT hours_since FROM usage_horizon"))
            await asyncio.sleep(0)
            await connection.execute(text("UPDATE usage_horizon SET hours_since = :next"), {"next": found + 1})

    async with database.writing() as connection:
        await connection.execute(text("INSERT INTO usage_horizon (id, hours_since) VALUES (1, 0)"))
    await asyncio.gather(*(count() for _ in range(6)))
    async with database.reading() as connection:
        assert await connection.scalar(text("SELECT hours_since FROM usage_horizon")) == 6
