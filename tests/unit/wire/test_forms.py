"""wire/forms.py: the model that a form asks for, found on the way, and nothing that readers could disagree about."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator

import pytest

from aiwm.errors import Invalid
from aiwm.wire.forms import ModelInForm

TYPE = b"multipart/form-data; boundary=cut"
MODEL = b'Content-Disposition: form-data; name="model"\r\n\r\ngood'
FILE = (
    b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    b"RIFF\r\n--cu\r\n-cut\n--\r\n"
)


def form(*parts: bytes, boundary: bytes = b"cut", end: bytes = b"--\r\n") -> bytes:
    return b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts) + b"--" + boundary + end


def check(model: str) -> None:
    if model != "good":
        raise Invalid(f"{model} is not allowed")


def read(body: bytes, content_type: bytes = TYPE) -> str | None:
    return ModelInForm(content_type, check=check).whole(body)


@pytest.mark.parametrize(
    "body",
    [
        form(MODEL),
        form(MODEL, end=b"--"),
        form(FILE, MODEL, FILE),
        form(MODEL, FILE),
        form(b"content-disposition:form-data;name=model\r\n\r\ngood"),
        form(b"Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model\r\n\r\ngood"),
        form(MODEL, b"Content-Disposition: form-data; name=\"file\"; filename=a; filename*=utf-8''a\r\n\r\n"),
    ],
)
def test_the_model_is_found_as_clients_write_it(body: bytes) -> None:
    assert read(body) == "good"


@pytest.mark.parametrize(
    "content_type",
    [
        b'multipart/form-data; boundary="cut"',
        b"Multipart/Form-Data;boundary=cut",
        b"multipart/form-data;  BOUNDARY=cut",
    ],
)
def test_types_as_clients_write_them(content_type: bytes) -> None:
    assert read(form(MODEL), content_type) == "good"


@pytest.mark.parametrize(
    "content_type",
    [b"", b"multipart/form-data", b"multipart/mixed; boundary=cut", b"multipart/form-data; boundary=",
     b"multipart/form-data; boundary=cut; boundary=x", b'multipart/form-data; boundary="cut',
     b"multipart/form-data; boundary=cut, text/plain", b"multipart/form-data; charset=x; boundary=cut",
     b"multipart/form-data; boundary=" + b"x" * 71, b'multipart/form-data; boundary="c\\ut"', b"application/json"],
)  # fmt: skip
def test_any_other_type_is_refused(content_type: bytes) -> None:
    with pytest.raises(Invalid, match="Content-Type must be"):
        read(form(MODEL), content_type)


def named(disposition: bytes, value: bytes = b"bad", headers: bytes = b"") -> bytes:
    return b"Content-Disposition: %b\r\n%b\r\n%b" % (disposition, headers, value)


def _passed(body: bytes, size: int) -> Iterator[bytes]:
    """What of a form that is refused has gone on."""
    watch = ModelInForm(TYPE, check=check)
    try:
        for start in range(0, len(body), size):
            yield watch.feed(body[start : start + size])
        watch.finish()
    except Invalid:
        return
    raise AssertionError("it was not refused")


@pytest.mark.parametrize(
    "body",
    [
        form(named(b'form-data; name="model"')),
        form(MODEL, MODEL),
        form(MODEL, named(b'form-data; name="model"')),
        form(FILE),
        form(MODEL, named(b'form-data; name="Model"')),
        form(MODEL, named(b'form-data; name=" model"')),
        form(MODEL, named(b'form-data; name="%6dodel"')),
        form(MODEL, named(b'form-data; name="model[]"')),
        form(MODEL, named(b'form-data; name="mo\\del"')),
        form(MODEL, named(b'form-data; name="x"; name="model"')),
        form(MODEL, named(b'form-data; name="x"; filename="a\\"; name=\\"model"')),
        form(MODEL, named(b"form-data; name*=utf-8''model")),
        form(MODEL, named(b'form-data; name="x" name="model"')),
        form(MODEL, named(b"form-data")),
        form(MODEL, named(b'attachment; name="model"')),
        form(MODEL, b"X: y\r\n\r\nbad"),
        form(MODEL, b"\r\nbad"),
        form(MODEL, named(b'form-data; name="x"', headers=b'Content-Disposition: form-data; name="model"\r\n')),
        form(MODEL, named(b'form-data; name="x"', headers=b"X: a\r\n b\r\n")),
        form(MODEL, named(b'form-data; name="x"', headers=b"X: a\nContent-Disposition: form-data; name=model\r\n")),
        form(MODEL, named(b'form-data; name="x"', headers=b"Content-Type: multipart/mixed; boundary=y\r\n")),
        form(named(b'form-data; name="model"', b"Z29vZA==", b"Content-Transfer-Encoding: base64\r\n")),
        form(named(b'form-data; name="model"', b"good", b"Content-Type: text/plain; charset=utf-16\r\n")),
        form(named(b'form-data; name="model"', b"\xff")),
        form(named(b'form-data; name="model"', b"g" * 2000)),
        form(named(b'form-data; name="model"', b"good\n--cut\n")),
        b"preamble\r\n" + form(MODEL),
        b"\r\n" + form(MODEL),
        form(MODEL, end=b"-- \r\n"),
        form(MODEL) + form(named(b'form-data; name="model"')),
        form(MODEL) + b"epilogue",
        form(MODEL, end=b""),
        form(MODEL, end=b"-"),
        form(MODEL, b"X: " + b"y" * 20_000),
        form(FILE + b"\n--cut\n" + named(b'form-data; name="model"'), MODEL),
        form(FILE + b"\r\n--cut \r\n" + named(b'form-data; name="model"'), MODEL),
        form(FILE + b"\r\n--cut2\r\n" + named(b'form-data; name="model"'), MODEL),
        form(MODEL).replace(b"\r\n", b"\n"),
        b"",
        b'{"model":"good"}',
    ],
)
def test_what_readers_could_disagree_about_and_every_other_model_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid):
        read(body)
    for size in (1, 3, 7):
        passed = b"".join(_passed(body, size))
        # Nobody behind us has a whole form, nor the model that was refused.
        assert not passed.endswith((b"--cut--", b"--cut--\r\n"))
        assert body.startswith(passed)
        assert b"bad" not in passed or b'name="model"\r\n\r\nbad' not in passed


async def _pieces(body: bytes, cuts: random.Random) -> AsyncIterator[bytes]:
    at = 0
    while at < len(body):
        size = cuts.choice((1, 2, 5, 100, 5000))
        yield body[at : at + size]
        at += size


@pytest.mark.parametrize("seed", range(20))
async def test_a_good_form_goes_on_byte_for_byte_however_it_is_cut(seed: int) -> None:
    cuts = random.Random(seed)
    noise = cuts.randbytes(20_000).replace(b"--cut", b"") + b"\r\n--cu"
    body = form(FILE, named(b'form-data; name="file"', noise), MODEL, FILE)
    watch = ModelInForm(TYPE, check=check)
    assert b"".join([piece async for piece in watch.watched(_pieces(body, cuts))]) == body
    assert watch.model == "good"


def test_a_large_file_is_not_kept() -> None:
    watch = ModelInForm(TYPE, check=check)
    watch.feed(form(MODEL, FILE, end=b"")[: -len(b"--cut")])
    for _ in range(100):
        assert len(watch.feed(b"x" * 10_000)) >= 9_990
