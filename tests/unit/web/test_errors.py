"""web/errors.py: every error is one shape."""

from __future__ import annotations

import inspect
import json
from datetime import datetime
from http import HTTPStatus

import pytest

from aiwm import errors
from aiwm.errors import AiwmError, Invalid, TooManyRequests, Unauthorized
from aiwm.web.errors import render

KINDS = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, AiwmError)]


def _made(kind: type[AiwmError]) -> AiwmError:
    return TooManyRequests(retry_after=7) if kind is TooManyRequests else kind()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_is_rendered_in_one_shape(kind: type[AiwmError]) -> None:
    status, headers, body = render(_made(kind), path="/models", correlation_id="c-1")
    told = json.loads(body)
    assert list(told) == ["statusCode", "message", "error", "timestamp", "path", "correlationId"]
    assert told["statusCode"] == status == kind.status
    assert told["error"] == ("Client Closed Request" if status == 499 else HTTPStatus(status).phrase)
    assert told["message"]
    assert (told["path"], told["correlationId"]) == ("/models", "c-1")
    assert datetime.fromisoformat(told["timestamp"]).utcoffset() is not None
    assert dict(headers)[b"x-aiwm-error"] == b"gateway"
    assert dict(headers)[b"content-length"] == str(len(body)).encode()
    assert dict(headers)[b"content-type"] == b"application/json; charset=utf-8"


def test_headers_of_an_error_are_sent() -> None:
    assert (b"www-authenticate", b"Bearer") in render(Unauthorized(), path="", correlation_id="")[1]
    assert (b"retry-after", b"7") in render(TooManyRequests(retry_after=7), path="", correlation_id="")[1]


def test_several_problems_are_a_list() -> None:
    body = render(Invalid(["name: is required", "type: is required"]), path="", correlation_id="")[2]
    assert json.loads(body)["message"] == ["name: is required", "type: is required"]


def test_a_path_from_anybody_can_be_told() -> None:
    body = render(Invalid("x"), path='/a"\x00\x1b\u2028\ufffd', correlation_id="")[2]
    assert json.loads(body)["path"] == '/a"\x00\x1b\u2028\ufffd'
