"""How the numbers of a ledger row came about: which fields of the provider's usage object, and which estimates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from aiwm.domain.usage import UsageRow
from aiwm.metering.estimate import CHARS_PER_TOKEN
from aiwm.providers import registry
from aiwm.providers.base import Step

_ESTIMATES = {"input_tokens": "inputChars", "output_tokens": "outputChars"}


@dataclass(frozen=True, slots=True)
class Part:
    """What a number is the sum of."""

    said: str
    """Where it stands in the provider's usage object, or what it was estimated from."""
    number: int


def derivation(row: UsageRow) -> Mapping[str, Sequence[Part]]:
    """By name of a count in `Usage`; empty when the provider told nothing."""
    raw = _object(row.raw_usage)
    parts: defaultdict[str, list[Part]] = defaultdict(list)
    for kind in registry.provider(row.provider).usage.counts:
        if kind.fit(raw):
            for name, said, number in _read(raw, kind.steps, ""):
                parts[name].append(Part(said, number))
            counted = sum(part.number for name in ("input_tokens", "output_tokens") for part in parts.get(name, ()))
            if left_out := kind.left_out(raw, counted):
                rest = Part(f"{kind.total}, what the others leave out", left_out)
                parts["output_tokens"].append(rest)
                parts.setdefault("reasoning_tokens", [rest])
            break
    estimated = raw.get("estimated")
    for count, chars in _ESTIMATES.items():
        seen = estimated.get(chars) if isinstance(estimated, dict) else None
        if isinstance(seen, int):
            parts[count].append(Part(f"{seen} characters, {CHARS_PER_TOKEN} to a token", -(-seen // CHARS_PER_TOKEN)))
    return parts


def _object(text: str | None) -> Mapping[str, Any]:
    found = orjson.loads(text or "{}")
    return found if isinstance(found, dict) else {}


def _read(usage: Mapping[str, Any], steps: Mapping[str, Step], above: str) -> Iterator[tuple[str, str, int]]:
    """(name of the count, where it stands, number) of all that is counted."""
    for key, value in usage.items():
        step = steps.get(key)
        if step is None:
            continue
        said = f"{above}{key}"
        if isinstance(value, bool):
            continue
        if isinstance(value, int):
            yield from ((name, said, value) for name in step.names)
        elif isinstance(value, dict):
            yield from _read(value, step.keys, f"{said}.")
        elif isinstance(value, list):
            for where, inner in step.chosen.items():
                for each in value:
                    if isinstance(each, dict) and each.get(where.key) == where.value:
                        yield from _read(each, inner, f"{said}[{where.key}={where.value}].")
