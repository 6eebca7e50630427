"""Reads compressed answers, for the meter only: the client gets the bytes as they came.

A compressed body may unfold to a thousand times its size. Each step is told how much it may give, and stops there.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import brotli  # type: ignore[import-untyped]  # it has no annotations
import zstandard

_MAX_OUTPUT = 256 << 20
_MAX_STEP = 8 << 20
_MAX_CODINGS = 4


class UndecodableBody(ValueError):
    """The body is not what its content-encoding says, is of an encoding we do not know, or unfolds to too much."""


class Decoder:
    """Undoes the codings of one body, piece by piece. Once it has raised, it is of no more use."""

    __slots__ = ("_codings", "_max_output", "_output")

    def __init__(self, codings: Iterable[Coding], max_output: int) -> None:
        self._codings = list(codings)
        self._max_output = max_output
        self._output = 0

    def feed(self, chunk: bytes) -> bytes:
        """What `chunk` adds to the decoded body."""
        for coding in self._codings:
            chunk = _decoded(coding, chunk)
        self._output += len(chunk)
        if self._output > self._max_output:
            raise UndecodableBody(f"The body unfolds to more than {self._max_output} bytes")
        return chunk

    def finish(self) -> bytes:
        """What is left: nothing, since every piece is decoded as far as it goes. So is a body that was cut short."""
        return b""


def decoder(content_encoding: bytes, *, max_output: int = _MAX_OUTPUT) -> Decoder | None:
    """The decoder for a body with that header; None if there is nothing to undo.

    Raises UndecodableBody if a coding is unknown, as it does later for a body that cannot be read.
    """
    names = [name.strip() for name in content_encoding.lower().split(b",")]
    names = [name for name in names if name not in (b"", b"identity")]
    if unknown := [name for name in names if name not in _CODINGS]:
        raise UndecodableBody(f"The content-encoding {unknown[0].decode(errors='replace')!r} is not known")
    if len(names) > _MAX_CODINGS:
        raise UndecodableBody(f"The body is encoded {len(names)} times")
    # They are listed in the order they were applied in.
    return Decoder([_CODINGS[name]() for name in reversed(names)], max_output) if names else None


def _decoded(coding: Coding, chunk: bytes) -> bytes:
    if not chunk:
        return chunk
    try:
        output = coding.decode(chunk, _MAX_STEP)
    except (zlib.error, brotli.error, zstandard.ZstdError) as exc:
        raise UndecodableBody(f"The body is not what its content-encoding says: {exc}") from exc
    if len(output) > _MAX_STEP:
        raise UndecodableBody(f"One piece of the body unfolds to more than {_MAX_STEP} bytes")
    return output


# --- codings ---------------------------------------------------------------------------------------------------


class Coding(Protocol):
    """One content coding, as it is undone."""

    def decode(self, chunk: bytes, most: int) -> bytes:
        """All of `chunk`, decoded; if that is more than `most` bytes, only somewhat more than that."""


class _Gzip:
    """A gzip body may be several, one behind the other."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def decode(self, chunk: bytes, most: int) -> bytes:
        output: list[bytes] = []
        room = most + 1
        while chunk and room > 0:
            if self._member.eof:
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            output.append(self._member.decompress(chunk, room))
            room -= len(output[-1])
            chunk = self._member.unused_data
        return b"".join(output)


class _Deflate:
    """The standard means zlib's format; some senders leave its two-byte header out."""

    def __init__(self) -> None:
        self._start = b""
        self._stream = zlib.decompressobj()
        self._begun = False

    def decode(self, chunk: bytes, most: int) -> bytes:
        if not self._begun:
            chunk = self._start + chunk
            if len(chunk) < 2:
                self._start = chunk
                return b""
            self._begun = True
            if chunk[0] & 0x0F != zlib.DEFLATED or int.from_bytes(chunk[:2]) % 31:
                self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        output = self._stream.decompress(chunk, most + 1)
        if self._stream.unused_data:
            raise UndecodableBody("The body goes on behind its end")
        return output


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    def decode(self, chunk: bytes, most: int) -> bytes:
        output: bytes = self._stream.process(chunk, output_buffer_limit=most + 1)
        return output


class _Zstandard:
    """The library has no limit for its output, so it gets its input in pieces that cannot unfold to very much."""

    _PIECE = 256  # A block is at least 4 bytes and unfolds to at most 128 KiB: 8 MiB in all.
    _MAX_WINDOW = 8 << 20  # RFC 9659

    def __init__(self) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=self._MAX_WINDOW)
        self._stream = decompressor.decompressobj(read_across_frames=True)

    def decode(self, chunk: bytes, most: int) -> bytes:
        output: list[bytes] = []
        size = 0
        for start in range(0, len(chunk), self._PIECE):
            output.append(self._stream.decompress(chunk[start : start + self._PIECE]))
            size += len(output[-1])
            if size > most:
                break
        return b"".join(output)


_CODINGS: Mapping[bytes, Callable[[], Coding]] = {
    b"gzip": _Gzip,
    b"x-gzip": _Gzip,
    b"deflate": _Deflate,
    b"br": _Brotli,
    b"zstd": _Zstandard,
}
