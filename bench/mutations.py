"""Inputs that are nearly right: examples, changed in places, and with what parsers stumble over put in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

_TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b"\t", b" ", b"\x0b", b"\x7f", b"\x80", b"\xff", b"\xc0\xae", b"\xed\xa0\x80",
    b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"/", b"//", b"\\", b"..", b"/../", b"%2e%2e/", b"%2f", b"%5c",
    b"%252e%252e%252f", b"%00", b"%0d%0a", b"%", b"%zz", b"%c0%ae", b"?", b"#", b"@", b";", b":",
    b"http://evil.example/", b"*", b"HTTP/1.0", b"HTTP/9.9", b"CONNECT", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n",
    b"content-length: 99999999999999999999\r\n", b"Host: evil.example\r\n", b"Expect: 100-continue\r\n",
    b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n", b"Connection: close\r\n", b"X-Organization-Id: a\r\n",
    b"X-Correlation-Id: a\x01b\r\n", b"X: y\r\n z\r\n", b"Authorization: Bearer x\r\n",
    b"Content-Type: multipart/form-data; boundary=cut\r\n", b"Content-Encoding: gzip\r\n", b"0\r\n\r\n",
    b"ffffffffffffffff\r\n", b"-1\r\n", b'"', b"'", b"{", b"}", b"[", b"]", b",", b"{" * 300, b"[" * 3000,
    b'{"a":' * 800, b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 400, b"0.1", b"\\", b'\\"',
    b"\\u0000", b"\\ud800", b"\\u006dodel", b'"model":"x",', b'"Model":"x",', b'"stream":true,',
    b'"stream_options":null,', b'"include_usage":false,', b'"usage":null,', b'"usage":{},', b"data: ",
    b"data: [DONE]\n\n", b"event: x\n", b": c\n", b"\n\n", b"\r\r", b"--cut", b"--cut--", b"\r\n--cut\r\n",
    b'name="model"', b"' OR 1=1 --", b"${x}", b"{{x}}", b"<script>", b"A" * 3000, "ünïcöde".encode(),
    "\u202e".encode(), "💥".encode(),
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e300, 10**30, 2**63, 2**53 + 1, "", " ", "x", "\0", "a\r\nb", "a\x00b",
    "\u2028", "\udc00", "💥", "x" * 5000, "../../etc/passwd", "http://169.254.169.254/", "file:///etc/passwd",
    "env:AIWM_JWT_SECRET", "env:PATH", "%", "'", "[]", [], {}, [None], [[]], {"": None}, {"x": {"y": {}}},
    ["x"] * 200, "organization.owner", "universe.owner", "public", "0" * 24, "f" * 24,
)  # fmt: skip


class Mutations:
    def __init__(self, chance: Random) -> None:
        self.chance = chance

    def bytes(self, examples: Sequence[bytes]) -> bytes:
        """One of the examples, changed some times; now and then as it is."""
        chance = self.chance
        data = bytearray(chance.choice(examples))
        for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 5, 9))):
            self._change(data, examples)
        return bytes(data)

    def json(self, example: Any) -> bytes:
        """A JSON text with another value in some places, a name too many or too few, or broken bytes."""
        chance = self.chance
        value = json.loads(json.dumps(example))
        for _ in range(chance.choice((1, 1, 2, 4))):
            value = self._value(value)
        text = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
        return self.bytes([text]) if chance.random() < 0.3 else text

    def pieces(self, data: bytes) -> list[bytes]:
        """The same in pieces, as a network may deliver it."""
        chance = self.chance
        if chance.random() < 0.3 or len(data) < 2:
            return [data]
        if chance.random() < 0.1 and len(data) < 2000:
            return [data[at : at + 1] for at in range(len(data))]
        places = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(1, 6)))
        return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]

    def _change(self, data: bytearray, examples: Sequence[bytes]) -> None:
        chance = self.chance
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 1, 2, 4, 16, 200)))
        match chance.randrange(8):
            case 0 if data:
                data[at % len(data)] = chance.randrange(256)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at:end] * chance.choice((1, 1, 2, 30))
            case 3:
                other = chance.choice(examples)
                begin = chance.randrange(len(other) + 1)
                data[at:end] = other[begin : begin + chance.choice((3, 30, 300))]
            case 4:
                del data[at:]
            case 5:
                data[at:end] = chance.choice(_TOKENS)
            case _:
                data[at:at] = chance.choice(_TOKENS)

    def _value(self, value: Any) -> Any:
        chance = self.chance
        if isinstance(value, dict) and value and chance.random() < 0.85:
            name = chance.choice(list(value))
            match chance.randrange(8):
                case 0:
                    return {each: inner for each, inner in value.items() if each != name}
                case 1:
                    return value | {chance.choice(("_id", "owner", "x", "", "__proto__", name.upper())): value[name]}
                case _:
                    return value | {name: self._value(value[name])}
        if isinstance(value, list) and value and chance.random() < 0.7:
            place = chance.randrange(len(value))
            return [*value[:place], self._value(value[place]), *value[place + 1 :]]
        return chance.choice(_VALUES)
