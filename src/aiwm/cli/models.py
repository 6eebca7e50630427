"""`aiwm models`: the models of the AIWM that runs here, and how far their files have come."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aiwm.cli.operator import Operator
from aiwm.settings import Settings

COMING = ("queued", "downloading", "downloaded")
_STEP_SECONDS = 0.5


def show(*, follow: bool) -> None:
    console = Console()
    with Operator(Settings.from_env(os.environ)) as operator:
        models = operator.all("/models")
        if not follow:
            console.print(_table(models))
            return
        with Live(_table(models), console=console, auto_refresh=False) as live:
            while any(model["status"] in COMING for model in models):
                time.sleep(_STEP_SECONDS)
                models = operator.all("/models")
                live.update(_table(models), refresh=True)


def _table(models: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("Name", "From", "Status", "Files", box=None, pad_edge=False, header_style="bold")
    for model in models:
        whence = model.get("repository") or model["provider"]
        # As text: what stands in brackets would be taken for a style.
        table.add_row(Text(model["name"]), Text(whence), model["status"], _files(model))
    return table


def _files(model: Mapping[str, Any]) -> RenderableType:
    if reason := model.get("errorMessage"):
        return Text(reason)
    download = model.get("download")
    if model["status"] in COMING and download:
        return ProgressBar(download["bytesTotal"] or 1, download["bytesDone"], width=30)
    size = model.get("fileSize")
    return "" if size is None else readable(size)


def readable(size: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
