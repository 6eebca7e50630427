"""Sealing all stored secrets anew, after a new encryption key."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiwm.domain.audit import EncryptionKey, entry, operator
from aiwm.domain.ids import new_id
from aiwm.domain.models import Sealed
from aiwm.domain.times import Clock
from aiwm.errors import AiwmError
from aiwm.identity.secrets import SecretBox
from aiwm.store.audit import AuditStore
from aiwm.store.models import ModelStore


@dataclass(slots=True)
class Resealed:
    secrets: int = 0
    """How many were sealed anew."""
    lost: set[str] = field(default_factory=set)
    """Models with a secret that none of the keys opens; it is left as it is."""


async def reseal(models: ModelStore, audit: AuditStore, box: SecretBox, *, clock: Clock) -> Resealed:
    """In batches, beside programs that run. What somebody writes back meanwhile is found by looking again."""
    done = Resealed()

    def anew(model_id: str, sealed: Sealed) -> Sealed:
        try:
            fresh = box.anew(sealed)
        except AiwmError:
            done.lost.add(model_id)
            return sealed
        done.secrets += fresh is not sealed
        return fresh

    before = -1
    while done.secrets != before:
        before = done.secrets
        last: str | None = ""
        while last is not None:
            last = await models.reseal(anew, after=last)
    key = EncryptionKey(id=new_id(), secrets=done.secrets, lost=len(done.lost))
    await audit.add(entry(operator(), "rotate", after=key, at=clock()))
    return done
