"""web/refusals.py: what is wrong with a request is said by field."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from aiwm.web.refusals import validation_texts


class _Cat(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind_of: Literal["cat"] = Field(alias="kindOf")
    name: str
    lives: dict[str, int] = {}


class _Dog(BaseModel):
    kind_of: Literal["dog"] = Field(alias="kindOf")


_PETS: TypeAdapter[_Cat | _Dog] = TypeAdapter(Annotated[_Cat | _Dog, Field(discriminator="kind_of")])


def _texts(given: object) -> list[str]:
    try:
        _PETS.validate_python(given)
    except ValidationError as error:
        # As FastAPI hands it on.
        found = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        return validation_texts(found, body=given)
    return []


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ({"kindOf": "cat", "name": "Minka"}, []),
        ({"kindOf": "cat"}, ["name: is required"]),
        ({"kindOf": "cat", "name": 5, "x": 1},
         ["name: Input should be a valid string", "x: is not a field of this request"]),
        ({"kindOf": "cat", "name": "", "lives": {"first": "no"}},
         ["lives.first: Input should be a valid integer, unable to parse string as an integer"]),
        ({"kindOf": "cat", "name": "", "cat": 1}, ["cat: is not a field of this request"]),
        ({"name": "Minka"}, ["kindOf: is required"]),
        ({"kindOf": "cow-or-a-secret"}, ["kindOf: must be one of 'cat', 'dog'"]),
        ({"kindOf": None}, ["kindOf: must be one of 'cat', 'dog'"]),
        ([], ["body: must be a JSON object"]),
        (5, ["body: must be a JSON object"]),
        ({"kindOf": "cat", "name": "", "n" * 5000: 1}, ["n" * 100 + ": is not a field of this request"]),
    ],
)  # fmt: skip
def test_the_field_is_named_as_the_caller_wrote_it_and_its_value_is_not_quoted(given: object, texts: list[str]) -> None:
    assert _texts(given) == texts
