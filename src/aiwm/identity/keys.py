"""Key files of the data directory, made at the first start.

A file that is there is never written again, but for a new encryption key in front of the others. It appears whole or
not at all, so two programs that start at once end with one key: both write a file of their own, one of them gets the
name.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from cryptography.fernet import Fernet
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from aiwm.errors import StartError

SIGNING_KEY = "signing-key.pem"
ENCRYPTION_KEYS = "encryption-keys"
ADMIN_PASSWORD = "admin-password"  # noqa: S105  (the name of the file)

_KEY_BITS = 2048
_OTHERS = 0o077


def signing_key(directory: Path) -> RSAKey:
    """The RSA key that signs access tokens; its `kid` is the thumbprint of RFC 7638."""
    path = directory / SIGNING_KEY
    pem = _read_or_make(path, lambda: RSAKey.generate_key(_KEY_BITS, auto_kid=False).as_pem(private=True))
    try:
        key = RSAKey.import_key(pem)
    except (JoseError, ValueError, TypeError):
        raise StartError(f"{path} holds no RSA key in PEM: restore it from a backup, or remove it") from None
    if not key.is_private:
        raise StartError(f"{path} holds only a public key: restore the private one from a backup, or remove it")
    key.ensure_kid()
    return key


def encryption_keys(directory: Path) -> list[str]:
    """The Fernet keys that seal secrets, newest first: one on each line of the file."""
    path = directory / ENCRYPTION_KEYS
    return _lines(path, _read_or_make(path, lambda: Fernet.generate_key() + b"\n"))


def add_encryption_key(directory: Path) -> int:
    """Puts a new key in front and answers how many there are then. The others stay: they open what they sealed."""
    path = directory / ENCRYPTION_KEYS
    with _alone(directory):
        text = _read(path)
        if text is None:
            raise StartError(f"there is no {path}: set AIWM_DATA_DIR to the data directory of the program")
        keys = _lines(path, text)
        try:
            _write_over(path, b"".join(b"%b\n" % key for key in (Fernet.generate_key(), *map(str.encode, keys))))
        except OSError as error:
            _refuse("write", path, error)
    return len(keys) + 1


class EncryptionKeyFile:
    """The encryption keys while a program runs."""

    def __init__(self, directory: Path) -> None:
        """`keys` are those of this moment, the file made if there is none."""
        self.keys = encryption_keys(directory)
        self._path = directory / ENCRYPTION_KEYS
        # Not before the first look: the file may have been another one when it was read just now.
        self._stamp: object = None

    def news(self) -> list[str] | None:
        """All keys, if the file is not the one of the last look; raises StartError, once, when it can't be read."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        text = _read(self._path)
        if text is None:
            raise StartError(f"there is no {self._path} any more: restore it from a backup")
        return _lines(self._path, text)


def admin_password(directory: Path) -> str:
    """A random password for the first user. Kept before it is used, so that a crash in between loses nothing."""
    path = directory / ADMIN_PASSWORD
    password = _read_or_make(path, lambda: f"{secrets.token_urlsafe(18)}\n".encode()).decode("utf-8", "replace").strip()
    if not password:
        raise StartError(f"{path} is empty: remove it, or set AIWM_ADMIN_PASSWORD")
    return password


def make_directory(directory: Path) -> None:
    """The data directory, for this user only; one that is there keeps its mode."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(
            f"can't make the data directory {directory} ({error.strerror or error}): set AIWM_DATA_DIR to another place"
        ) from error


def _lines(path: Path, text: bytes) -> list[str]:
    keys = text.decode("ascii", "replace").split()
    if not keys:
        raise StartError(f"{path} is empty: restore it from a backup")
    return keys


def _stamp(path: Path) -> object:
    """Another one whenever the file is written over: another file gets its name."""
    try:
        found = path.stat()
    except OSError:
        return "missing"
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Of those who change a file of the directory, one after the other."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise StartError(f"can't read {directory} ({error.strerror or error}): set AIWM_DATA_DIR") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    found = _read(path)
    if found is not None:
        return found
    _publish(path, make())
    # Read back, because the file may be another program's that was quicker.
    found = _read(path)
    if found is None:
        raise StartError(f"{path} has disappeared while AIWM was starting: start it again")
    return found


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & _OTHERS:
                raise StartError(f"other users of this machine can read {path}: run `chmod 600 '{path}'`")
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        _refuse("read", path, error)


def _write_over(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write(draft, content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _flush_directory(path.parent)


def _publish(path: Path, content: bytes) -> None:
    """Gives `content` the name `path` unless something has it already; on disk when this returns."""
    make_directory(path.parent)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write(draft, content)
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        finally:
            draft.unlink()
        _flush_directory(path.parent)
    except OSError as error:
        _refuse("write", path, error)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse(verb: str, path: Path, error: OSError) -> NoReturn:
    raise StartError(f"can't {verb} {path}: {error.strerror or error}") from error
