"""`aiwm settings`: the table of settings, made from the source of `aiwm.settings`."""

from __future__ import annotations

from aiwm.settings import table


def show(*, markdown: bool) -> None:
    if markdown:
        print(as_markdown(), end="")
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table("Variable", "Default", "What it is for", box=None, pad_edge=False, header_style="bold")
    for variable, default, manual in table():
        shown.add_row(variable, default, manual)
    Console().print(shown, markup=False)


def as_markdown() -> str:
    """docs/settings.md, which a test compares with this."""
    rows = [
        f"| `{variable}` | {f'`{default}`' if default else ''} | {manual} |" for variable, default, manual in table()
    ]
    return "\n".join(
        [
            "# Settings",
            "",
            "All settings are environment variables. An unknown `AIWM_*` name is an error at start, so a mistyped one",
            "is not silently ignored. This page is made by `aiwm settings --markdown`.",
            "",
            "| Variable | Default | What it is for |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )
