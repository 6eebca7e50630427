"""Puts the deployed model into a request's JSON body, and the question for usage; every other byte stays as it was.

Decoding and encoding again would lose what the caller wrote: large integers, floats, duplicate keys, escapes, spaces.
So the body is decoded only to know what is in it, and bytes are cut in where they belong.
"""

from __future__ import annotations

import re

import msgspec

from aiwm.errors import Invalid


class Spliced(msgspec.Struct, frozen=True, gc=False):
    body: bytes
    model: str | None
    """The model `body` asks for; None if we cannot tell."""
    is_object: bool
    stream: bool
    asks_usage: bool = False
    """Whether `body` asks for a stream's usage and the caller's did not."""


def with_model(
    body: bytes,
    *,
    model: str,
    aliases: frozenset[str],
    allowed: frozenset[str] | None = None,
    stream_usage: bool = False,
) -> Spliced:
    """The body with `model` where it names none, or names the deployment (`aliases`) instead of a model.

    With `allowed`, only these models and `model` itself may be asked for, and whoever reads the body behind us must
    read the same model in it as we do.

    With `stream_usage`, a body that asks for a stream and not for its usage asks for that too
    (`stream_options.include_usage`), unless its `stream_options` are none that we can read.
    """
    head = _head(body)
    if head is None:
        if allowed is not None:
            raise Invalid(f"The body must be a JSON object: {_allowed_text(model, allowed)}")
        return Spliced(body, None, is_object=False, stream=False)
    # A model that is not found at all is not there twice.
    if not isinstance(head.model, msgspec.UnsetType) and _may_repeat(body) and len(_own_values(body, _EXACT)) > 1:
        raise Invalid("The body has more than one 'model'; send it once")
    if allowed is not None and _own_values(body, _OTHER_CASE):
        # Go's JSON decoder, and so many a server, takes "Model" for "model".
        raise Invalid("The body has a key that differs from 'model' only in upper and lower case; remove it")
    asked: str | None = model
    first: list[bytes] = []
    cuts: list[_Cut] = []
    if isinstance(head.model, msgspec.UnsetType):
        first.append(b'"model":' + _encoded(model))
    else:
        asked = _text(head.model)
        if asked in aliases:
            (start,) = _own_values(body, _EXACT)
            cuts.append((start, start + len(bytes(head.model)), _encoded(model)))
            asked = model
    if allowed is not None and asked != model and asked not in allowed:
        what = "The body's 'model' must be a text" if asked is None else f"Model {_quoted(asked)} is not allowed"
        raise Invalid(f"{what}: {_allowed_text(model, allowed)}")
    asks_usage = stream_usage and _ask(body, head, first, cuts)
    return Spliced(
        _spliced(body, first, cuts), asked, is_object=True, stream=head.stream == _TRUE, asks_usage=asks_usage
    )


def with_stream_usage(body: bytes) -> Spliced:
    """The body of a request that names its model elsewhere, asking for its stream's usage as `with_model` does."""
    head = _head(body)
    if head is None:
        return Spliced(body, None, is_object=False, stream=False)
    first: list[bytes] = []
    cuts: list[_Cut] = []
    asks_usage = _ask(body, head, first, cuts)
    return Spliced(
        _spliced(body, first, cuts), None, is_object=True, stream=head.stream == _TRUE, asks_usage=asks_usage
    )


# --- reading ---------------------------------------------------------------------------------------------------


class _Head(msgspec.Struct):
    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    stream: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    stream_options: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _StreamOptions(msgspec.Struct):
    include_usage: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_options = msgspec.json.Decoder(_StreamOptions).decode
_decode_values = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_TRUE = msgspec.Raw(b"true")
_NOT_ASKED = (b"false", b"null")


def _head(body: bytes) -> _Head | None:
    """What we need of a JSON object; None for everything else."""
    try:
        head = _decode_head(body)
        if not body.isascii():
            # msgspec does not look into strings it skips.
            body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return head


def _text(value: msgspec.Raw) -> str | None:
    try:
        return _decode_text(value)
    except msgspec.DecodeError:
        return None


# --- finding `model` -------------------------------------------------------------------------------------------
# In valid JSON a quote after `{`, `,` or a space is not escaped, so it opens or closes a string; and what follows a
# closing quote is never a letter or a backslash. So such a quote followed by `model":` opens a key, at some depth.
# What is before it is looked at last because a pattern that begins with plain text is searched for much faster.


def _letters(name: str) -> str:
    return "".join(rf"(?:{char}|\\u00(?i:{ord(char):x}))" for char in name)


def _key(name: str) -> re.Pattern[bytes]:
    return re.compile(rf'"(?<=[{{,\s]"){_letters(name)}"\s*:\s*'.encode())


