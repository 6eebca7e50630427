"""Ledger rows to test with."""

from __future__ import annotations

from msgspec.structs import replace

from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.metering.subject import Begun, Subject


def opening(number: int) -> UsageRow:
    return UsageRow(
        request_id=f"{number:024x}",
        correlation_id=f"correlation-{number}",
        org_id="a" * 24,
        user_id="b" * 24,
        deployment_id="c" * 24,
        model_id="d" * 24,
        provider="openai",
        provider_request_id=None,
        model_asked="gpt-4o ünïcode\n",
        model_answered=None,
        status=None,
        streamed=False,
        started_at=1_800_000_000_000 + number,
        first_byte_ms=None,
        total_ms=0,
        end=End.GATEWAY_DIED,
        source=Source.NONE,
        usage=Usage(),
        raw_usage=None,
    )


def begun(number: int) -> tuple[Subject, Begun]:
    """What `opening` is made of when a request goes out."""
    row = opening(number)
    return Subject(row), Begun(row.request_id, row.correlation_id, row.started_at)


def closing(number: int) -> UsageRow:
    usage = Usage(input_tokens=number, output_tokens=2 * number)
    return replace(
        opening(number), end=End.COMPLETE, source=Source.PROVIDER, usage=usage, raw_usage='{"a": 1}', status=200
    )
