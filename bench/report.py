"""The figures, for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import median
from typing import Any

from bench.figures import Figure, Section, Target

_NAME, _VALUE, _RATIO = 46, 24, 19


def heading(facts: Mapping[str, Any], peers: Sequence[str] = ()) -> str:
    lines = [f"{name:<12} {value}" for name, value in facts.items()]
    columns = f"  {'median (least to most of the rounds)':<{_NAME}}"
    columns += "".join(f"  {name:>{_VALUE}}" for name in ("nginx", "AIWM")) + f"  {'ratio':>{_RATIO}}"
    columns += "".join(f"  {name:>{_VALUE}}  {'ratio':>{_RATIO}}" for name in peers)
    return "\n".join([*lines, "", columns])


def text(section: Section, peers: Sequence[str] = ()) -> str:
    lines = ["", section.title, *(_row(figure, peers) for figure in section.figures)]
    return "\n".join([*lines, *(f"  {note}" for note in section.notes), *(f"  WRONG: {it}" for it in section.wrong)])


def markdown(facts: Mapping[str, Any], sections: Mapping[str, Section], peers: Sequence[str] = ()) -> str:
    """One table for a document."""
    lines = [f"* {name}: {value}" for name, value in facts.items()]
    columns = ["", "nginx", "AIWM", "ratio", *chain.from_iterable((name, "ratio") for name in peers), "target"]
    table = ["", f"| {' | '.join(columns)} |", "|---" + "|--:" * (len(columns) - 2) + "|---|"]
    notes = []
    for section in sections.values():
        table.append(f"| **{section.title}** |" + " |" * (len(columns) - 1))
        table += [f"| {' | '.join(_cells(figure, peers))} | {verdict(figure)} |" for figure in section.figures]
        name = section.title.partition(":")[0]
        notes += [f"* {name}: {note}" for note in section.notes]
        notes += [f"* {name}: WRONG: {wrong}" for wrong in section.wrong]
    return "\n".join([*lines, *table, "", *notes])


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


def verdict(figure: Figure) -> str:
    """Empty if nothing is aimed at."""
    target, value = figure.target, figure.judged
    if target is None or value is None:
        return ""
    unit = f" {figure.unit}" if target.absolute else "x"
    reached, aimed = target.met(value)
    return (
        f"reach {target.reach:g}{unit}: {'ok' if reached else 'missed'}, "
        f"aim {target.aim:g}{unit}: {'ok' if aimed else 'missed'}"
    )


def _row(figure: Figure, peers: Sequence[str]) -> str:
    name, *cells = _cells(figure, peers)
    if figure.series:
        return f"  {name:<{_NAME}}  {cells[1]}"
    widths = [_VALUE, *(_VALUE, _RATIO) * (1 + len(peers))]
    row = f"  {name:<{_NAME}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    judged = verdict(figure)
    return f"{row}   {judged}" if judged else row.rstrip()


def _cells(figure: Figure, peers: Sequence[str]) -> list[str]:
    name = f"{figure.name}, {figure.unit}" if figure.unit else figure.name
    if figure.series:
        return [name, "", ", ".join(map(_short, figure.aiwm)), *[""] * (1 + 2 * len(peers))]
    cells = [name, _spread(figure.nginx)]
    for values in (figure.aiwm, *(figure.peers.get(peer, []) for peer in peers)):
        # A ratio of two growths says nothing.
        cells += [_spread(values), "" if figure.unit == "%" else _spread(figure.ratios_of(values), decimals=2)]
    return cells


def _spread(values: Sequence[float], decimals: int | None = None) -> str:
    if not values:
        return ""
    middle, least, most = (_short(value, decimals) for value in (median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({least} to {most})"


def _short(value: float, decimals: int | None = None) -> str:
    if decimals is None:
        decimals = 0 if abs(value) >= 1000 or value == int(value) else 1
    return f"{value:,.{decimals}f}"


def _figure(figure: Figure) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": figure.name, "unit": figure.unit, "aiwm": figure.aiwm}
    if figure.nginx:
        shown |= {"nginx": figure.nginx, "ratios": figure.ratios}
        if figure.ratios:
            shown["ratio"] = median(figure.ratios)
    if figure.peers:
        shown["peers"] = {
            name: {"values": values, "ratios": figure.ratios_of(values)} for name, values in figure.peers.items()
        }
    return shown | _judged(figure.target, figure.judged)


def _judged(target: Target | None, value: float | None) -> dict[str, Any]:
    if target is None or value is None:
        return {}
    reached, aimed = target.met(value)
    return {"target": {"reach": target.reach, "aim": target.aim, "value": value, "reached": reached, "aimed": aimed}}