_LETTERS = _letters("model")
_ANY_CASE = "".join(rf"(?:(?i:{char})|\\u00(?:(?i:{ord(char):x})|(?i:{ord(char.upper()):x})))" for char in "model")
_EXACT = _key("model")
_STREAM_OPTIONS = _key("stream_options")
_INCLUDE_USAGE = _key("include_usage")
_OTHER_CASE = re.compile(rf'"(?<=[{{,\s]")(?!{_LETTERS}"){_ANY_CASE}"\s*:\s*'.encode())
_MODEL = b'"model"'
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def _may_repeat(body: bytes) -> bool:
    """Whether a closer look is needed: cheap, because nearly always it is not."""
    if b"\\u006" in body:
        return True
    if body.find(_MODEL) == body.rfind(_MODEL):
        return False
    # Of the rest, most are explained by what is inside the object's values.
    inside = sum(bytes(value).count(_MODEL) for value in _decode_values(body).values())
    return body.count(_MODEL) - inside > 1


def _own_values(body: bytes, pattern: re.Pattern[bytes]) -> list[int]:
    """Where the values of the object's own keys begin, of those that `pattern` finds. `body` is valid JSON."""
    own: list[int] = []
    depth = at = 0
    for match in pattern.finditer(body):
        depth += _depth_change(body[at : match.start()])
        at = match.start()
        if depth == 1:
            own.append(match.end())
    return own


def _depth_change(part: bytes) -> int:
    """How much deeper the end of `part` is nested than its beginning; both are outside of strings."""
    bare = _STRING.sub(b"", part)
    return bare.count(b"{") + bare.count(b"[") - bare.count(b"}") - bare.count(b"]")


# --- writing ---------------------------------------------------------------------------------------------------

_encoded = msgspec.json.Encoder().encode
_EMPTY = re.compile(rb"\s*\}")
_ASKING = b'{"include_usage":true}'

_Cut = tuple[int, int, bytes]
"""From where to where, and what comes there instead."""


def _at_the_front(body: bytes, members: list[bytes]) -> _Cut:
    start = body.index(b"{") + 1
    comma = b"" if _EMPTY.match(body, start) else b","
    return start, start, b",".join(members) + comma


def _ask(body: bytes, head: _Head, first: list[bytes], cuts: list[_Cut]) -> bool:
    """Adds what makes the body ask for its stream's usage; False if it does, or is none that could."""
    if head.stream != _TRUE:
        return False
    if isinstance(head.stream_options, msgspec.UnsetType):
        first.append(b'"stream_options":' + _ASKING)
        return True
    cut = _asking(body, bytes(head.stream_options))
    if cut is None:
        return False
    cuts.append(cut)
    return True


def _asking(body: bytes, options: bytes) -> _Cut | None:
    """How the `stream_options` that are there come to ask; None if they do, or are not of a kind that could."""
    if options == b"null":
        cut: _Cut = (0, len(options), _ASKING)
    else:
        try:
            asked = _decode_options(options).include_usage
        except (msgspec.DecodeError, RecursionError):
            return None
        if isinstance(asked, msgspec.UnsetType):
            cut = _at_the_front(options, [b'"include_usage":true'])
        elif bytes(asked) not in _NOT_ASKED or (at := _only(options, _INCLUDE_USAGE)) is None:
            return None
        else:
            cut = (at, at + len(bytes(asked)), b"true")
    start = _only(body, _STREAM_OPTIONS)
    return None if start is None else (start + cut[0], start + cut[1], cut[2])


def _only(body: bytes, key: re.Pattern[bytes]) -> int | None:
    """Where the value of this key begins; None if the key is there twice, and who knows which of them counts."""
    places = _own_values(body, key)
    return places[0] if len(places) == 1 else None


def _spliced(body: bytes, first: list[bytes], cuts: list[_Cut]) -> bytes:
    """The body with these members before all others, and the cuts made."""
    if first:
        cuts = [*cuts, _at_the_front(body, first)]
    if not cuts:
        return body
    pieces: list[bytes | memoryview] = []
    at = 0
    for start, end, text in sorted(cuts):
        pieces += (body[at:start], text)
        at = end
    pieces.append(memoryview(body)[at:])
    return b"".join(pieces)


# --- saying ----------------------------------------------------------------------------------------------------


def _allowed_text(model: str, allowed: frozenset[str]) -> str:
    return f"this deployment allows {', '.join(map(_quoted, sorted(allowed | {model})))}"


def _quoted(name: str) -> str:
    return f'"{name}"' if len(name) <= 200 else f'"{name[:200]}…"'
