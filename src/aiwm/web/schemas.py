"""Building blocks of request and answer bodies: strict, camelCase, and named in every error."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from aiwm.domain import times
from aiwm.domain.ids import checked_id
from aiwm.errors import Invalid

_LINE_BREAKERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def _one_line(text: str) -> str:
    if _LINE_BREAKERS.search(text):
        raise ValueError("must not contain control characters")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _printable(text: str) -> str:
    if _CONTROLS.search(text):
        raise ValueError("must not contain control characters other than line breaks and tabs")
    return text


def _id(text: str) -> str:
    try:
        return checked_id(text, "the")
    except Invalid:
        raise ValueError("must be 24 hexadecimal digits") from None


# The patterns are for the OpenAPI page: what is wrong is said by the functions, in words.
ID_PATTERN = "^[0-9a-fA-F]{24}$"
_LINE = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]"
_LINE_PATTERN = {"pattern": f"^{_LINE}*$"}
_NAME_PATTERN = {"pattern": rf"^{_LINE}*[^\s\x00-\x1f\x7f-\x9f]{_LINE}*$"}
_TEXT_PATTERN = {"pattern": r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"}

Id = Annotated[str, Field(max_length=24, json_schema_extra={"pattern": ID_PATTERN}), AfterValidator(_id)]
"""The id of another object."""
Line = Annotated[str, Field(json_schema_extra=_LINE_PATTERN), AfterValidator(_one_line)]
"""Text without line breaks and other control characters."""
Name = Annotated[
    str,
    Field(min_length=1, max_length=100, json_schema_extra=_NAME_PATTERN),
    AfterValidator(_one_line),
    AfterValidator(_not_blank),
]
Description = Annotated[str, Field(max_length=500, json_schema_extra=_TEXT_PATTERN), AfterValidator(_printable)]


class Body(BaseModel):
    """A request body: unknown fields are errors, names are camelCase."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)


class Answer(BaseModel):
    """A documented answer body; only for the OpenAPI page, answers themselves are built as dicts."""

    model_config = ConfigDict(alias_generator=to_camel)


class Deleted(Answer):
    id: str = Field(alias="_id")
    deleted_at: str


class Problem(Answer):
    """Every error of ours has this shape."""

    status_code: int
    message: str | list[str]
    error: str
    timestamp: str
    path: str
    correlation_id: str


PROBLEM = {"$ref": "#/components/schemas/Problem"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: which errors of ours it can answer.

    By the name of `Problem`: FastAPI would make a validator of the model for each status of each route, which is a
    third of the time that the control plane takes to be made.
    """
    return {status: {"content": {"application/json": {"schema": PROBLEM}}} for status in statuses}


def changes(body: Body, *, nullable: Collection[str] = ()) -> dict[str, Any]:
    """The fields that a PUT gives. Null is a value only where a thing can be without; an empty change is an error."""
    given = {name: getattr(body, name) for name in body.model_fields_set}
    aliases = {name: field.alias or name for name, field in type(body).model_fields.items()}
    if wrong := [aliases[name] for name, value in given.items() if value is None and name not in nullable]:
        raise Invalid([f"{name}: must not be null" for name in sorted(wrong)])
    if not given:
        raise Invalid(f"Nothing to change: give at least one of {', '.join(aliases.values())}")
    return given


def deleted(id_: str, deleted_at: int) -> dict[str, str]:
    return {"_id": id_, "deletedAt": times.iso(deleted_at)}


def history(thing: Any) -> dict[str, str]:
    """The fields that every object ends with."""
    return {
        "createdBy": thing.created_by,
        "updatedBy": thing.updated_by,
        "createdAt": times.iso(thing.created_at),
        "updatedAt": times.iso(thing.updated_at),
    }
