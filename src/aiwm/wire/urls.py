"""From a model's base URL and the path a caller sent to the target of the request for the provider.

Both may be hostile. A path is judged as the most generous reader behind us might decode it, and passed on as it came.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import unquote_to_bytes

from aiwm.errors import Invalid
from aiwm.wire.origins import Origin

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class BaseUrl:
    origin: Origin
    path: str
    """Empty, or as in `/v1`: never a slash at its end."""
    host_header: bytes


# --- the base ------------------------------------------------------------------------------------------------

_URL = re.compile(r"(?P<scheme>[^:/]+)://(?P<authority>[^/]*)(?P<path>.*)", re.DOTALL)
_AUTHORITY = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>.*))?")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


def base_url(text: str) -> BaseUrl:
    """Reads the base URL of a provider's API."""
    if not text.isprintable() or any(char.isspace() or char == "\\" for char in text):
        raise Invalid("The URL must not contain whitespace, control characters or backslashes")
    if "?" in text or "#" in text:
        raise Invalid("The URL must have no query and no fragment")
    parts = _URL.fullmatch(text)
    if parts is None or (scheme := parts["scheme"].lower()) not in _DEFAULT_PORTS:
        raise Invalid("The URL must begin with http:// or https://")
    if "@" in parts["authority"]:
        raise Invalid("The URL must have no user name and no password in it")
    authority = _AUTHORITY.fullmatch(parts["authority"])
    if authority is None:
        raise Invalid("The URL's host is not valid; an IPv6 address stands in brackets")
    port = _DEFAULT_PORTS[scheme] if authority["port"] is None else _port(authority["port"])
    host = _name(authority["name"]) if authority["v6"] is None else _v6(authority["v6"])
    _check_path(parts["path"][1:].encode())
    shown = f"[{host}]" if ":" in host else host
    header = shown if port == _DEFAULT_PORTS[scheme] else f"{shown}:{port}"
    return BaseUrl(Origin(scheme, host, port), parts["path"].removesuffix("/"), header.encode())


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise Invalid("The URL's port must be a number from 1 to 65535")
    return int(text)


def _v6(text: str) -> str:
    try:
        # A zone is a name of one machine's interface; it has no business in a URL.
        address = IPv6Address(text) if "%" not in text else None
    except AddressValueError:
        address = None
    if address is None:
        raise Invalid("The URL's host is not a valid IPv6 address")
    return str(address)


def _name(text: str) -> str:
    if not text:
        raise Invalid("The URL must name a host")
    try:
        name = text.lower() if text.isascii() else text.encode("idna").decode().lower()
        if _NUMERIC.fullmatch(name):
            # `127.1` and `0x7f000001` are addresses to some resolvers and names to others.
            name = str(IPv4Address(name))
    except (UnicodeError, AddressValueError) as exc:
        raise Invalid("The URL's host is not a valid name or address") from exc
    if not _NAME.fullmatch(name):
        raise Invalid("The URL's host is not a valid name or address")
    return name


# --- the target of a request ---------------------------------------------------------------------------------

_PLAIN = re.compile(rb"(?:[A-Za-z0-9_:-]++(?:\.[A-Za-z0-9_:-]++)*+(?:/|\Z))*+")
_RAW_REFUSED = re.compile(rb"[\x00-\x20\x7f-\xff#?\\]")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_DECODED_REFUSED = re.compile(rb"[\x00-\x1f\x7f\\]")
_QUERY_REFUSED = re.compile(rb"[\x00-\x20\x7f#]")
_LAYERS = 8
_VERSION = re.compile(r"v[0-9]+[a-z0-9]*")


def request_target(base: BaseUrl, path: bytes, query: bytes) -> bytes:
    """The target for the request line. `path` is percent-encoded as the client sent it, without a slash before it."""
    if not _PLAIN.fullmatch(path):
        _check_path(path)
    prefix, parent, version = _joints(base.path)
    if (path + b"/").startswith(version):
        prefix = parent
    if not query:
        return prefix + path
    if _QUERY_REFUSED.search(query):
        raise Invalid("The query must not contain spaces, control characters or '#'; percent-encode them")
    return prefix + path + b"?" + query


@lru_cache(maxsize=1024)
def _joints(base: str) -> tuple[bytes, bytes, bytes]:
    """What a path is put behind: the base, or its parent if the path begins with the base's own version."""
    parent, _, last = base.rpartition("/")
    if _VERSION.fullmatch(last):
        return f"{base}/".encode(), f"{parent}/".encode(), f"{last}/".encode()
    return f"{base}/".encode(), f"{base}/".encode(), b"/"


def _check_path(path: bytes) -> None:
    """Refuses what might leave the base path, or be another path, in the eyes of some reader."""
    if _RAW_REFUSED.search(path):
        raise Invalid(
            "The path must not contain spaces, control characters, backslashes, '?', '#' or characters beyond ASCII;"
            " percent-encode them"
        )
    if _BROKEN_ESCAPE.search(path):
        raise Invalid("The path has a percent sign that is not followed by two hexadecimal digits")
    decoded = _decoded(path)
    if _DECODED_REFUSED.search(decoded):
        raise Invalid("The path must not contain encoded control characters or backslashes")
    names = [segment.partition(b";")[0] for segment in decoded.removesuffix(b"/").split(b"/")]
    if b"." in names or b".." in names:
        raise Invalid("The path must not contain '.' or '..' segments")
    if b"" in names and decoded:
        raise Invalid("The path must not contain empty segments")


def _decoded(path: bytes) -> bytes:
    """The path decoded until nothing is left to decode."""
    for _ in range(_LAYERS):
        decoded = unquote_to_bytes(path)
        if decoded == path:
            break
        path = decoded
    else:
        raise Invalid("The path is percent-encoded too many times")
    try:
        path.decode()
    except UnicodeDecodeError:
        # An overlong encoding of a dot or a slash is one to a careless reader.
        raise Invalid("The path's percent-encoded bytes are not UTF-8") from None
    return path
