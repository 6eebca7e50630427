"""The way of a command to the AIWM that runs on this machine: over its port, as the user `admin`.

Who may read the key that tokens are signed with is the operator; so no password is asked for, and the token is made
here. Errors of AIWM become lines for people.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import httpx2

from aiwm.domain import times
from aiwm.domain.ids import new_id
from aiwm.domain.users import User
from aiwm.errors import StartError, Unavailable
from aiwm.identity.signatures import embedded
from aiwm.identity.tokens import TokenSigner
from aiwm.settings import DATABASE, Settings
from aiwm.store.database import Database
from aiwm.store.users import UserStore

ADMIN = "admin"
_SECONDS = 30.0
_PAGE = 100


class Refused(Exception):
    """AIWM answered with an error; the text is its message."""


def is_running(settings: Settings) -> bool:
    """Whether an AIWM answers on the port that is set."""
    try:
        return httpx2.get(f"{settings.at_port(settings.port)}/healthz", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


class Operator:
    def __init__(self, settings: Settings) -> None:
        """Raises StartError when nobody can be on this machine who AIWM would know."""
        if settings.jwks_url:
            raise StartError("this command needs the embedded IAM: unset AIWM_JWKS_URL, or call AIWM's API instead")
        if not settings.database_url and not (settings.data_dir / DATABASE).exists():
            raise StartError(f"no AIWM has ever run in {settings.data_dir}: set AIWM_DATA_DIR as it is started with")
        secret = settings.jwt_secret
        self._settings = settings
        self._signer = TokenSigner(
            embedded(settings.data_dir, None if secret is None else secret.get_secret_value()),
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            lifetime_seconds=settings.access_token_seconds,
            clock=times.now,
        )
        self._admin = asyncio.run(_admin(settings))
        self._http = httpx2.Client(base_url=settings.at_port(settings.port), timeout=_SECONDS)
        self._token, self._made_at = "", 0.0

    @property
    def token(self) -> str:
        """Good for half of its time at least."""
        now = time.monotonic()
        if not self._token or now - self._made_at > self._signer.lifetime_seconds / 2:
            self._token, self._made_at = self._signer.sign(self._admin, new_id()), now
        return self._token

    def get(self, path: str, **query: str | int) -> Any:
        return self._call("GET", path, params=query)

    def all(self, path: str) -> list[dict[str, Any]]:
        """Every thing of a list, page by page."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.get(path, limit=_PAGE, page=len(found) // _PAGE + 1)
            found += page["data"]
            if len(found) >= page["pagination"]["total"] or not page["data"]:
                return found

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._call("POST", path, json=body)

    @contextmanager
    def streaming(self, url: str, body: Mapping[str, Any]) -> Iterator[Iterator[str]]:
        """The lines of an answer that is streamed; nothing limits how long an engine may think."""
        with (
            _translated(self._settings),
            self._http.stream(
                "POST", url, json=body, headers=self._headers(), timeout=httpx2.Timeout(_SECONDS, read=None)
            ) as answer,
        ):
            if answer.status_code >= 400:
                answer.read()
                raise Refused(_message(answer))
            yield answer.iter_lines()

    @contextmanager
    def reading(self, path: str) -> Iterator[Iterator[str]]:
        """The text of an answer as it comes, which may be never."""
        timeout = httpx2.Timeout(_SECONDS, read=None)
        with (
            _translated(self._settings),
            self._http.stream("GET", path, headers=self._headers(), timeout=timeout) as answer,
        ):
            if answer.status_code >= 400:
                answer.read()
                raise Refused(_message(answer))
            yield answer.iter_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def _call(self, method: str, path: str, **request: Any) -> Any:
        with _translated(self._settings):
            answer = self._http.request(method, path, headers=self._headers(), **request)
        if answer.status_code == 401:
            raise StartError(
                f"the AIWM at {self._http.base_url} does not know this user: set AIWM_DATA_DIR (and AIWM_JWT_SECRET) "
                "as it was started with"
            )
        if answer.status_code >= 400:
            raise Refused(_message(answer))
        return answer.json()

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@contextmanager
def _translated(settings: Settings) -> Iterator[None]:
    try:
        yield
    except httpx2.TransportError as error:
        raise StartError(
            f"the AIWM at {settings.at_port(settings.port)} does not answer ({error}): start it with `aiwm serve`"
        ) from error


async def _admin(settings: Settings) -> User:
    database = Database(settings.effective_database_url, must_exist=True)
    try:
        admin = await UserStore(database).by_username(ADMIN)
    except Unavailable as error:
        raise StartError(f"the database can't be read: {error}") from error
    finally:
        await database.aclose()
    if admin is None:
        raise StartError(
            f"there is no user '{ADMIN}' in {settings.data_dir}: set AIWM_DATA_DIR as AIWM is started with"
        )
    return admin


def _message(answer: httpx2.Response) -> str:
    try:
        message = answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.reason_phrase}: {answer.text[:500]}"
    return "; ".join(message) if isinstance(message, list) else str(message)
