"""The program that fetches the files of one repository: a child process of AIWM, so that it can be killed at any time.

    python -m aiwm.files.fetcher

It reads one line of JSON, a `Job`, and writes lines of JSON: many `Told`, and at last one `Fetched` or `Failed`. When
its standard input ends it ends too: that is how it notices that AIWM has died.

Files are kept as the hub's own library keeps them, so its cache can be the folder, and what is there is not fetched
again:

    models--ORGANIZATION--NAME/blobs/HASH                    what the hub says has this hash, and was found to have it
    models--ORGANIZATION--NAME/snapshots/COMMIT/FILE         a link to it
    models--ORGANIZATION--NAME/refs/REVISION                 the commit it was
    models--ORGANIZATION--NAME/blobs/HASH.aiwm-part          as far as it came; locked by who is fetching it

The library starts an interrupted file anew and compares only sizes; here a file goes on where it was, and is hashed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from aiwm import __version__

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

PART = ".aiwm-part"

_HUB_SECONDS = 10.0
"""Without a byte from the hub."""
_TRIES = 5
"""Of a file, without a byte more than before."""
_TOLD_SECONDS = 0.25
_SHOWN_FILES = 12


class Job(msgspec.Struct, frozen=True):
    repository: str
    revision: str
    file: str | None
    folder: str
    """Where repositories are kept."""


class Told(msgspec.Struct, frozen=True, tag="told"):
    bytes_done: int
    bytes_total: int
    file: str
    checking: bool = False
    """Everything has arrived, and is compared with what the hub promised."""


class Fetched(msgspec.Struct, frozen=True, tag="fetched"):
    path: str
    size: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    reason: str


Word = Told | Fetched | Failed


class Trouble(Exception):
    """The text says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file of a repository, by what the hub says of it."""

    name: str
    size: int
    hash: str
    """SHA-256 of a large file, else the id that git gives its content."""

    @property
    def is_git_id(self) -> bool:
        return len(self.hash) == 40


# -- which files of a repository a model needs

_WEIGHTS_OF_OTHERS = re.compile(
    r"\.(?:gguf|bin|pth?|ckpt|h5|msgpack|ot|onnx|onnx_data|tflite|mlmodel|pb|nemo)$|(?:^|/)(?:original|onnx|openvino)/"
)
_PART_OF_MANY = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_USUAL_QUANTIZATION = re.compile(r"Q4_K_M", re.IGNORECASE)


def needed(names: Sequence[str], file: str | None) -> list[str]:
    """The first is what an engine is pointed to when it loads one file. Raises Trouble, naming what there is.

    Without `file`: of a repository of safetensors everything but other formats of the same weights; of one that has
    only GGUF the file that llama.cpp's own programs would take.
    """
    if file is not None:
        if file not in names:
            raise Trouble(f"there is no file {file} in the repository; it has {_some(names)}")
        return _with_parts(names, file)
    if any(name.endswith(".safetensors") for name in names):
        return [name for name in names if not _WEIGHTS_OF_OTHERS.search(name)]
    choices = [name for name in names if name.endswith(".gguf") and _is_first(name) and "mmproj" not in name]
    if not choices:
        return list(names)
    if len(choices) > 1:
        choices = [name for name in choices if _USUAL_QUANTIZATION.search(name)] or choices
    if len(choices) > 1:
        raise Trouble(f"the repository has several GGUF files; say which one with fileName: {_some(choices)}")
    return _with_parts(names, choices[0])


def _is_first(name: str) -> bool:
    part = _PART_OF_MANY.fullmatch(name)
    return part is None or int(part[2]) == 1


def _with_parts(names: Sequence[str], file: str) -> list[str]:
    """A model that was split is loaded by its first part, and needs all."""
    part = _PART_OF_MANY.fullmatch(file)
    if part is None:
        return [file]
    every = [f"{part[1]}-{number:05d}-of-{part[3]}.gguf" for number in range(1, int(part[3]) + 1)]
    if missing := [name for name in every if name not in names]:
        raise Trouble(f"the repository lacks {_some(missing)}, a part of {file}")
    return every


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_FILES} more" if len(names) > _SHOWN_FILES else ""
    return ", ".join(names[:_SHOWN_FILES]) + more


# -- fetching


class Fetch:
    """One job. `tell` is called often; it decides what is worth passing on."""

    def __init__(self, job: Job, tell: Callable[[Told], None]) -> None:
        self._job = job
        self._tell = tell
        self._place = Path(job.folder, "models--" + job.repository.replace("/", "--"))
        self._before = 0
        """Bytes of the files that are there."""
        self._total = 0

    def run(self) -> Fetched:
        """Raises Trouble, OSError of the disk, and what the hub's library and its HTTP client raise."""
        info = _info(self._job)
        files = _wanted(info, self._job)
        commit = str(info.sha)
        self._total = sum(file.size for file in files)
        blobs = self._place / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        self._require_room(blobs, files)
        for file in files:
            self._bring(blobs, file, commit)
            self._before += file.size
        for file in files:
            self._check(blobs, file)
        snapshot = self._place / "snapshots" / commit
        for file in files:
            _link(blobs / file.hash, snapshot / file.name)
        self._remember(commit)
        alone = self._job.file is not None or files[0].name.endswith(".gguf")
        return Fetched(str(snapshot / files[0].name if alone else snapshot), self._total)

    def _require_room(self, blobs: Path, files: Sequence[Wanted]) -> None:
        missing = sum(file.size - _size(blobs / file.hash, blobs / f"{file.hash}{PART}") for file in files)
        free = shutil.disk_usage(blobs).free
        if missing > free:
            raise Trouble(
                f"the disk is full: {_readable(missing)} are missing, and {_readable(free)} are free in "
                f"{self._job.folder}; make room, or set AIWM_MODEL_DIR to a larger disk"
            )

    def _bring(self, blobs: Path, file: Wanted, commit: str) -> None:
        part = blobs / f"{file.hash}{PART}"
        if _is_whole(blobs / file.hash, file.size):
            self._say(file, file.size)
            return
        with self._alone(part, file) as opened:
            if _is_whole(blobs / file.hash, file.size):
                return  # Another process was fetching it, and is done.
            self._receive_all(opened, file, commit)
            found = opened.seek(0, os.SEEK_END)
            if found != file.size:
                part.unlink()
                raise Trouble(
                    f"the hub sent {'more' if found > file.size else 'less'} of {file.name} than it said; "
                    "what came was removed, so try again"
                )
            os.fsync(opened.fileno())

    def _receive_all(self, opened: BinaryIO, file: Wanted, commit: str) -> None:
        """Until an answer has come to its end; a connection that breaks is taken up where it broke."""
        tries = _TRIES
        while (done := opened.seek(0, os.SEEK_END)) < file.size:
            try:
                self._receive(opened, file, commit)
            except Exception as error:
                if not _may_pass(error) or not tries:
                    raise
                tries = tries - 1 if opened.seek(0, os.SEEK_END) == done else _TRIES
                time.sleep(2.0 ** (_TRIES - tries) / 8)
            else:
                break

    @contextmanager
    def _alone(self, part: Path, file: Wanted) -> Iterator[BinaryIO]:
        """The only process that writes to it: a fetcher whose AIWM was killed may still be there for a moment."""
        with part.open("ab+") as opened:
            while True:
                try:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._say(file, _size(part))
                    time.sleep(_TOLD_SECONDS)
            yield opened

    def _receive(self, opened: BinaryIO, file: Wanted, commit: str) -> None:
        """What is missing of a file, as far as the hub sends it."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented there, re-exported without words
            build_hf_headers,
            get_session,
            hf_raise_for_status,
        )

        at = opened.seek(0, os.SEEK_END)
        url = hf_hub_url(self._job.repository, file.name, revision=commit)
        headers = build_hf_headers(library_name="aiwm", library_version=__version__) | {"accept-encoding": "identity"}
        if at:
            headers["range"] = f"bytes={at}-"
        with get_session().stream("GET", url, headers=headers, timeout=_HUB_SECONDS) as answer:
            hf_raise_for_status(answer)
            if at and not answer.headers.get("content-range", "").startswith(f"bytes {at}-"):
                opened.truncate(0)
                at = 0
            for piece in answer.iter_bytes():
                opened.write(piece)
                # To the kernel at once: what has come is not lost when this process is killed.
                opened.flush()
                at += len(piece)
                self._say(file, at)
                if at > file.size:
                    return

    def _check(self, blobs: Path, file: Wanted) -> None:
        blob, part = blobs / file.hash, blobs / f"{file.hash}{PART}"
        if _is_whole(blob, file.size):
            part.unlink(missing_ok=True)
            return
        try:
            with part.open("rb") as opened:
                found = _hash(opened, file, lambda: self._say_checking(file))
            if found == file.hash:
                part.rename(blob)
                return
        except FileNotFoundError:
            if _is_whole(blob, file.size):
                return  # Another process was quicker.
            raise
        part.unlink(missing_ok=True)
        raise Trouble(
            f"{file.name} is not what the hub says it is: its hash is another. What came was removed, so try again"
        )

    def _remember(self, commit: str) -> None:
        if self._job.revision != commit:
            reference = self._place / "refs" / self._job.revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit)

    def _say(self, file: Wanted, done: int) -> None:
        self._tell(Told(self._before + done, self._total, file.name))

    def _say_checking(self, file: Wanted) -> None:
        self._tell(Told(self._total, self._total, file.name, checking=True))


def _info(job: Job) -> ModelInfo:
    from huggingface_hub import HfApi

    api = HfApi(library_name="aiwm", library_version=__version__)
    for left in reversed(range(_TRIES)):
        try:
            return api.model_info(job.repository, revision=job.revision, files_metadata=True, timeout=_HUB_SECONDS)
        except Exception as error:
            if not _may_pass(error) or not left:
                raise
            time.sleep(0.5)
    raise AssertionError


def _wanted(info: ModelInfo, job: Job) -> list[Wanted]:
    files = {file.rfilename: file for file in info.siblings or ()}
    wanted = []
    for name in needed(list(files), job.file):
        file = files[name]
        digest = file.blob_id if file.lfs is None else file.lfs.sha256
        # The name becomes a path and the hash a file's name: neither may lead anywhere else.
        if file.size is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest or "") or not _stays(name):
            raise Trouble(f"the hub does not say what {name} is: see that HF_ENDPOINT leads to a Hugging Face hub")
        wanted.append(Wanted(name, file.size, digest or ""))
    if not wanted or not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
        raise Trouble("the repository is empty")
    return wanted


def _stays(name: str) -> bool:
    return not name.startswith("/") and not {"", ".", ".."} & set(name.split("/"))


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed in a moment."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in {408, 429} or error.response.status_code >= 500
    return isinstance(error, httpx2.TransportError)


def _link(blob: Path, name: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(blob, name.parent)
    if not (name.is_symlink() and str(name.readlink()) == target):
        draft = name.with_name(f"{name.name}.{os.getpid()}{PART}")
        draft.symlink_to(target)
        draft.replace(name)


def _hash(opened: BinaryIO, file: Wanted, still_here: Callable[[], None]) -> str:
    digest = hashlib.sha1(usedforsecurity=False) if file.is_git_id else hashlib.sha256()
    if file.is_git_id:
        digest.update(b"blob %d\0" % file.size)
    while piece := opened.read(1 << 22):
        digest.update(piece)
        still_here()
    return digest.hexdigest()


def _is_whole(blob: Path, size: int) -> bool:
    return blob.is_file() and blob.stat().st_size == size


def _size(*paths: Path) -> int:
    """Of the first that is there."""
    for path in paths:
        if path.is_file():
            return path.stat().st_size
    return 0


def _readable(size: int) -> str:
    amount = float(size)
    for unit in ("bytes", "KB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.1f} GB"


# -- why it failed, and what to do


def reason(error: Exception, job: Job) -> str:
    if isinstance(error, Trouble):
        return str(error)
    if isinstance(error, ImportError):
        return "huggingface_hub is not installed beside AIWM: pip install 'aiwm[hf]', and try again"
    return _of_the_hub(error, job) or _of_the_disk(error, job) or f"unexpected: {type(error).__name__}: {error}"


def _of_the_hub(error: Exception, job: Job) -> str | None:
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    # Whoever registers models reads this: what stands in front of the host is the operator's.
    name, where = job.repository, re.sub(r"//[^/]*@", "//", constants.ENDPOINT)
    if isinstance(error, hub.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set on the server: unset it, or put the files on the server and register file://..."
    if isinstance(error, hub.GatedRepoError):
        return (
            f"{name} is gated: accept its terms at {where}/{name}, start AIWM with HF_TOKEN set to a token of that "
            "account, and try again"
        )
    if isinstance(error, hub.RepositoryNotFoundError):
        return (
            f"{name} is not found at {where}, or it is private: see that the name is right; a private one needs a "
            "HF_TOKEN that may read it, set where AIWM is started"
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return f"{name} has no revision {job.revision}: see its branches and tags at {where}/{name}"
    if isinstance(error, hub.HfHubHTTPError):
        status = error.response.status_code
        if status in {401, 403}:
            return (
                f"{where} refused access to {name} ({status}): see that the HF_TOKEN of AIWM is valid and may read it"
            )
        return f"{where} answered {status} for {name}: try again later"
    if isinstance(error, httpx2.TransportError):
        what = str(error) or type(error).__name__
        return f"{where} can't be reached ({what}): see that this machine is online, or set HF_ENDPOINT to a mirror"
    return None


def _of_the_disk(error: Exception, job: Job) -> str | None:
    if not isinstance(error, OSError):
        return None
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return (
            f"the disk is full ({error.strerror}) at {job.folder}: make room, or set AIWM_MODEL_DIR to a larger disk, "
            "and try again; what has come so far is kept"
        )
    return f"{job.folder} can't be written ({error.strerror}): see that AIWM may write to it, or set AIWM_MODEL_DIR"


# -- the program


def main() -> None:
    words = os.fdopen(os.dup(1), "wb", buffering=0)
    # Whatever a library prints is no word of ours.
    os.dup2(2, 1)
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    threading.Thread(target=_end_with_aiwm, daemon=True).start()

    def say(word: Word) -> None:
        words.write(msgspec.json.encode(word) + b"\n")

    last = 0.0

    def tell(word: Told) -> None:
        nonlocal last
        if (now := time.monotonic()) - last > _TOLD_SECONDS:
            last = now
            say(word)

    try:
        say(Fetch(job, tell).run())
    except Exception as error:  # noqa: BLE001 - whatever it is, AIWM is told
        say(Failed(reason(error, job)))


def _end_with_aiwm() -> None:
    # Not through sys.stdin: a thread that waits inside of it keeps the interpreter from ending.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
