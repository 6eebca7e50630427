"""`aiwm reprice`: the costs of the ledger's rows by the prices of today, and what that changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import astuple
from decimal import Decimal

from rich.console import Console
from rich.table import Table

from aiwm import logs
from aiwm.app import repriced
from aiwm.control.repricing import Difference
from aiwm.domain import times
from aiwm.domain.prices import plain
from aiwm.errors import StartError
from aiwm.metering.price_list import LIST
from aiwm.settings import Settings


def run(*, since: str | None, until: str | None, model: str | None, dry_run: bool) -> None:
    settings = Settings.from_env(os.environ)
    logs.configure(level=settings.log_level, as_json=settings.log_format == "json")
    begin, end = _time("since", since), _time("until", until)
    _show(asyncio.run(repriced(settings, since=begin, until=end, model=model, dry_run=dry_run)), dry_run=dry_run)


def _time(option: str, text: str | None) -> int | None:
    found = None if text is None else times.parsed(text)
    if text is not None and found is None:
        raise StartError(f"--{option}: give a day (2026-01-31, which begins at midnight UTC) or a time with its zone")
    return found


def _show(found: Mapping[str, Difference], *, dry_run: bool) -> None:
    everything = Difference(*map(sum, zip(*map(astuple, found.values()), strict=True)))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Model")
    for column in ("Rows", "Changed", "USD before", "USD after", "Unknown before", "Unknown after"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, each in (*sorted(found.items()), ("All", everything)):
        costs = (plain(Decimal(cost).scaleb(-12)) for cost in (each.cost_before, each.cost_after))
        unknown = str(each.unpriced_before), str(each.unpriced_after)
        table.add_row(name or "(not told)", str(each.rows), str(each.changed), *costs, *unknown)
    console = Console()
    console.print(table, markup=False)
    done = "would change" if dry_run else "changed"
    console.print(f"{everything.changed} of {everything.rows} rows {done}. Price list: {LIST}.", markup=False)
