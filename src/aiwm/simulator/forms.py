"""Just enough of multipart/form-data (RFC 7578) to receive an upload."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_BOUNDARY = re.compile(rb'multipart/form-data\s*;.*\bboundary=(?:"([^"]+)"|([^\s;]+))', re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(rb';\s*(name|filename)="((?:[^"\\]|\\.)*)"', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    content: bytes
    filename: str | None = None

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")


def parts(content_type: bytes, body: bytes) -> Mapping[str, Part] | None:
    """The parts by name, the last of a name winning; None if this is no multipart body."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        return None
    delimiter = b"\r\n--" + (found[1] or found[2])
    # The first delimiter may stand at the very beginning; the text before it and after the last is no part.
    sections = (b"\r\n" + body).split(delimiter)[1:-1]
    return dict(part for section in sections if (part := _part(section)))


def _part(section: bytes) -> tuple[str, Part] | None:
    head, blank, content = section.partition(b"\r\n\r\n")
    parameters = _disposition(head)
    if not blank or "name" not in parameters:
        return None
    return parameters["name"], Part(content, parameters.get("filename"))


def _disposition(head: bytes) -> Mapping[str, str]:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-disposition:"):
            return {name.decode().lower(): value.decode(errors="replace") for name, value in _PARAMETER.findall(line)}
    return {}
