"""Watches one answer go by and makes its ledger row: exactly one, whatever happens.

The meter sees copies of the bytes and never writes. It holds no stream: of events it keeps the one that is not
complete, of a JSON answer as much as `wire.json_tail` keeps. What it has kept is read when the row is asked for: the
book does that for all answers that end at about the same time, one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

from msgspec.structs import replace

from aiwm.domain.times import Clock
from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.logs import Log
from aiwm.metering.estimate import Estimate, Splitter, estimated
from aiwm.metering.reading import Reading
from aiwm.metering.subject import Begun, Subject
from aiwm.providers.base import Provider
from aiwm.wire.encodings import Decoder, UndecodableBody, decoder
from aiwm.wire.headers import Firsts
from aiwm.wire.json_tail import JsonWatcher
from aiwm.wire.ndjson import LineSplitter
from aiwm.wire.sse import EventSplitter

_NO_USAGE = b'"usage":null'
"""OpenAI puts it on every chunk but the last when usage is asked for."""

_log = Log(__name__)


class Book(Protocol):
    def opened(self, subject: Subject, begun: Begun) -> None:
        """Before a request goes out. Raises Unavailable when it can't be booked: then it must not go out."""

    def closed(self, meter: Meter) -> None:
        """The answer has come to its end: the meter's row is to be booked before the caller gets the last byte."""


