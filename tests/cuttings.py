"""Bytes as a network may deliver them: whole, and cut anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import strategies as st


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` in pieces; a place that is named twice gives an empty one."""
    borders = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(borders)]


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def cuttings(data: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[bytes, list[bytes]]]:
    """Some bytes, and the same in pieces."""
    places = st.lists(st.integers(0, 1 << 16), max_size=12)
    return data.flatmap(
        lambda whole: st.tuples(
            st.just(whole), places.map(lambda places: cut(whole, places)) | st.just(bytewise(whole))
        )
    )
