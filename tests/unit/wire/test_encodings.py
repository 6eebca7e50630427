"""What a provider compressed is read, piece by piece, and a bomb does not go off."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwm.wire.encodings import Decoder, UndecodableBody, decoder
from cuttings import bytewise, cut

TEXT = b'data: {"choices":[{"delta":{"content":"hello"}}]}\n\n' * 40


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, compresslevel=4),
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate without its header": raw_deflate,
    "br": partial(brotli.compress, quality=4),
    "zstd": zstandard.compress,
}


def coding(name: str) -> bytes:
    return name.split()[0].encode()


def decoded(content_encoding: bytes, pieces: list[bytes]) -> bytes:
    reader = decoder(content_encoding)
    assert reader is not None
    return b"".join([*map(reader.feed, pieces), reader.finish()])


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_body_is_read_however_the_network_cuts_it(name: str):
    for text in (TEXT, b"", b"x", bytes(range(256)) * 300):
        body = COMPRESSORS[name](text)
        assert decoded(coding(name), [body]) == text
        assert decoded(coding(name), cut(body, [1, 2, 3, 10, 11, len(body) - 1])) == text
    assert decoded(coding(name), bytewise(COMPRESSORS[name](TEXT))) == TEXT


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200).map(lambda data: data * 20),
    st.sampled_from(sorted(COMPRESSORS)),
    st.lists(st.integers(0, 1 << 16), max_size=8),
)
def test_whatever_was_compressed_comes_back(text: bytes, name: str, places: list[int]):
    assert decoded(coding(name), cut(COMPRESSORS[name](text), places)) == text


@pytest.mark.parametrize("header", [b"gzip, br", b" GZIP ,\tBr,", b"gzip, identity, br"])
def test_stacked_codings_are_undone_from_the_last_to_the_first(header: bytes):
    body = brotli.compress(gzip.compress(TEXT))
    assert decoded(header, [body]) == TEXT
    assert decoded(header, bytewise(body)) == TEXT


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_a_body_of_several_members_is_read_to_its_end(name: str):
    body = COMPRESSORS[name](b"one ") + COMPRESSORS[name](b"") + COMPRESSORS[name](b"two")
    assert decoded(coding(name), [body]) == b"one two"
    assert decoded(coding(name), bytewise(body)) == b"one two"


def test_what_was_flushed_is_read_before_the_end_comes():
    compressor = zlib.compressobj(wbits=31)
    reader = decoder(b"gzip")
    assert reader is not None
    for event in (b"data: one\n\n", b"data: two\n\n"):
        assert reader.feed(compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH)) == event


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_body_cut_short_is_read_as_far_as_it_goes(name: str):
    text = bytes(hash((7, i)) % 251 for i in range(50_000))
    body = COMPRESSORS[name](text)
    part = decoded(coding(name), [body[: len(body) // 2]])
    assert text.startswith(part)


@pytest.mark.parametrize("header", [b"", b"identity", b" Identity ", b",", b"identity, identity"])
def test_without_a_coding_there_is_nothing_to_undo(header: bytes):
    assert decoder(header) is None


@pytest.mark.parametrize("header", [b"compress", b"gzip, exi", b"gzip;q=1", b"gzip br", b"\xff"])
def test_an_unknown_coding_is_said_to_be(header: bytes):
    with pytest.raises(UndecodableBody, match="not known"):
        decoder(header)


def test_a_body_encoded_too_many_times_is_refused():
    with pytest.raises(UndecodableBody, match="5 times"):
        decoder(b"gzip, gzip, gzip, gzip, gzip")


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("garbage", [b"<html>not compressed at all</html>" * 20, b"\0" * 100, b"\xff" * 100])
def test_garbage_is_found_out(name: str, garbage: bytes):
    with pytest.raises(UndecodableBody):
        decoded(coding(name), [garbage])


@pytest.mark.parametrize("name", COMPRESSORS)
def test_garbage_behind_the_end_is_found_out(name: str):
    body = COMPRESSORS[name](TEXT)
    with pytest.raises(UndecodableBody):
        decoded(coding(name), [body + b"trailing garbage"])
    with pytest.raises(UndecodableBody):
        decoded(coding(name), [body, b"trailing garbage"])


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_bomb_in_one_piece_does_not_go_off(name: str):
    bomb = COMPRESSORS[name](bytes(48 << 20))
    reader = decoder(coding(name))
    assert reader is not None
    tracemalloc.start()
    try:
        with pytest.raises(UndecodableBody, match="One piece"):
            reader.feed(bomb)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_a_bomb_inside_of_a_bomb_does_not_go_off():
    with pytest.raises(UndecodableBody, match="One piece"):
        decoded(b"gzip, br", [brotli.compress(gzip.compress(bytes(48 << 20)))])


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_bomb_in_small_pieces_stops_at_the_limit(name: str):
    reader = decoder(coding(name), max_output=10_000)
    assert isinstance(reader, Decoder)
    with pytest.raises(UndecodableBody, match="more than 10000 bytes"):
        list(map(reader.feed, bytewise(COMPRESSORS[name](bytes(10_001)))))


def test_the_limit_itself_is_no_bomb():
    for name, compress in COMPRESSORS.items():
        reader = decoder(coding(name), max_output=8 << 20)
        assert reader is not None
        assert len(reader.feed(compress(bytes(8 << 20)))) == 8 << 20


def test_a_window_larger_than_the_web_allows_is_refused():
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = compressor.compress(TEXT) + compressor.flush()
    with pytest.raises(UndecodableBody):
        decoded(b"zstd", [body])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(COMPRESSORS)), st.binary(min_size=1, max_size=60))
def test_any_bytes_whatever_are_read_or_found_out(name: str, body: bytes):
    with suppress(UndecodableBody):
        decoded(coding(name), [body])
