"""Numbers of several processes, added up: a tally is a dict of numbers, lists of numbers and tallies."""

from __future__ import annotations

from typing import Any

Tally = dict[str, Any]


def added(one: Tally, other: Tally) -> Tally:
    """What only one of them has is taken as it is."""
    both = {name: _added(one[name], other[name]) for name in one.keys() & other.keys()}
    return {**one, **other, **both}


def _added(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return added(one, other)
    if isinstance(one, list):
        return [mine + theirs for mine, theirs in zip(one, other, strict=True)]
    return one + other
