"""Where the files of a self-hosted model come from: a repository of the Hugging Face hub, or this server's own disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from aiwm.errors import Invalid

LOCAL_PREFIX = "file://"

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_REPOSITORY = re.compile(rf"({_NAME}(?:/{_NAME})?)(?:@([A-Za-z0-9][A-Za-z0-9._/+-]{{0,199}}))?")
_DEFAULT_REVISION = "main"

_WHAT_IT_MAY_BE = (
    "must be the name of a Hugging Face repository (organization/name, with @revision behind it or not) "
    "or file:// and an absolute path on the server"
)


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of a repository at a revision: the one named `file`, or what the model needs of them all."""

    repository: str
    revision: str
    file: str | None


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """A file or folder that is on this server already."""

    path: PurePosixPath


@dataclass(frozen=True, slots=True)
class Place:
    """What a model's row says about its files. Models with the same words share one download."""

    repository: str
    file_name: str | None = None
    path: str | None = None
    """Where they are already, when whoever registered the model said so."""

    def source(self) -> HubFiles | LocalFiles:
        """Raises Invalid, naming the field, for what can be neither a repository nor a path."""
        if self.file_name is not None:
            _check_relative(self.file_name)
        if self.path is not None:
            return self._local("downloadPath", self.path)
        if self.repository.startswith(LOCAL_PREFIX):
            return self._local("repository", self.repository.removeprefix(LOCAL_PREFIX))
        found = _REPOSITORY.fullmatch(self.repository)
        if found is None or not _is_repository(found[1]) or ".." in (found[2] or ""):
            raise Invalid([f"repository: {_WHAT_IT_MAY_BE}"])
        return HubFiles(found[1], found[2] or _DEFAULT_REVISION, self.file_name)

    def _local(self, field: str, path: str) -> LocalFiles:
        if not path.startswith("/") or "\0" in path:
            raise Invalid([f"{field}: must be an absolute path on the server"])
        return LocalFiles(PurePosixPath(path, self.file_name or ""))


def _is_repository(name: str) -> bool:
    return "--" not in name and ".." not in name and not name.endswith(".git")


def _check_relative(name: str) -> None:
    if name.startswith("/") or "\\" in name or not all(part not in {"", ".", ".."} for part in name.split("/")):
        raise Invalid(["fileName: must be a file's path inside the repository"])
