"""The figures, for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench.measures import Figure, Section

_NAME, _VALUE, _RATIO = 42, 27, 23


def heading(facts: Mapping[str, Any]) -> str:
    lines = [f"{name:<10} {value}" for name, value in facts.items()]
    columns = (
        f"  {'median (least to most of the rounds)':<{_NAME}}{'nginx':>{_VALUE}}{'AIWM':>{_VALUE}}{'ratio':>{_RATIO}}"
    )
    return "\n".join([*lines, "", columns])


def text(section: Section) -> str:
    lines = ["", section.title, *(_row(figure) for figure in section.figures)]
    return "\n".join([*lines, *(f"  {note}" for note in section.notes), *(f"  WRONG: {it}" for it in section.wrong)])


def data(facts: Mapping[str, Any], sections: Mapping[str, Section]) -> dict[str, Any]:
    return {
        "facts": dict(facts),
        "measures": {
            name: {
                "title": section.title,
                "figures": [_figure(figure) for figure in section.figures],
                "notes": section.notes,
                "wrong": section.wrong,
            }
            for name, section in sections.items()
        },
    }


def _row(figure: Figure) -> str:
    name = f"{figure.name}, {figure.unit}" if figure.unit else figure.name
    if not figure.nginx:
        return f"  {name:<{_NAME}}{'':>{_VALUE}}{', '.join(_short(value) for value in figure.aiwm):>{_VALUE}}"
    row = f"  {name:<{_NAME}}{_spread(figure.nginx):>{_VALUE}}{_spread(figure.aiwm):>{_VALUE}}"
    row += f"{_spread(figure.ratios, decimals=2):>{_RATIO}}"
    if figure.met is not None:
        row += f"   target {figure.target}x: {'met' if figure.met else 'missed'}"
    return row


def _spread(values: Sequence[float], decimals: int | None = None) -> str:
    middle, least, most = (_short(value, decimals) for value in (median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({least} to {most})"


def _short(value: float, decimals: int | None = None) -> str:
    if decimals is None:
        decimals = 0 if value >= 1000 or value == int(value) else 1
    return f"{value:,.{decimals}f}"


def _figure(figure: Figure) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": figure.name, "unit": figure.unit, "aiwm": figure.aiwm}
    if figure.nginx:
        shown |= {"nginx": figure.nginx, "ratios": figure.ratios, "ratio": median(figure.ratios)}
    return shown if figure.met is None else shown | {"target": figure.target, "met": figure.met}
