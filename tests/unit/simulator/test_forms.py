from __future__ import annotations

import pytest

from aiwm.simulator import forms
from aiwm.simulator.forms import Part

BODY = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a b.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    b"\r\n--\x00\r\n\r\n\r\n--b--\r\n"
)


@pytest.mark.parametrize(
    "content_type", [b"multipart/form-data; boundary=b", b'Multipart/Form-Data; x=1; boundary="b"']
)
def test_parts_are_found_byte_for_byte(content_type: bytes) -> None:
    assert forms.parts(content_type, BODY) == {
        "model": Part(b"whisper-1"),
        "file": Part(b"\r\n--\x00\r\n\r\n", "a b.wav"),
    }


@pytest.mark.parametrize("content_type", [b"", b"application/json", b"multipart/form-data"])
def test_other_bodies_are_no_form(content_type: bytes) -> None:
    assert forms.parts(content_type, BODY) is None


@pytest.mark.parametrize("body", [b"", b"--b", b"--b--", b"--b\r\n\r\nx\r\n--b--", b"junk", BODY[:60]])
def test_broken_forms_have_no_parts(body: bytes) -> None:
    assert forms.parts(b"multipart/form-data; boundary=b", body) == {}
