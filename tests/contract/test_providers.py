"""Every provider of the registry through the same list: what a provider's file must have, and what it must not do."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from aiwm.providers import registry
from aiwm.providers.base import Provider

ROOT = Path(__file__).parents[2]
PROVIDERS = list(registry.PROVIDERS.values())
OWN = {module.PROVIDER.name for module in registry.OWN_FILE}
NAMED_ELSEWHERE = {"cli/demo.py", "cli/run.py"}
"""What the demo makes is named for the dialects that it shows. Engines, which run models here, share their names with
providers, which may run them elsewhere."""


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda each: each.name)
class TestEveryProvider:
    def test_is_found_by_its_name(self, provider: Provider) -> None:
        assert registry.provider(provider.name) is provider

    def test_cannot_be_changed(self, provider: Provider) -> None:
        with pytest.raises(FrozenInstanceError):
            provider.name = "another"  # type: ignore[misc]

    def test_says_where_its_key_goes_and_how_its_tokens_are_counted(self, provider: Provider) -> None:
        assert provider.key_header == provider.key_header.lower()
        assert provider.usage.counts
        for kind in provider.usage.counts:
            assert kind.input_tokens
            assert kind.output_tokens
        assert all(marker.startswith(b'"') and marker.endswith(b'"') for marker in provider.usage.markers)

    def test_takes_its_model_in_the_body_or_in_the_path(self, provider: Provider) -> None:
        assert provider.model_in_body or provider.model_in_path

    def test_is_asked_for_a_streams_usage_only_where_a_body_is_read_anyway(self, provider: Provider) -> None:
        assert provider.stream_usage_in_body <= provider.model_in_body

    def test_has_a_recorded_answer_unless_it_is_a_row(self, provider: Provider) -> None:
        recorded = ROOT / "tests" / "recorded" / provider.name
        assert provider.name not in OWN or list(recorded.glob("*.truth.json"))


def test_an_unknown_name_speaks_openais_api() -> None:
    assert registry.provider("somebody-new").usage is registry.provider("vllm").usage
    assert registry.provider("somebody-new").config_headers == registry.provider("openai").config_headers


def test_nobody_knows_the_prices_of_an_unknown_name() -> None:
    assert registry.provider("somebody-new").price_list is None


def test_every_file_of_a_provider_is_registered() -> None:
    files = {path.stem for path in (ROOT / "src/aiwm/providers").glob("*.py")} - {"__init__", "base", "registry"}
    assert files == OWN


def test_no_provider_is_named_outside_its_file() -> None:
    names = re.compile(rf'"(?:{"|".join(registry.PROVIDERS)})"')
    for path in (ROOT / "src/aiwm").rglob("*.py"):
        where = path.relative_to(ROOT / "src/aiwm").as_posix()
        if not where.startswith(("providers/", "simulator/", "engines/")) and where not in NAMED_ELSEWHERE:
            assert not names.search(path.read_text()), where
