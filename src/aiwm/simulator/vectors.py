"""Embeddings that are the same for the same input, of length 1, and mean nothing."""

from __future__ import annotations

import base64
import hashlib
import math
import struct

import orjson

LARGEST = 8192


def vector(item: object, dimensions: int) -> list[float]:
    """The vector of one JSON value."""
    digest = hashlib.shake_256(orjson.dumps(item)).digest(2 * dimensions)
    values = [number - 32767.5 for number in struct.unpack(f"<{dimensions}H", digest)]
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


def in_base64(values: list[float]) -> str:
    """As OpenAI sends them when asked: little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
