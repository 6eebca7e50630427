"""A Hugging Face hub of our own, for the real client library: it knows repositories, revisions, ranges and refusals.

Small files have git's ids, large ones (`LARGE` bytes and more) live behind a redirect as on the real one. What a test
wants to go wrong it says in `faults`; what was asked is in `asked`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

LARGE = 1000


@dataclass
class Repository:
    files: Mapping[str, bytes]
    token: str = ""
    """When set, only who shows it gets in."""
    gated: bool = False
    """Listed for all, and given to nobody."""
    revisions: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()

    def listed(self, repository: str) -> dict[str, Any]:
        return {
            "_id": "1",
            "id": repository,
            "modelId": repository,
            "sha": self.commit,
            "siblings": [
                {"rfilename": name, "size": len(data), "blobId": git_id(data)}
                | ({"lfs": {"sha256": sha256(data), "size": len(data), "pointerSize": 130}} if is_large(data) else {})
                for name, data in self.files.items()
            ],
        }


@dataclass
class Faults:
    """`after` counts bytes of one answer."""

    hold_after: int | None = None
    """Then nothing more comes until `release`."""
    cut_after: int | None = None
    """Then the connection ends, again and again."""
    cuts: int = 10**9
    """How often that happens."""
    status: int = 0
    """What every request is answered with."""
    bytes_per_second: int = 0
    """How quickly files come; 0: as they can."""
    deaf_to_ranges: bool = False
    change: Callable[[bytes], bytes] | None = None
    """What becomes of a file on its way."""
    released: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Asked:
    path: str
    range: str | None
    authorization: str | None
    user_agent: str


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(data: bytes) -> bool:
    return len(data) >= LARGE


class Hub:
    """Listens from `with` to its end; the address is `url`, which HF_ENDPOINT is set to."""

    def __init__(self, **repositories: Repository) -> None:
        self.repositories = {name.replace("__", "/"): repository for name, repository in repositories.items()}
        self.faults = Faults()
        self.large_files_at = ""
        """Another hub that large files are sent from; else this one does."""
        self.asked: list[Asked] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.faults.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def release(self) -> None:
        self.faults.hold_after = None
        self.faults.released.set()

    def sent(self, repository: str, name: str) -> list[str | None]:
        """The ranges in which a file was asked for, in order."""
        data = self.repositories[repository].files[name]
        path = f"/cdn/{sha256(data)}" if is_large(data) else f"/{repository}/resolve/"
        return [each.range for each in self.asked if each.path.startswith(path)]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                asked = Asked(
                    path, self.headers["range"], self.headers["authorization"], self.headers["user-agent"] or ""
                )
                hub.asked.append(asked)
                try:
                    self._answer(path, asked)
                except ConnectionError:
                    self.close_connection = True

            def _answer(self, path: str, asked: Asked) -> None:
                if hub.faults.status:
                    self._say(hub.faults.status, {"error": "something"})
                elif found := re.fullmatch(r"/cdn/(\w+)", path):
                    self._send(hub._by_hash(found[1]))
                elif found := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
                    if repository := self._repository(found[1], found[2] or "main", asked):
                        self._say(200, repository.listed(found[1]))
                elif found := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
                    if repository := self._repository(found[1], found[2], asked):
                        self._file(repository, found[3])
                else:
                    self._say(404, {"error": "no such page"})

            def _repository(self, name: str, revision: str, asked: Asked) -> Repository | None:
                repository = hub.repositories.get(name)
                if repository is None or (repository.token and asked.authorization != f"Bearer {repository.token}"):
                    self._say(401, {"error": "Repository not found"}, {"x-error-code": "RepoNotFound"})
                elif revision not in {*repository.revisions, repository.commit}:
                    self._say(404, {"error": f"Invalid rev id: {revision}"}, {"x-error-code": "RevisionNotFound"})
                else:
                    return repository
                return None

            def _file(self, repository: Repository, name: str) -> None:
                data = repository.files[name]
                if repository.gated:
                    self._say(403, {"error": "Access is restricted"}, {"x-error-code": "GatedRepo"})
                elif is_large(data):
                    self._say(302, {}, {"location": f"{hub.large_files_at or hub.url}/cdn/{sha256(data)}"})
                else:
                    self._send(data)

            def _send(self, data: bytes) -> None:
                faults = hub.faults
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["range"] or "")
                start = 0 if wanted is None or faults.deaf_to_ranges else int(wanted[1])
                if start and start >= len(data):
                    self._say(416, {})
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("content-range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.send_header("content-length", str(len(data) - start))
                self.end_headers()
                rest = (faults.change(data) if faults.change else data)[start:]
                if faults.cut_after is not None and faults.cuts and len(rest) > faults.cut_after:
                    faults.cuts -= 1
                    self.wfile.write(rest[: faults.cut_after])
                    self.close_connection = True
                    return
                if faults.hold_after is not None:
                    self.wfile.write(rest[: faults.hold_after])
                    rest = rest[faults.hold_after :]
                    faults.released.wait(60)
                step = faults.bytes_per_second // 50 or len(rest) or 1
                for start in range(0, len(rest), step):
                    self.wfile.write(rest[start : start + step])
                    if faults.bytes_per_second and faults.released.wait(0.02):
                        faults.bytes_per_second = 0

            def _say(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**(headers or {}), "content-length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

        return Handler

    def _by_hash(self, digest: str) -> bytes:
        for repository in self.repositories.values():
            for data in repository.files.values():
                if sha256(data) == digest:
                    return data
        raise AssertionError(f"nobody was sent to {digest}")
