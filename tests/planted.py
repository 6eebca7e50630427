"""Secrets that the tests give to the programs they start, and the search for them in all that was ever written.

Every planted secret has `MARK` in its middle, where no mask shows it. When a run of tests has ended, everything below
its temporary folder is looked through: databases, journals, logs, exports, whatever is there. Answers are looked at
when they come. Tokens and API keys, which the programs make themselves, are known by their form.
"""

from __future__ import annotations

import base64
import re
import stat
from collections.abc import Iterator
from pathlib import Path

MARK = "Pl4ntedS3cretQz"
PASSWORD = f"correct {MARK} horse battery"
PROVIDER_KEY = f"sk-proj-0123-{MARK}-456789mnop"
SHARED_SECRET = f"a secret {MARK} of thirty-two bytes and more"

_SHOWN_ONCE = frozenset({"output"})
"""Standard output of `aiwm serve`: there, and nowhere else, a person is shown a token."""
_LEAKS = "leaks-in-answers.txt"
_OUTPUTS = "written-by-programs"


def _forms(mark: bytes) -> dict[str, bytes]:
    """How it stands in files: as it is, in hexadecimal, and in Base64 wherever it begins in a group of three."""
    forms = {"as it is": mark, "in hexadecimal": mark.hex().encode()}
    for before in range(3):
        text = base64.b64encode(b"\0" * before + mark)
        # The first and last characters depend on what stands beside it.
        forms[f"in Base64 ({before})"] = text[(before * 8 + 5) // 6 : len(mark) * 8 // 6]
    return forms


_FORMS = _forms(MARK.encode())
_MADE = {
    "an API key": re.compile(rb"aiwm_sk_[A-Za-z0-9_-]{40}"),
    "a token": re.compile(rb"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}"),
}
_SIGNS = (b"aiwm_sk_", b"eyJ")

_folder: Path | None = None


def begin(folder: Path) -> None:
    """What is seen and kept from now on is kept below `folder`, of this test process."""
    global _folder
    _folder = folder


def saw(where: str, answer: bytes) -> None:
    """An answer of a program, as a caller received it."""
    if _folder is not None and (found := _planted_in(answer)):
        with (_folder / _LEAKS).open("a") as file:
            file.write(f"{where}: {found}\n")


def keep(name: str, kind: str, text: str) -> None:
    """What a program has written to its output; `kind` is "log" or "output"."""
    if _folder is not None and text:
        folder = _folder / _OUTPUTS
        folder.mkdir(exist_ok=True)
        with (folder / f"{name}.{kind}").open("a") as file:
            file.write(text)


def leaks(folder: Path) -> Iterator[str]:
    """Each file below `folder` that has a secret in it, and what it has."""
    for path in sorted(folder.rglob("*")):
        if not stat.S_ISREG(path.lstat().st_mode):
            continue
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if path.name == _LEAKS:
            yield from (f"an answer: {line}" for line in data.decode().splitlines())
            continue
        found = _planted_in(data)
        if found is None and path.suffix.removeprefix(".") not in _SHOWN_ONCE:
            found = _made_in(data)
        if found is not None:
            yield f"{path.relative_to(folder)}: {found}"


def _planted_in(data: bytes) -> str | None:
    return next((f"a planted secret {form}" for form, text in _FORMS.items() if text in data), None)


def _made_in(data: bytes) -> str | None:
    if not any(sign in data for sign in _SIGNS):
        return None
    return next((what for what, form in _MADE.items() if form.search(data)), None)
