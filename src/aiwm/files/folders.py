"""Model files that are on this server already: only below the folders that the operator opened for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiwm.domain.sources import LocalFiles
from aiwm.errors import Invalid


@dataclass(frozen=True, slots=True)
class Found:
    """What an engine can load: a file, or a folder of files."""

    path: Path
    size: int


class Folders:
    """`opened` are the folders; nothing outside of them is ever said to be there or not."""

    def __init__(self, opened: Sequence[Path]) -> None:
        self._opened = opened

    def find(self, source: LocalFiles) -> Found:
        """The files, all symbolic links followed. Reads the disk: not for the event loop.

        Raises Invalid; that text names no field.
        """
        if not self._opened:
            raise Invalid("no folder of this server is opened for models: the operator sets AIWM_MODEL_PATHS")
        try:
            return self._found(source)
        except OSError as error:
            raise Invalid(f"{error.filename} can't be read ({error.strerror})") from error
        except RuntimeError as error:
            raise Invalid(f"{source.path} is a link that leads to itself") from error

    def _found(self, source: LocalFiles) -> Found:
        roots = [folder.resolve() for folder in self._opened]
        path = Path(source.path).resolve()
        if not _below(path, roots):
            raise Invalid(f"{source.path} is not below a folder of AIWM_MODEL_PATHS")
        if path.is_file():
            return Found(path, path.stat().st_size)
        if not path.is_dir():
            raise Invalid(f"there is no file or folder {source.path} on this server")
        files = {file: file.resolve() for file in _files(path)}
        if outside := [file for file, real in files.items() if not _below(real, roots)]:
            raise Invalid(f"{outside[0]} is a link that leads out of the folders of AIWM_MODEL_PATHS")
        if not files:
            raise Invalid(f"the folder {source.path} is empty")
        return Found(path, sum(real.stat().st_size for real in files.values() if real.is_file()))


def _below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _files(folder: Path) -> Iterator[Path]:
    """Links to folders are followed by whoever loads the model, so they are looked at as files are."""
    for where, folders, files in os.walk(folder, onerror=_raise):
        for path in (Path(where, name) for name in (*files, *folders)):
            if path.is_symlink() or not path.is_dir():
                yield path


def _raise(error: OSError) -> None:
    raise error
