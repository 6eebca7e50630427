"""`aiwm usage`: what was used and what it cost, of all organizations, straight from the database."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aiwm.domain import times
from aiwm.domain.latencies import percentile
from aiwm.domain.reports import DAY_MS, HOUR_MS, Dimension, Group, Period, Report, ReportQuery, Span, Sums
from aiwm.errors import Invalid, StartError, Unavailable
from aiwm.settings import Settings
from aiwm.store.database import Database
from aiwm.store.deployments import DeploymentStore
from aiwm.store.usage import UsageStore

_AGO = re.compile(r"([0-9]{1,5})([hdw])")
_UNITS = {"h": HOUR_MS, "d": DAY_MS, "w": 7 * DAY_MS}
_NUMBERS = ("Requests", "Errors", "Input", "Cached", "Output", "USD", "p50 ms", "p95 ms", "First byte")


def show(*, by: str, since: str, until: str | None) -> None:
    settings = Settings.from_env(os.environ)
    now = times.now()
    span = Span(since=_time("--since", since, now), until=now if until is None else _time("--until", until, now))
    if span.since >= span.until:
        raise StartError("--since must be before --until")
    dimensions, period = _groups(by)
    query = ReportQuery(span=span, by=dimensions, period=period)
    report, names = asyncio.run(_read(settings, query))
    console = Console()
    console.print(_table(report, names))
    console.print(f"From {times.iso(report.span.since)} to {times.iso(report.span.until)}.", markup=False)


async def _read(settings: Settings, query: ReportQuery) -> tuple[Report, Mapping[str, str]]:
    """The report, and the names of deployments that are still there."""
    database = Database(settings.effective_database_url, must_exist=True)
    try:
        await database.ping()
        report = await UsageStore(database).report(None, query)
        return report, {each.id: each.name for each in await DeploymentStore(database).all()}
    except Invalid as error:
        raise StartError(str(error)) from error
    except Unavailable as error:
        raise StartError(f"the database can't be read: {error}") from error
    finally:
        await database.aclose()


def _time(option: str, text: str, now: int) -> int:
    if match := _AGO.fullmatch(text):
        return max(0, now - int(match[1]) * _UNITS[match[2]])
    found = times.parsed(text)
    if found is None:
        raise StartError(f"{option}: give how long ago (12h, 7d, 4w), a day (2026-01-31) or a time with its zone")
    return found


def _groups(by: str) -> tuple[Sequence[Dimension], Period | None]:
    names = [name for name in by.split(",") if name]
    if unknown := [name for name in names if name not in {*Dimension, *Period}]:
        raise StartError(f"--by: {', '.join(unknown)} is not among {', '.join([*Dimension, *Period])}")
    if len(periods := [period for period in Period if period in names]) > 1:
        raise StartError("--by: day and hour exclude each other")
    return [each for each in Dimension if each in names], periods[0] if periods else None


def _table(report: Report, names: Mapping[str, str]) -> Table:
    query = report.query
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True, footer_style="bold")
    titles = [str(each) for each in (*query.by, query.period) if each is not None]
    for number, title in enumerate(titles):
        table.add_column(title[0].upper() + title[1:], "All" if number == 0 else "", overflow="fold")
    for title, footer in zip(_NUMBERS, _numbers(report.totals), strict=True):
        table.add_column(title, footer, justify="right", no_wrap=True)
    for group in report.ordered if titles else []:
        table.add_row(*(Text(cell) for cell in (*_of(group, query.period, names), *_numbers(group.sums))))
    return table


def _of(group: Group, period: Period | None, names: Mapping[str, str]) -> Sequence[str]:
    values = [names.get(value or "", value or "-") for value in group.of.values()]
    if period is None or group.start is None:
        return values
    start = times.iso(group.start)
    return [*values, start[:10] if period is Period.DAY else start[:16].replace("T", " ")]


def _numbers(sums: Sums) -> Sequence[str]:
    usage = sums.usage
    counts = (sums.requests, sums.errors, usage.input_tokens, usage.cache_read_tokens, usage.output_tokens)
    latencies = (percentile(sums.total, 0.5), percentile(sums.total, 0.95), percentile(sums.first_byte, 0.5))
    return [
        *(f"{count:,}" for count in counts),
        _cost(sums),
        *("-" if ms is None else f"{ms:,.0f}" for ms in latencies),
    ]


def _cost(sums: Sums) -> str:
    """What is not known is said, never left out."""
    if sums.known_cost is None:
        return "unknown"
    known = f"{sums.known_cost:,.4f}"
    return f"{known} + {sums.unpriced:,} unknown" if sums.unpriced else known
