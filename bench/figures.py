"""What a measure gives: numbers of nginx, AIWM and others, one for each round, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True, slots=True)
class Target:
    """What must be reached, and what is aimed at."""

    reach: float
    aim: float
    absolute: bool = False
    """Of AIWM's own figure; else of its ratio to nginx's."""
    at_least: bool = False

    def met(self, value: float) -> tuple[bool, bool]:
        """Whether `reach` is, and `aim`."""
        if self.at_least:
            return value >= self.reach, value >= self.aim
        return value <= self.reach, value <= self.aim


@dataclass(slots=True)
class Figure:
    """One number of all that are measured. `nginx` is empty where there is nothing to compare with."""

    name: str
    unit: str
    aiwm: list[float] = field(default_factory=list)
    nginx: list[float] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)
    target: Target | None = None
    series: bool = False
    """Its numbers are no rounds: they come one after another, and each is shown."""

    def put(self, subject: str, value: float) -> None:
        """The number of one more round."""
        match subject:
            case "nginx":
                self.nginx.append(value)
            case "AIWM":
                self.aiwm.append(value)
            case _:
                self.peers.setdefault(subject, []).append(value)

    @property
    def ratios(self) -> list[float]:
        """Of rounds that ran one right after the other: what else the machine does meets both."""
        return self.ratios_of(self.aiwm)

    def ratios_of(self, values: Sequence[float]) -> list[float]:
        return [value / nginx for value, nginx in zip(values, self.nginx, strict=False) if nginx]

    @property
    def judged(self) -> float | None:
        """The number that the target is about; None if there is no target, or nothing to hold against it."""
        if self.target is None:
            return None
        values = self.aiwm if self.target.absolute else self.ratios
        return median(values) if values else None


@dataclass(slots=True)
class Section:
    title: str
    figures: list[Figure]
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What must not happen under any load: answers lost, counts that are not exact."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The least of the values that `percent` of them do not exceed."""
    if not values:
        raise ValueError("there is no percentile of nothing")
    ordered = sorted(values)
    # Rounded first: 99.9 % of 1,000 is 999, and not a little more as binary fractions have it.
    return ordered[max(0, math.ceil(round(len(ordered) * percent / 100, 6)) - 1)]


def growth(before: float, after: float) -> float:
    """In percent."""
    return (after / before - 1) * 100


def added(through: Mapping[str, Sequence[float]], direct: Sequence[float], percent: float) -> dict[str, float]:
    """What each one adds to a percentile of the times without it."""
    without = percentile(direct, percent)
    return {name: percentile(times, percent) - without for name, times in through.items()}
