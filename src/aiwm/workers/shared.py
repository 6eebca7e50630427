"""What is taken of limits, counted in the parent for all workers.

The parent has the numbers (`words`), a worker asks for them (`SharedCounts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from aiwm.domain.costs import Picodollars
from aiwm.domain.limits import Limit, Standing
from aiwm.errors import Unavailable
from aiwm.metering.counts import Counts, Refusal, Spending
from aiwm.workers.line import Gone, Hear, Line

_MOST: Final = 2**62
"""More than any budget, and as much as goes over the line."""


def words(me: int, counts: Counts) -> Hear:
    """What the worker `me` may ask of the parent's numbers."""
    return {
        "take": lambda *asked: counts.take(me, *asked),
        "leave": counts.leave,
        "put-limit": lambda limit: counts.put(msgspec.convert(limit, Limit)),
        "remove-limit": counts.remove,
        "keep-limits": counts.keep,
        "spent": counts.spent,
        "saved": counts.saved,
        "standing": lambda limit_id: _sendable(counts.standing(limit_id)),
    }


class SharedCounts:
    """`Counting` by the parent. Words arrive in their order: what is told before a turn ends is counted before it."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def take(
        self, limit_ids: Sequence[str], request_id: str, likely_tokens: int, most: Picodollars
    ) -> Refusal | None:
        said = await _asked(self._line, "take", limit_ids, request_id, min(likely_tokens, _MOST), min(most, _MOST))
        return None if said is None else Refusal(*said)

    def leave(self, request_id: str, tokens: int | None, cost: Picodollars | None) -> None:
        self._line.tell(
            "leave",
            request_id,
            None if tokens is None else min(tokens, _MOST),
            None if cost is None else min(cost, _MOST),
        )

    def put(self, limit: Limit) -> None:
        self._line.tell("put-limit", limit)

    def remove(self, limit_id: str) -> None:
        self._line.tell("remove-limit", limit_id)

    def keep(self, limit_ids: Sequence[str]) -> None:
        self._line.tell("keep-limits", limit_ids)

    def spent(self, limit_id: str, begin: int, amount: Picodollars) -> None:
        self._line.tell("spent", limit_id, begin, min(amount, _MOST))

    def saved(self, rows: Sequence[Spending]) -> None:
        self._line.tell(
            "saved",
            [(id_, began, None if cost is None else min(cost, _MOST), limits) for id_, began, cost, limits in rows],
        )

    async def standing(self, limit_id: str) -> Standing:
        return msgspec.convert(await _asked(self._line, "standing", limit_id), Standing)


async def _asked(line: Line, name: str, *values: Any) -> Any:
    try:
        return await line.ask(name, *values)
    except Gone:
        raise Unavailable("AIWM is stopping; send the request again") from None


def _sendable(standing: Standing) -> Standing:
    return Standing(
        requests=standing.requests,
        tokens=min(standing.tokens, _MOST),
        concurrent=standing.concurrent,
        spent=min(standing.spent, _MOST),
        reserved=min(standing.reserved, _MOST),
    )
