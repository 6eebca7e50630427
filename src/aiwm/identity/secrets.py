"""Secrets at rest: sealed with the newest key, opened with whichever key sealed them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from aiwm.domain.models import Sealed
from aiwm.errors import AiwmError, StartError
from aiwm.logs import Log
from aiwm.wire.masking import masked

_log = Log(__name__)


class SecretBox:
    def __init__(self, keys: Sequence[str], *, news: Callable[[], Sequence[str] | None] = lambda: None) -> None:
        """`keys` are Fernet keys, newest first. Raises StartError for what is none, without quoting it.

        `news` is asked before each use, and answers all keys when they are others than before: so that a program
        that runs uses a new key as soon as it is there.
        """
        self._news = news
        self._newest, self._all = _fernets(keys)

    def seal(self, text: str) -> Sealed:
        self._look()
        return Sealed(token=self._all.encrypt(text.encode()).decode("ascii"), masked=masked(text))

    def open(self, sealed: Sealed) -> str:
        """Raises AiwmError when none of the keys opens it."""
        self._look()
        try:
            return self._all.decrypt(sealed.token).decode()
        except (InvalidToken, ValueError):
            raise AiwmError(
                f"The stored key {sealed.masked} can't be decrypted: give it again, or restore the encryption keys"
            ) from None

    def anew(self, sealed: Sealed) -> Sealed:
        """The same secret sealed with the newest key; `sealed` itself if it is already. Raises like `open`."""
        text = self.open(sealed)
        try:
            self._newest.decrypt(sealed.token)
        except InvalidToken:
            return self.seal(text)
        return sealed

    def _look(self) -> None:
        try:
            found = self._news()
            if found is not None:
                self._newest, self._all = _fernets(found)
        except StartError as error:
            _log.error("the encryption keys can't be read anew; those of before stay", reason=str(error))


def _fernets(keys: Sequence[str]) -> tuple[Fernet, MultiFernet]:
    """The newest, and all of them."""
    try:
        fernets = [Fernet(key) for key in keys]
        return fernets[0], MultiFernet(fernets)
    except (ValueError, IndexError):
        raise StartError(
            "an encryption key is not a Fernet key (32 bytes in URL-safe base64): "
            "check AIWM_ENCRYPTION_KEYS or the file of the data directory"
        ) from None