class Meter:
    """One for each request: `sent`, `begin`, `feed`..., `close`. `close` may come at any point, and counts once.

    After it there is a `row`, if the request has reached the provider.

    `body` is the request's, as far as it was read at once: texts that it has are counted if the answer ends early.
    """

    # Most of it stays as it is here for most answers: one is made for each request.

    _first_byte: float | None = None
    _sent = False
    _end: End | None = None
    _total = 0.0
    """Seconds until the end."""
    _row: UsageRow | None = None
    _status: int | None = None
    _provider_request_id: str | None = None
    _splitter: Splitter | None = None
    _estimate: Estimate | None = None
    _counted: tuple[Usage, str | None, Source] = Usage(), None, Source.NONE
    _json: JsonWatcher | None = None
    _decoder: Decoder | None = None
    _blind = False

    def __init__(
        self,
        provider: Provider,
        subject: Subject,
        *,
        request_id: str,
        correlation_id: str,
        body: bytes,
        book: Book,
        clock: Clock,
    ) -> None:
        self._provider = provider
        self._subject = subject
        self._begun = Begun(request_id, correlation_id, clock())
        self._body = body
        self._book = book
        self._began = time.perf_counter()
        self._reading = Reading(provider.usage)

    def sent(self) -> None:
        """The request is about to go out to the provider: from here on there will be a row. Raises Unavailable."""
        if not self._sent:
            self._book.opened(self._subject, self._begun)
            self._sent = True

    def begin(self, status: int, headers: Firsts) -> None:
        """The head of the answer has come."""
        self._first_byte = time.perf_counter()
        self._status = status
        provider = self._provider
        request_id = headers.get(provider.request_id_header)
        self._provider_request_id = None if request_id is None else request_id.decode("latin-1")[:200]
        if status >= 400:
            self._blind = True  # An error has no usage, and its text may have been masked on the way.
            return
        markers = provider.usage.markers
        kind = _kind(headers.get(b"content-type", b""))
        if kind is JsonWatcher:
            self._json = JsonWatcher(markers)
        elif kind is EventSplitter or kind is LineSplitter:
            self._splitter = kind(markers)
            self._estimate = Estimate(provider.usage, kind)
        else:
            self._blind = True
            return
        encoding = headers.get(b"content-encoding")
        if encoding:
            self._guarded(self._decode, encoding)

    def feed(self, chunk: bytes) -> None:
        """A piece of the body, as it came. Raises nothing."""
        if not self._blind:
            self._guarded(self._watch, chunk)

    def close(self, end: End) -> None:
        """Ends the row. Only the first call counts, and none before the request has reached the provider."""
        if self._end is None and self._sent:
            self._end = end
            self._total = time.perf_counter() - self._began
            self._book.closed(self)

    @property
    def row(self) -> UsageRow | None:
        """None before the end, and of a request that never reached the provider."""
        if self._row is None and self._end is not None:
            if not self._blind:
                self._guarded(self._conclude)
            self._guarded(self._count)
            if self._end is not End.COMPLETE and self._is_billed(self._end):
                self._guarded(self._make_up)
            self._row = self._closed(self._end)
            # All that was kept for it may be large, and the meter may live on for a while.
            self._body, self._json, self._splitter, self._decoder = b"", None, None, None
        return self._row

    @property
    def tokens(self) -> int | None:
        """Of the row."""
        row = self.row
        return None if row is None else row.usage.total_tokens

    @property
    def end(self) -> End | None:
        """How it ended, if it reached the provider."""
        return self._end

    def _closed(self, end: End) -> UsageRow:
        """The row with what is known by now."""
        reading = self._reading
        usage, raw, source = self._counted
        begun = self._begun
        return replace(
            self._subject.row,
            request_id=begun.request_id,
            correlation_id=begun.correlation_id,
            started_at=begun.started_at,
            provider_request_id=self._provider_request_id,
            model_answered=reading.model,
            service_tier=reading.service_tier,
            status=self._status,
            streamed=self._splitter is not None,
            first_byte_ms=None if self._first_byte is None else round((self._first_byte - self._began) * 1000),
            total_ms=round(self._total * 1000),
            end=end,
            source=source,
            usage=usage,
            raw_usage=raw,
        )

    def _is_billed(self, end: End) -> bool:
        """Whether an answer that ended early has a price that we know nothing of yet."""
        if self._subject.row.model_asked is None:
            return False  # No model was to answer.
        if self._status is None:
            return end is not End.PROVIDER_BROKE
        return self._status < 400

    def _make_up(self) -> None:
        chars = 0 if self._estimate is None else self._estimate.chars()
        made_up = estimated(self._reading, chars, self._body)
        if made_up is not None:
            self._counted = *made_up, Source.ESTIMATED

    def _decode(self, encoding: bytes) -> None:
        self._decoder = decoder(encoding)

    def _watch(self, chunk: bytes) -> None:
        if self._decoder is not None:
            chunk = self._decoder.feed(chunk)
        if self._splitter is not None and self._estimate is not None:
            if self._events(self._splitter.feed(chunk)):
                self._estimate.feed_numbers(chunk)
            else:
                self._estimate.feed(chunk)
        elif self._json is not None:
            self._json.feed(chunk)

    def _count(self) -> None:
        if self._reading.found:
            self._counted = self._reading.usage, self._reading.raw, Source.PROVIDER

    def _conclude(self) -> None:
        if self._splitter is not None:
            if self._events(self._splitter.finish()) and self._estimate is not None:
                self._estimate.feed_numbers(b"")
        elif self._json is not None:
            document = self._json.document()
            if document is not None:
                self._reading.document(document)
            if not self._reading.found:
                # Cut short, or too long to be kept: the usage object may still be found by itself.
                for marker in self._provider.usage.markers:
                    found = self._json.last(marker)
                    if found is not None:
                        self._reading.usage_object(found)

    def _events(self, events: Sequence[bytes]) -> bool:
        """Whether there was usage in them."""
        found = False
        for event in events:
            if _NO_USAGE not in event:
                found = self._reading.document(event) or found
        return found

    def _guarded(self, step: Callable[..., None], *arguments: bytes) -> None:
        """A body that can't be read is not metered; it must never break the answer that is going by."""
        try:
            step(*arguments)
        except UndecodableBody as error:
            self._blind = True
            _log.warning(
                "an answer can't be read for its usage", correlation_id=self._begun.correlation_id, reason=str(error)
            )
        except Exception:  # noqa: BLE001 - a bug of ours in here is no reason to fail the caller
            self._blind = True
            _log.exception("the meter failed; the answer goes on", correlation_id=self._begun.correlation_id)


@lru_cache(maxsize=256)
def _kind(content_type: bytes) -> type[JsonWatcher | EventSplitter | LineSplitter] | None:
    """What watches answers of this type; None when there is nothing to be read in them."""
    name = content_type.partition(b";")[0].strip().lower()
    if name == b"text/event-stream":
        return EventSplitter
    if name in {b"application/x-ndjson", b"application/jsonl"}:
        return LineSplitter
    if name == b"application/json" or name.endswith(b"+json"):
        return JsonWatcher
    return None
