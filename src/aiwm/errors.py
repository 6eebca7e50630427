"""One tree of errors, each with the HTTP status it is answered with.

* AiwmError                     500 Internal Server Error
  x Invalid                     400  the caller sent something we cannot accept
    + WrongState                400  the thing is not in the state the verb needs
  x Unauthorized                401
  x Forbidden                   403  known, but not allowed
  x NotFound                    404  not there, or another organization's: the caller cannot tell
  x MethodNotAllowed            405
  x RequestTimeout              408  the caller did not send the rest of its request
  x Conflict                    409
  x BodyTooLarge                413
  x UnsupportedMediaType        415
  x Misdirected                 421  it was meant for another host
  x TooManyRequests             429
  x Unavailable                 503  the database is locked or away: try again
  x UpstreamError               502  the provider failed before the status line of its answer
    + UpstreamUnreachable       502  no connection, or it broke before a status line
    + UpstreamTimeout           504
  x AnswerBroken                502  the provider failed after its status line: only closing is left
  x ClientGone                  499  nobody is left to answer

* FetchFailed                  not answered: a model's files did not come; its `errorMessage` is the text
* StartError                    not answered: the program cannot start; one line, exit code 2

A provider's own error answer is not in this tree: it is a response, and is relayed untouched.
Rendering is done in one place, `aiwm.web.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import ClassVar


class AiwmError(Exception):
    """Base of everything a caller can be told.

    `message` goes to the caller as it is: it names the state and the remedy and holds no secret.
    A validation error carries a list of texts, one for each field.
    """

    status: ClassVar[int] = HTTPStatus.INTERNAL_SERVER_ERROR
    default: ClassVar[str] = "Something went wrong in the gateway; the log has the details under this correlation id"

    def __init__(self, message: str | Sequence[str] | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        self.message: str | list[str] = (
            self.default if message is None else message if isinstance(message, str) else list(message)
        )
        self.headers: dict[str, str] = dict(headers or {})
        super().__init__(self.message if isinstance(self.message, str) else "; ".join(self.message))


class Invalid(AiwmError):
    status = HTTPStatus.BAD_REQUEST
    default = "The request is not valid"


class WrongState(Invalid):
    pass


class Unauthorized(AiwmError):
    status = HTTPStatus.UNAUTHORIZED
    default = "Unauthorized"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message, headers={"www-authenticate": "Bearer"})


class Forbidden(AiwmError):
    status = HTTPStatus.FORBIDDEN
    default = "Forbidden"


class NotFound(AiwmError):
    status = HTTPStatus.NOT_FOUND
    default = "Not found"


class MethodNotAllowed(AiwmError):
    status = HTTPStatus.METHOD_NOT_ALLOWED
    default = "Method not allowed"


class RequestTimeout(AiwmError):
    status = HTTPStatus.REQUEST_TIMEOUT
    default = "The request did not come in time"


class Conflict(AiwmError):
    status = HTTPStatus.CONFLICT
    default = "Conflict"


class BodyTooLarge(AiwmError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    default = "The request body is too large"


class UnsupportedMediaType(AiwmError):
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    default = "Send the body as application/json"


class Misdirected(AiwmError):
    status = HTTPStatus.MISDIRECTED_REQUEST
    default = "Not known under this host"


class TooManyRequests(AiwmError):
    status = HTTPStatus.TOO_MANY_REQUESTS
    default = "Too many requests"

    def __init__(self, message: str | None = None, *, retry_after: int) -> None:
        """`retry_after` is in whole seconds."""
        super().__init__(message, headers={"retry-after": str(retry_after)})


class Unavailable(AiwmError):
    status = HTTPStatus.SERVICE_UNAVAILABLE
    default = "The database is not available; try again"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message, headers={"retry-after": "1"})


class UpstreamError(AiwmError):
    """The provider gave no answer. `reached` says whether any byte of the request had gone out to it."""

    status = HTTPStatus.BAD_GATEWAY
    default = "AI provider is unreachable"

    def __init__(self, message: str | None = None, *, reached: bool = False) -> None:
        super().__init__(message)
        self.reached = reached


class UpstreamUnreachable(UpstreamError):
    pass


class UpstreamTimeout(UpstreamError):
    status = HTTPStatus.GATEWAY_TIMEOUT
    default = "Request to AI provider timed out"


class AnswerBroken(AiwmError):
    """The provider's answer ended before its end. `timed_out` when it fell silent, not when it broke off."""

    status = HTTPStatus.BAD_GATEWAY
    default = "AI provider broke off its answer"

    def __init__(self, message: str | None = None, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class ClientGone(AiwmError):
    status = 499  # nginx's code for it; it is only ever seen in logs.
    default = "The client closed the connection"


class FetchFailed(Exception):
    """The files of a model could not be fetched. The text says why and what to do."""


class StartError(Exception):
    """The program cannot start. The text is one line that says what to do; the exit code is 2."""
