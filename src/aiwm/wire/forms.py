"""Watches a multipart form go by, for the model that it asks for.

A form holds files, so it is not kept until it is whole: what was looked at goes on. Its end stays here until the model
in it was found good, so that nobody behind us ever has a whole form with another one. Readers of forms disagree about
nearly everything; what two of them could read differently is refused.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from urllib.parse import unquote

from aiwm.errors import Invalid

_CONTENT_TYPE = re.compile(
    rb"multipart/form-data *; *boundary=(?P<quote>\"?)([A-Za-z0-9'+_./:=?-]{1,70})(?P=quote)", re.IGNORECASE
)
_LONGEST_HEAD = 16 * 1024
_LONGEST_MODEL = 1024
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - RFC 9110's word for it
_HEADER = re.compile(rf"({_TOKEN}): *([^\r\n\0]*)")
_PARAMETER = re.compile(rf"; *({_TOKEN})=(?:\"([^\"\\]*)\"|({_TOKEN}))")
_PLAIN_TYPE = re.compile(r"text/plain(?: *; *charset=\"?(?:utf-8|us-ascii)\"?)?", re.IGNORECASE)
_AS_IT_IS = frozenset({"", "7bit", "8bit", "binary"})


class ModelInForm:
    """`check` is given the model and raises Invalid for one that must not be asked for."""

    def __init__(self, content_type: bytes, *, check: Callable[[str], None]) -> None:
        """Raises Invalid, like all of these, when the type is not that of a form as it is usually written."""
        match = _CONTENT_TYPE.fullmatch(content_type)
        if match is None:
            raise Invalid("Content-Type must be multipart/form-data with a boundary, and nothing else")
        self._delimiter = b"--" + match[2]
        self._check = check
        self._held = b""
        self._step: Callable[[], int] = self._delimited
        self.model: str | None = None
        """The model that was found."""

    def whole(self, body: bytes) -> str | None:
        """Reads a form that is all here; its model."""
        self.feed(body)
        self.finish()
        return self.model

    async def watched(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The form as it comes, but for what is not looked at yet."""
        async for piece in pieces:
            if passed := self.feed(piece):
                yield passed
        self.finish()
        yield self._held

    def feed(self, piece: bytes) -> bytes:
        """What may go on: a part of what has come until now."""
        self._held += piece
        passed = []
        while size := self._step():
            passed.append(self._held[:size])
            self._held = self._held[size:]
        return b"".join(passed)

    def finish(self) -> None:
        """All has come; the rest, which is held, may go on too."""
        end = self._delimiter + b"--"
        if self._step != self._over or self._held not in (end, end + b"\r\n"):
            raise Invalid("The form does not end with its boundary")

    # What may come next. Each answers how much of what is held may go on; 0 until more has come.

    def _delimited(self) -> int:
        """A line with the delimiter begins here."""
        size = len(self._delimiter) + 2
        begin = self._held[:size]
        if not any((self._delimiter + end).startswith(begin) for end in (b"\r\n", b"--")):
            raise Invalid("The form does not begin with its boundary, or has something behind it on its line")
        if len(begin) < size:
            return 0
        if begin.endswith(b"\r\n"):
            self._step = self._head
            return size
        if self.model is None:
            raise Invalid("The form has no 'model' field: this deployment does not allow every model, so name one")
        self._step = self._over
        return 0

    def _head(self) -> int:
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            if len(self._held) > _LONGEST_HEAD:
                raise Invalid("A part of the form has a head that is too long")
            return 0
        head = self._held[:end]
        if self._delimiter in head:
            raise Invalid("A part of the form has its boundary in its head")
        self._step = self._value if self._is_model(head.decode("latin-1")) else self._file
        return end + 4

    def _file(self) -> int:
        """Any part but the model."""
        at = self._end_of_part()
        return max(0, len(self._held) - len(self._delimiter) - 1) if at is None else at

    def _value(self) -> int:
        at = self._end_of_part()
        if at is None:
            if len(self._held) > _LONGEST_MODEL:
                raise Invalid("The form's 'model' is too long")
            return 0
        if self.model is not None:
            raise Invalid("The form has more than one 'model'; send it once")
        try:
            self.model = self._held[: at - 2].decode()
        except UnicodeDecodeError:
            raise Invalid("The form's 'model' is not UTF-8") from None
        self._check(self.model)
        return at

    def _over(self) -> int:
        """The end, which stays here until all has come."""
        return 0

    def _end_of_part(self) -> int | None:
        """Where the line of the next delimiter begins."""
        at = self._held.find(self._delimiter)
        if at < 0:
            return None
        if self._held[max(0, at - 2) : at] != b"\r\n":
            raise Invalid("The form has its boundary where no part ends")
        self._step = self._delimited
        return at

    def _is_model(self, head: str) -> bool:
        headers: dict[str, str] = {}
        for line in head.split("\r\n"):
            match = _HEADER.fullmatch(line)
            if match is None or match[1].lower() in headers:
                raise Invalid("A part of the form has a head that can be read in two ways")
            headers[match[1].lower()] = match[2].strip()
        name = _name(headers.get("content-disposition", ""))
        kind = headers.get("content-type", "")
        if kind.lower().startswith("multipart/"):
            raise Invalid("A part of the form is a form itself")
        if name != "model":
            if unquote(name).strip().casefold().partition("[")[0].strip() == "model":
                raise Invalid("The form has a field whose name is nearly 'model'; remove it")
            return False
        encoding = headers.get("content-transfer-encoding", "").lower()
        if (kind and not _PLAIN_TYPE.fullmatch(kind)) or encoding not in _AS_IT_IS:
            raise Invalid("The form's 'model' must be plain text in UTF-8")
        return True


def _name(disposition: str) -> str:
    """The name of a part."""
    kind, semicolon, rest = disposition.partition(";")
    parameters = {}
    text = semicolon + rest
    at = 0
    while match := _PARAMETER.match(text, at):
        key = match[1].lower()
        if key in parameters or key not in {"name", "filename", "filename*"}:
            break
        parameters[key] = match[2] if match[2] is not None else match[3]
        at = match.end()
    if kind.strip().lower() != "form-data" or at != len(text) or "name" not in parameters:
        raise Invalid("A part of the form does not say its name in a way that all readers understand")
    return parameters["name"]
