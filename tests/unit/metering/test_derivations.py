"""metering/derivations.py: the parts of every number of a row add up to it, and say where they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from aiwm.domain.usage import Source, Usage
from aiwm.metering.derivations import Part, derivation
from aiwm.metering.estimate import estimated
from aiwm.metering.reading import Reading
from aiwm.providers import registry
from rows import closing

RECORDED = Path(__file__).parents[2] / "recorded"
ANSWERS = sorted(path for path in RECORDED.glob("*/*.json") if not path.name.endswith(".truth.json"))


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_parts_of_every_number_of_a_recorded_answer_add_up_to_it(path: Path) -> None:
    provider = path.parent.name
    reading = Reading(registry.provider(provider).usage)
    reading.document(path.read_bytes())
    row = replace(closing(1), provider=provider, usage=reading.usage, raw_usage=reading.raw)
    parts = derivation(row)
    for name in Usage.__struct_fields__:
        assert sum(part.number for part in parts.get(name, ())) == getattr(row.usage, name), name


def test_a_part_says_where_it_stands() -> None:
    raw = {"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}
    parts = derivation(replace(closing(1), raw_usage=json.dumps(raw)))
    assert parts["input_tokens"] == [Part("prompt_tokens", 11)]
    assert parts["cache_read_tokens"] == [Part("prompt_tokens_details.cached_tokens", 4)]


def test_an_estimate_says_what_it_was_made_of() -> None:
    reading = Reading(registry.provider("openai").usage)
    made = estimated(reading, 41, b'{"messages":[{"content":"12345678"}]}')
    assert made is not None
    usage, raw = made
    parts = derivation(replace(closing(1), source=Source.ESTIMATED, usage=usage, raw_usage=raw))
    assert parts["output_tokens"] == [Part("41 characters, 4 to a token", 11)]
    assert sum(part.number for part in parts["input_tokens"]) == usage.input_tokens


@pytest.mark.parametrize("raw", [None, "{}", "[]", '{"unknown":3}'])
def test_what_was_not_told_has_no_parts(raw: str | None) -> None:
    assert derivation(replace(closing(1), raw_usage=raw)) == {}
