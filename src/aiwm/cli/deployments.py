"""`aiwm deployments`: what runs, and what engines say."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from aiwm.cli.operator import Operator, Refused
from aiwm.settings import Settings


def show() -> None:
    table = Table("id", "name", "status", "requests", "tokens", "what is wrong")
    with Operator(Settings.from_env(os.environ)) as operator:
        for each in _all(operator):
            counts = (str(each["requestCount"]), str(each["totalTokens"]))
            table.add_row(each["_id"], each["name"], each["status"], *counts, each.get("errorMessage", ""))
    Console().print(table)


def logs(deployment: str, *, follow: bool, lines: int) -> int:
    """The exit code. `deployment` is its id, or its name if only one has it."""
    try:
        with Operator(Settings.from_env(os.environ)) as operator:
            path = f"/deployments/{_id(operator, deployment)}/logs?lines={lines}&follow={str(follow).lower()}"
            with operator.reading(path) as pieces:
                for piece in pieces:
                    sys.stdout.write(piece)
                    sys.stdout.flush()
    except Refused as error:
        print(f"aiwm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _id(operator: Operator, deployment: str) -> str:
    found = [each["_id"] for each in _all(operator) if deployment in {each["_id"], each["name"]}]
    if len(found) != 1:
        raise Refused(f'{len(found) or "No"} deployments are called "{deployment}"; `aiwm deployments` shows their ids')
    return str(found[0])


def _all(operator: Operator) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = operator.get("/deployments", limit=100, page=len(found) // 100 + 1)
        found += page["data"]
        if len(found) >= page["pagination"]["total"] or not page["data"]:
            return found
