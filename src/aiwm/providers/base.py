"""What a provider is: facts, no behaviour. One small file a provider; `registry` holds them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

Path = tuple["str | Where", ...]
"""Keys from the top of a JSON object downwards."""


@dataclass(frozen=True, slots=True)
class Where:
    """A step of a path into a list: to those of its objects that have this value at this key. Several add up."""

    key: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What the keys of one kind of usage object mean. Names are those of `aiwm.domain.usage.Usage`.

    The paths under one name add up; what is not reported has no path.
    """

    signs: frozenset[str] = frozenset()
    """Keys that a usage object of this kind has, all of them, and one of another kind has not."""
    lacks: frozenset[str] = frozenset()
    """Keys of which one of this kind has none."""
    total: str | None = None
    """The key of all tokens, where they are more than those read and written: what these leave out was reasoning."""
    input_tokens: Sequence[Path]
    """All tokens read, cached ones included."""
    output_tokens: Sequence[Path]
    """All tokens written, reasoning included."""
    cache_read_tokens: Sequence[Path] = ()
    cache_read_audio_tokens: Sequence[Path] = ()
    cache_read_image_tokens: Sequence[Path] = ()
    cache_write_tokens: Sequence[Path] = ()
    cache_write_1h_tokens: Sequence[Path] = ()
    reasoning_tokens: Sequence[Path] = ()
    input_audio_tokens: Sequence[Path] = ()
    output_audio_tokens: Sequence[Path] = ()
    input_image_tokens: Sequence[Path] = ()
    output_image_tokens: Sequence[Path] = ()
    web_searches: Sequence[Path] = ()

    steps: Mapping[str, Step] = field(init=False)
    """All the paths in one, by their first key: what is read is walked once, whatever there is to be found."""

    def __post_init__(self) -> None:
        steps: dict[str, Step] = {}
        for each in fields(self):
            if each.init and each.name not in {"signs", "lacks", "total"}:
                for path in getattr(self, each.name):
                    _lay(steps, path, each.name)
        object.__setattr__(self, "steps", steps)

    def left_out(self, usage: Mapping[str, object], counted: int) -> int:
        """Tokens of a usage object that none of its counts tells."""
        total = None if self.total is None else usage.get(self.total)
        return max(0, total - counted) if type(total) is int else 0

    def fit(self, usage: Mapping[str, object]) -> bool:
        """Whether a usage object is of this kind."""
        return usage.keys() >= self.signs and self.lacks.isdisjoint(usage)


@dataclass(slots=True)
class Step:
    """What a key leads to: counts in `Usage` that its number is a part of, an object's keys, or objects of a list."""

    names: list[str] = field(default_factory=list)
    keys: dict[str, Step] = field(default_factory=dict)
    chosen: dict[Where, dict[str, Step]] = field(default_factory=dict)


def _lay(steps: dict[str, Step], path: Path, name: str) -> None:
    key, *rest = path
    if isinstance(key, Where):
        raise TypeError(f"{path}: Where chooses from a list, so it comes after the list's key")
    step = steps.setdefault(key, Step())
    if not rest:
        step.names.append(name)
    elif isinstance(rest[0], Where):
        _lay(step.chosen.setdefault(rest[0], {}), tuple(rest[1:]), name)
    else:
        _lay(step.keys, tuple(rest), name)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedCost:
    """Where a usage object tells what the provider bills for the request: that is exact, and better than any list."""

    path: tuple[str, ...]
    per_dollar: int = 1
    """How many of what it is told in are a dollar."""
    unless: str | None = None
    """A key there whose truth says that somebody else bills for the request too."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UsageFields:
    """Where a provider's answers hold their token counts. What reads them is made once for each of these, by identity.

    One rule serves JSON answers and every kind of stream: the usage objects are laid over each other, so the last value
    seen for a path wins, and of the result the first kind of counts is read whose signs it has.
    """

    roots: Sequence[tuple[str, ...]]
    """Where, in an answer or one event of a stream, the usage object may stand. () is the top itself."""
    top: Sequence[str] = ()
    """Keys of the usage that are read if it stands on the top itself, among others."""
    beside: Sequence[tuple[str, ...]] = ()
    """Objects that belong to the usage though they stand elsewhere: laid over it where a usage object is found too."""
    markers: Sequence[bytes]
    """JSON keys, quotes included, one of which stands in every event with counts: events without are not parsed."""
    counts: Sequence[Counts]
    """The kinds of usage objects, the more particular ones first."""
    model: Sequence[tuple[str, ...]] = (("model",),)
    """Where the name of the model that answered stands; the first found wins."""
    service_tier: Sequence[tuple[str, ...]] = ()
    """Where, in an answer or an event, the tier stands that the request was served in; the last found wins."""
    service_tier_in_usage: Sequence[str] = ()
    """Keys of the usage object where it stands, and what else there decides the price."""
    stated_cost: StatedCost | None = None
    tiers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What a word found there means to the price list: {} for the standard price. Of others nobody knows the price."""
    text: Sequence[tuple[str, ...]] = ()
    """Where, in an event of a stream, a piece of what the model wrote stands; `*` is each element of a list.

    Read only of a stream that ended before its numbers came. An object counts as the text of its JSON.
    """


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
    model_in_form: frozenset[str] = frozenset()
    """Paths that take a `model` as a field of a form. Forms are passed on as they are."""
    stream_usage_in_body: frozenset[str] = frozenset()
    """Those of them where a stream reports its usage only if the body says `stream_options.include_usage`."""
    model_in_path: tuple[str, ...] = ()
    """Segments after which a path names the model (`/models/{model}:generateContent`)."""

    example_path: str
    """A path to try, `{model}` standing for the model's name. Shown to callers, never used by the gateway."""
    example_body: Mapping[str, object]

    usage: UsageFields
    price_list: str | None = None
    """Its name in the price list; None when its prices are not known there, or not by what its answers say."""
    bills_errors: bool = False
    """Whether an error answer may cost something."""
    request_id_header: bytes = b"x-request-id"
    """The provider's own name for a request, for its support desk."""
