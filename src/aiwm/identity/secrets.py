"""Secrets at rest: sealed with the newest key, opened with whichever key sealed them."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from aiwm.domain.models import Sealed
from aiwm.errors import AiwmError, StartError
from aiwm.wire.masking import masked


class SecretBox:
    def __init__(self, keys: Sequence[str]) -> None:
        """`keys` are Fernet keys, newest first. Raises StartError for what is none, without quoting it."""
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise StartError(
                "an encryption key is not a Fernet key (32 bytes in URL-safe base64): "
                "check AIWM_ENCRYPTION_KEYS or the file of the data directory"
            ) from None

    def seal(self, text: str) -> Sealed:
        return Sealed(token=self._fernet.encrypt(text.encode()).decode("ascii"), masked=masked(text))

    def open(self, sealed: Sealed) -> str:
        """Raises AiwmError when none of the keys opens it."""
        try:
            return self._fernet.decrypt(sealed.token).decode()
        except (InvalidToken, ValueError):
            raise AiwmError(
                f"The stored key {sealed.masked} can't be decrypted: give it again, or restore the encryption keys"
            ) from None
