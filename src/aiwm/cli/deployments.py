"""`aiwm deployments`: what runs, and what engines say."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aiwm.cli.operator import Operator, Refused
from aiwm.settings import Settings


def show() -> None:
    table = Table("id", "name", "status", "requests", "tokens", "what is wrong")
    with Operator(Settings.from_env(os.environ)) as operator:
        for each in operator.all("/deployments"):
            counts = (str(each["requestCount"]), str(each["totalTokens"]))
            # As text: what stands in brackets would be taken for a style.
            wrong = Text(each.get("errorMessage") or "")
            table.add_row(each["_id"], Text(each["name"]), each["status"], *counts, wrong)
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
    found = [each["_id"] for each in operator.all("/deployments") if deployment in {each["_id"], each["name"]}]
    if len(found) != 1:
        raise Refused(f'{len(found) or "No"} deployments are called "{deployment}"; `aiwm deployments` shows their ids')
    return str(found[0])
