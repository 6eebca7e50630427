"""The ledger by itself: what a row takes of CPU and disk, and how long a report over many of them takes.

Rows are put in the way the recorder does, on SQLite: the same batches, the same transactions.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import TypeVar

from aiwm.domain.ids import new_request_id
from aiwm.domain.reports import DAY_MS, Dimension, Period, ReportQuery, RowQuery, Span
from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.domain.users import Principal, Role
from aiwm.store.database import Database
from aiwm.store.ledger import LedgerStore
from aiwm.store.usage import UsageStore
from bench.figures import Figure, Section

_DAYS = 30
_ORG = "a" * 24
_BATCH = 500
_FILLED = 5000
_CROWD = 10_000
_CROWD_FILLED = 80_000
_TIMED, _CROWD_TIMED = 60, 160
"""Batches whose CPU time is measured. Of many deployments enough that each is added to its sums."""
_ASKED = 7
"""Times that each report is asked for."""
_PRICE = (
    '{"list":"genai-prices 0.0.1","model":"openai/gpt-4o",'
    '"rates":{"fresh_tokens":"2.5","cache_read_tokens":"1.25","output_tokens":"10"}}'
)

T = TypeVar("T")


def ledger(folder: Path, *, rows: int) -> Section:
    return asyncio.run(_ledger(folder / "ledger.db", rows))


async def _ledger(path: Path, rows: int) -> Section:
    section = Section(f"ledger: {rows:,} rows over {_DAYS} days, on SQLite, by itself", [])
    database = Database(f"sqlite+aiosqlite:///{path}")
    until = time.time_ns() // 1_000_000
    try:
        await database.migrate()
        store = LedgerStore(database)
        await _fill(store, rows, until)
        await _measure_adding(store, section, until, deployments=2, timed=_TIMED)
        await _measure_reports(UsageStore(database), section, until, rows + (_TIMED + 1) * _BATCH)
    finally:
        await database.aclose()
    await _measure_crowd(path.with_name("crowd.db"), section, until)
    row, sums = _bytes_a_row(path)
    section.figures += [Figure("a row with labels and indexes", "bytes", [row])]
    section.figures += [Figure("sums beside, divided among the rows", "bytes", [sums])]
    section.notes += _plan(path)
    return section


async def _fill(store: LedgerStore, rows: int, until: int) -> None:
    chance = random.Random(1)  # noqa: S311 - numbers to measure with, the same each time
    times = sorted(chance.randrange(until - _DAYS * DAY_MS, until) for _ in range(rows))
    for first in range(0, rows, _FILLED):
        await store.add([_row(chance, at) for at in times[first : first + _FILLED]])


async def _measure_adding(
    store: LedgerStore, section: Section, now: int, *, deployments: int, timed: int, filled: int = _BATCH
) -> None:
    """Batches as at work: all of one hour and one user. All CPU of the process counts, the file's too.

    The mean counts, for one batch sums up what others have left to be summed.
    """
    chance = random.Random(2)  # noqa: S311 - the same

    def batch(size: int) -> Sequence[UsageRow]:
        return [_row(chance, now - 1, users=1, deployments=deployments) for _ in range(size)]

    for first in range(0, filled, _FILLED):
        await store.add(batch(min(_FILLED, filled - first)))
    spent = []
    for _ in range(timed):
        rows = batch(_BATCH)
        began = time.process_time()
        await store.add(rows)
        spent.append((time.process_time() - began) / _BATCH * 1e6)
    name = f"CPU a row, in batches of {_BATCH} for {deployments:,} deployments"
    section.figures.append(Figure(name, "us", [mean(spent)]))
    section.notes.append(
        f"{name}: {min(spent):.1f} to {max(spent):.1f} us in {timed} batches, half of them below {median(spent):.1f}"
    )


async def _measure_crowd(path: Path, section: Section, now: int) -> None:
    """With nothing to add up: hardly two rows of a batch have a sum in common."""
    database = Database(f"sqlite+aiosqlite:///{path}")
    try:
        await database.migrate()
        await _measure_adding(
            LedgerStore(database), section, now, deployments=_CROWD, timed=_CROWD_TIMED, filled=_CROWD_FILLED
        )
    finally:
        await database.aclose()


async def _measure_reports(usage: UsageStore, section: Section, until: int, rows: int) -> None:
    asking = _caller()
    span = Span(since=until - _DAYS * DAY_MS, until=until)
    one = RowQuery(equals={"deployment": f"{1:024x}"}, limit=100)
    for name, by in (("by day", ()), ("by day, deployment and user", (Dimension.DEPLOYMENT, Dimension.USER))):
        query = ReportQuery(span=span, by=by, period=Period.DAY)
        figures, report = await _timed(f"report of {_DAYS} days {name}", partial(usage.report, asking, query))
        section.figures += figures
        section.notes.append(f"{name}: {len(report.groups):,} groups")
        if report.totals.requests != rows:
            section.wrong.append(f"the report {name} counts {report.totals.requests:,} of {rows:,} requests")
    figures, _ = await _timed("the last 100 rows of a deployment", partial(usage.rows, asking, one))
    section.figures += figures


async def _timed(name: str, ask: Callable[[], Awaitable[T]]) -> tuple[Sequence[Figure], T]:
    """Until the answer is there, and how much of that was work: the rest is other work of the machine."""
    waited, worked = [], []
    for _ in range(_ASKED):
        began, before = time.perf_counter(), time.process_time()
        answer = await ask()
        waited.append((time.perf_counter() - began) * 1000)
        worked.append((time.process_time() - before) * 1000)
    return [Figure(name, "ms", [median(waited)]), Figure("  of that CPU", "ms", [median(worked)])], answer


def _caller() -> Principal:
    return Principal(
        user_id="b" * 24,
        username="bench",
        org_id=_ORG,
        roles=(Role.VIEWER,),
        session="",
        issued_at=0,
        expires_at=0,
        home_org_id=_ORG,
        rank=Role.VIEWER.rank,
    )


def _row(chance: random.Random, at: int, *, users: int = 50, deployments: int = 4) -> UsageRow:
    """As OpenAI's answers are: half of them streams, one in fifty refused."""
    request_id = new_request_id()
    cached, reasoning = chance.randrange(0, 1024), chance.randrange(0, 200)
    prompt, completion = cached + chance.randrange(20, 3000), reasoning + chance.randrange(5, 800)
    refused = chance.random() < 0.02
    raw = (
        f'{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{prompt + completion},'
        f'"prompt_tokens_details":{{"cached_tokens":{cached},"audio_tokens":0}},'
        f'"completion_tokens_details":{{"reasoning_tokens":{reasoning},"audio_tokens":0,'
        '"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
    )
    first_byte = round(chance.lognormvariate(6.2, 0.5))
    return UsageRow(
        request_id=request_id,
        correlation_id=request_id,
        org_id=_ORG,
        user_id=f"{chance.randrange(users):024x}",
        deployment_id=f"{chance.randrange(deployments):024x}",
        model_id="d" * 24,
        provider="openai",
        provider_request_id=f"req_{chance.randbytes(16).hex()}",
        model_asked="gpt-4o",
        model_answered=None if refused else "gpt-4o-2024-08-06",
        service_tier=None if refused else "default",
        status=429 if refused else 200,
        streamed=chance.random() < 0.5,
        started_at=at,
        first_byte_ms=first_byte,
        total_ms=first_byte + round(chance.lognormvariate(7, 1)),
        end=End.COMPLETE,
        source=Source.NONE if refused else Source.PROVIDER,
        usage=Usage()
        if refused
        else Usage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached, reasoning_tokens=reasoning),
        raw_usage=None if refused else raw,
        cost=0 if refused else (prompt - cached) * 2_500_000 + cached * 1_250_000 + completion * 10_000_000,
        price=None if refused else _PRICE,
    )


def _bytes_a_row(path: Path) -> tuple[float, float]:
    """Of the file, by what it holds: rows with labels and indexes, and the sums."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        rows = connection.execute("SELECT count(*) FROM ledger").fetchone()[0]
        page = connection.execute("PRAGMA page_size").fetchone()[0]
        whole = connection.execute("PRAGMA page_count").fetchone()[0] * page
        connection.execute("BEGIN")
        connection.execute("DELETE FROM usage_sums")
        free = connection.execute("PRAGMA freelist_count").fetchone()[0] * page
        connection.rollback()
    return (whole - free) / rows, free / rows


def _plan(path: Path) -> Sequence[str]:
    """How SQLite finds a deployment's totals."""
    with sqlite3.connect(path) as connection:
        found = connection.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM deployments LEFT JOIN deployment_totals t"
            " ON t.deployment_id = deployments.id WHERE deployments.id = ?",
            ("1" * 24,),
        )
        return list(_steps(found))


def _steps(found: sqlite3.Cursor) -> Iterator[str]:
    for *_, step in found:
        yield f"GET of a deployment: {step}"
