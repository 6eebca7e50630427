"""Usage: what one inference request cost in tokens, and the ledger row that keeps it."""

from __future__ import annotations

from enum import StrEnum
from operator import add

import msgspec
from msgspec.structs import astuple


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one answer. The parts are contained in the totals; a part that nobody reported is 0."""

    input_tokens: int = 0
    """All that the model read: fresh, read from a cache and written to one."""
    output_tokens: int = 0
    """All that the model wrote, reasoning included."""
    cache_read_tokens: int = 0
    """Part of the input."""
    cache_write_tokens: int = 0
    """Part of the input, whatever its lifetime."""
    cache_write_1h_tokens: int = 0
    """Part of the cache writes: those that are kept for an hour instead of five minutes."""
    reasoning_tokens: int = 0
    """Part of the output."""
    input_audio_tokens: int = 0
    """Part of the input, cached or not; like those below."""
    output_audio_tokens: int = 0
    input_image_tokens: int = 0
    output_image_tokens: int = 0
    cache_read_audio_tokens: int = 0
    """Part of the cache reads and of the audio."""
    cache_read_image_tokens: int = 0
    web_searches: int = 0
    """Searches that the provider made for the answer and bills one by one; no tokens."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(*map(add, astuple(self), astuple(other)))

    @property
    def fresh_tokens(self) -> int:
        """Input that came from no cache and went into none."""
        return max(0, self.input_tokens - self.cache_read_tokens - self.cache_write_tokens)

    @property
    def cache_write_5m_tokens(self) -> int:
        return max(0, self.cache_write_tokens - self.cache_write_1h_tokens)

    @property
    def fresh_text_tokens(self) -> int:
        return max(0, self.fresh_tokens - self.fresh_audio_tokens - self.fresh_image_tokens)

    @property
    def fresh_audio_tokens(self) -> int:
        return max(0, self.input_audio_tokens - self.cache_read_audio_tokens)

    @property
    def fresh_image_tokens(self) -> int:
        return max(0, self.input_image_tokens - self.cache_read_image_tokens)

    @property
    def cache_read_text_tokens(self) -> int:
        return max(0, self.cache_read_tokens - self.cache_read_audio_tokens - self.cache_read_image_tokens)

    @property
    def visible_text_tokens(self) -> int:
        return max(0, self.output_tokens - self.reasoning_tokens - self.output_audio_tokens - self.output_image_tokens)

    @property
    def adds_up(self) -> bool:
        """Whether no part is larger than what it is a part of: else the numbers are not what they are taken for."""
        read, written = self.cache_read_tokens, self.cache_write_tokens
        fresh = self.input_tokens - read - written
        audio, image = self.cache_read_audio_tokens, self.cache_read_image_tokens
        return (
            fresh >= 0
            and self.cache_write_1h_tokens <= written
            and audio + image <= read
            and max(0, self.input_audio_tokens - audio) + max(0, self.input_image_tokens - image) <= fresh
            and self.reasoning_tokens + self.output_audio_tokens + self.output_image_tokens <= self.output_tokens
        )

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class End(StrEnum):
    """How a request ended."""

    COMPLETE = "complete"
    CLIENT_GONE = "client-gone"
    PROVIDER_BROKE = "provider-broke"
    TIMED_OUT = "timed-out"
    GATEWAY_DIED = "gateway-died"


class Source(StrEnum):
    """Where a row's numbers come from."""

    PROVIDER = "provider"
    ESTIMATED = "estimated"
    NONE = "none"


_UNKNOWN = frozenset({400, 404})
"""How providers answer that they have no such model."""


class UsageRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One inference request that reached a provider. Times are milliseconds; `started_at` since the epoch.

    What has a default is not known when the request goes out: such a row is the one to book if the gateway dies.

    A struct and no dataclass: two are made and written as JSON for each request, and it is several times cheaper.
    """

    request_id: str
    correlation_id: str
    org_id: str
    user_id: str
    api_key_id: str | None = None
    """None when a user called without one."""
    deployment_id: str
    model_id: str
    provider: str
    provider_request_id: str | None = None
    model_asked: str | None
    model_answered: str | None = None
    service_tier: str | None = None
    """As the provider says it served the request; it decides the price."""
    status: int | None = None
    """Of the provider's answer; None when there was none."""
    streamed: bool = False
    started_at: int
    first_byte_ms: int | None = None
    total_ms: int = 0
    end: End = End.GATEWAY_DIED
    source: Source = Source.NONE
    usage: Usage = Usage()
    raw_usage: str | None = None
    """The provider's own usage object, as JSON."""
    cost: int | None = None
    """In picodollars; None is unknown, which is not 0."""
    price: str | None = None
    """The price it was made with, as JSON: `rates` has USD per million tokens by name of a count in `Usage`, and the
    counts that are named have no token in common. What else is in it (whose price, since when) is told with it."""

    @property
    def model(self) -> str:
        """What reports go by: the model that answered, else the one asked for; empty when neither was named.

        A name that the provider knew nothing of is none: callers can make up any number of them.
        """
        return self.model_answered or (self.status not in _UNKNOWN and self.model_asked) or ""

    @property
    def failed(self) -> bool:
        return self.end is not End.COMPLETE or self.status is None or self.status >= 400

    @property
    def unpriced(self) -> bool:
        """Nobody knows what it cost."""
        return self.cost is None
