from __future__ import annotations

import base64
import math
import struct

import pytest

from aiwm.simulator import vectors


def test_a_vector_depends_on_the_input_alone_and_has_length_one() -> None:
    one = vectors.vector("Hello", 64)
    assert one == vectors.vector("Hello", 64)
    assert one != vectors.vector("Goodbye", 64)
    assert math.hypot(*one) == pytest.approx(1)


def test_base64_holds_little_endian_floats() -> None:
    values = vectors.vector([1, 2], 3)
    assert struct.unpack("<3f", base64.b64decode(vectors.in_base64(values))) == pytest.approx(values)
