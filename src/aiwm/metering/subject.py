"""What the ledger rows of many requests have in common: who asks what of whom. It is prepared once for all of them."""

from __future__ import annotations

import msgspec

from aiwm.domain.usage import UsageRow
from aiwm.domain.users import Principal
from aiwm.targets import Target

_encode = msgspec.json.Encoder().encode


class Begun(msgspec.Struct, frozen=True, gc=False):
    """What is a request's own when it goes out."""

    request_id: str
    correlation_id: str
    started_at: int
    """Milliseconds since the epoch."""


class Subject:
    __slots__ = ("_rest", "row")

    def __init__(self, row: UsageRow) -> None:
        """`row` is as all of them begin: what is in `Begun` is to be put in its place."""
        self.row = row
        common = msgspec.to_builtins(row)
        for name in Begun.__struct_fields__:
            del common[name]
        self._rest = b"," + _encode(common)[1:]

    @classmethod
    def of(cls, target: Target, principal: Principal, asked: str | None) -> Subject:
        """`asked` is the model."""
        return cls(
            UsageRow(
                request_id="",
                correlation_id="",
                org_id=target.org_id,
                user_id=principal.user_id,
                api_key_id=principal.api_key_id,
                deployment_id=target.deployment_id,
                model_id=target.model_id,
                provider=target.provider.name,
                model_asked=asked and asked.replace("\0", "")[:200],  # PostgreSQL's text has no NUL.
                started_at=0,
            )
        )

    def opening(self, begun: Begun) -> bytes:
        """The row of a request that is about to go out, as JSON."""
        return _encode(begun)[:-1] + self._rest
