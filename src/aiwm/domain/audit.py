"""The audit log: who changed what, and what it was before and after. No secret is ever in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from aiwm.domain.api_keys import ApiKey
from aiwm.domain.deployments import Deployment
from aiwm.domain.ids import new_id
from aiwm.domain.limits import Limit
from aiwm.domain.models import MASK, Model, Sealed
from aiwm.domain.nodes import Resource
from aiwm.domain.users import Organization, Principal, Role, User


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionKey:
    """The key that secrets are sealed with, after another one has taken its place."""

    id: str
    org_id: str = ""
    """None: it is the installation's."""
    name: str = "encryption key"
    secrets: int
    """How many were sealed anew."""
    lost: int
    """In how many models there is one that none of the keys opens."""


Thing = Model | Deployment | Organization | User | ApiKey | Resource | Limit | EncryptionKey

_TYPES: dict[type[Thing], str] = {
    Model: "model",
    Deployment: "deployment",
    Organization: "organization",
    User: "user",
    ApiKey: "apiKey",
    Resource: "resource",
    Limit: "limit",
    EncryptionKey: "encryptionKey",
}
_LEFT_OUT = frozenset(
    {
        "id",
        "org_id",
        "user_id",
        "created_by",
        "updated_by",
        "created_at",
        "updated_at",
        "totals",
        "last_used_at",
        "download",
    }
)
"""What the entry says anyway, and what changes by itself."""
_SECRET = {"password_hash": "password", "digest": "secret"}
"""Fields of which only is told that they changed, and what they are called then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One change of one thing."""

    id: str
    org_id: str
    """The organization whose thing it is: its owners may read the entry. Empty for the installation's own."""
    user_id: str
    username: str
    user_org_id: str
    """Who did it, and where that user belongs: differs from `org_id` for an operator acting elsewhere."""
    action: str
    """`model.create`, `deployment.stop`, ..."""
    object_type: str
    object_id: str
    object_name: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    """Only what differs; None where there was, or is, nothing."""
    correlation_id: str
    created_at: int

    def also(self, verb: str, kind: type[Thing], object_id: str, name: str, *, org_id: str) -> AuditEntry:
        """What the same request has done to another thing on the way."""
        return replace(
            self,
            id=new_id(),
            org_id=org_id,
            action=f"{_TYPES[kind]}.{verb}",
            object_type=_TYPES[kind],
            object_id=object_id,
            object_name=name,
            before=None,
            after=None,
        )


OPERATOR = "operator"
"""Who works on the machine itself: starts the program, runs its commands."""


def operator(org_id: str = "") -> Principal:
    """The operator, for what is done without a login."""
    role = Role.UNIVERSE_OWNER
    return Principal(
        user_id=OPERATOR,
        username=OPERATOR,
        org_id=org_id,
        roles=(role,),
        session="",
        issued_at=0,
        expires_at=0,
        home_org_id=org_id,
        rank=role.rank,
        correlation_id=new_id(),
    )


def entry(
    principal: Principal, verb: str, *, before: Thing | None = None, after: Thing | None = None, at: int
) -> AuditEntry:
    """At least one of `before` and `after` is given."""
    thing = after or before
    assert thing is not None  # noqa: S101 - narrows the type
    kind = _TYPES[type(thing)]
    told_before, told_after = _told(before), _told(after)
    if before is not None and after is not None:
        same = {_name(each.name) for each in fields(after) if getattr(before, each.name) == getattr(after, each.name)}
        told_before = {name: value for name, value in told_before.items() if name not in same}
        told_after = {name: value for name, value in told_after.items() if name not in same}
    return AuditEntry(
        id=new_id(),
        org_id=thing.id if isinstance(thing, Organization) else thing.org_id,
        user_id=principal.user_id,
        username=principal.username,
        user_org_id=principal.home_org_id,
        action=f"{kind}.{verb}",
        object_type=kind,
        object_id=thing.id,
        object_name=thing.username if isinstance(thing, User) else thing.name,
        before=None if before is None else told_before,
        after=None if after is None else told_after,
        correlation_id=principal.correlation_id,
        created_at=at,
    )


def _told(thing: Thing | None) -> dict[str, Any]:
    """Its fields by the names that callers know, as far as they may be told."""
    if thing is None:
        return {}
    told = {field.name: getattr(thing, field.name) for field in fields(thing) if field.name not in _LEFT_OUT}
    return {
        _name(name): MASK if name in _SECRET else _plain(value) for name, value in told.items() if value is not None
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Sealed):
        return value.masked
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {_name(field.name): _plain(getattr(value, field.name)) for field in fields(value)}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _name(field: str) -> str:
    first, *rest = _SECRET.get(field, field).split("_")
    return first + "".join(word.capitalize() for word in rest)
