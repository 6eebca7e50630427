"""What a provider is: facts, no behaviour. One small file a provider; `registry` holds them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

Path = tuple[str, ...]
"""Keys from the top of a JSON object downwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFields:
    """Where a provider's answers hold their token counts.

    One rule serves JSON answers and every kind of stream: the last value seen for a path wins, and
    the paths under one name add up. Names are those of `aiwm.domain.usage.Usage`; what a provider
    does not report has no path.
    """

    roots: Sequence[Path]
    """Where, in an answer or one event of a stream, the usage object may stand. () is the top itself."""
    markers: Sequence[bytes]
    """JSON keys, quotes included, one of which stands in every event with counts: events without are not parsed."""
    input_tokens: Sequence[Path]
    """All tokens read, cached ones included."""
    output_tokens: Sequence[Path]
    """All tokens written, reasoning included."""
    cache_read_tokens: Sequence[Path] = ()
    cache_write_tokens: Sequence[Path] = ()
    cache_write_1h_tokens: Sequence[Path] = ()
    reasoning_tokens: Sequence[Path] = ()
    input_audio_tokens: Sequence[Path] = ()
    output_audio_tokens: Sequence[Path] = ()
    input_image_tokens: Sequence[Path] = ()
    output_image_tokens: Sequence[Path] = ()
    model: Sequence[Path] = (("model",),)
    """Where the name of the model that answered stands; the first found wins."""
    service_tier: Sequence[Path] = ()
    """Where the tier stands that the request was served in; the last found wins."""

    counts: Sequence[tuple[str, Sequence[Path]]] = field(init=False)
    """(name in `Usage`, its paths) of all that has any: what is read of an answer."""

    def __post_init__(self) -> None:
        counts = [(each.name, getattr(self, each.name)) for each in fields(self) if each.name.endswith("_tokens")]
        object.__setattr__(self, "counts", tuple((name, tuple(paths)) for name, paths in counts if paths))


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    name: str
    endpoint: str = ""
    """The address people use when they do not run their own; documentation, not a default."""

    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    config_headers: Mapping[str, str] = field(default_factory=dict)
    """apiConfig key -> header that is always sent with its value, whatever the caller sent."""
    default_headers: Mapping[str, str] = field(default_factory=dict)
    """Header -> value sent when the caller sent none; an apiConfig key of the same name replaces the value."""
    config_query: Mapping[str, str] = field(default_factory=dict)
    """apiConfig key -> query parameter added when the caller gave none."""

    model_in_body: frozenset[str] = frozenset()
    """Paths, without the version in front, whose JSON body takes a `model`. Only these are ever filled in."""
    stream_usage_in_body: frozenset[str] = frozenset()
    """Those of them where a stream reports its usage only if the body says `stream_options.include_usage`."""
    model_in_path: tuple[str, ...] = ()
    """Segments after which a path names the model (`/models/{model}:generateContent`)."""

    example_path: str
    """A path to try, `{model}` standing for the model's name. Shown to callers, never used by the gateway."""
    example_body: Mapping[str, object]

    usage: UsageFields
    request_id_header: bytes = b"x-request-id"
    """The provider's own name for a request, for its support desk."""
