"""Makes requirements.lock and requirements-test.lock from pyproject.toml, or checks that they fit it.

python script/lock.py            make them anew (needs uv on the PATH)
python script/lock.py --check    every requirement of pyproject.toml is locked, with hashes, at a version it allows
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
COMPILE = [
    *("uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--python-version", "3.11"),
    *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "pyproject.toml"),
]
LOCKS = {
    "requirements.lock": ["--group", "build"],
    "requirements-test.lock": ["--group", "build", "--group", "test", "--constraint", "requirements.lock"],
}
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", re.MULTILINE)


def make() -> None:
    for lock, arguments in LOCKS.items():
        subprocess.run([*COMPILE, *arguments, "--output-file", lock], cwd=ROOT, check=True)


def problems() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    wanted = {
        "requirements.lock": [*project["project"]["dependencies"], *groups["build"]],
        "requirements-test.lock": [*project["project"]["dependencies"], *groups["build"], *groups["test"]],
    }
    found = []
    for lock, requirements in wanted.items():
        text = (ROOT / lock).read_text()
        pinned = {canonicalize_name(name): version for name, version in PINNED.findall(text)}
        found += [f"{lock} holds an address" for _ in re.findall(r"https?://", text)[:1]]
        found += [f"{lock}: {name} has no hash" for name in _without_hash(text)]
        for requirement in map(Requirement, requirements):
            version = pinned.get(canonicalize_name(requirement.name))
            if version is None or not requirement.specifier.contains(version):
                found.append(f"{lock} does not fit {requirement} (it has {version}): run script/lock.py")
    return found


def _without_hash(text: str) -> list[str]:
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    return [entry.split("==")[0] for entry in entries if "--hash=sha256:" not in entry]


if __name__ == "__main__":
    if "--check" not in sys.argv:
        make()
    if wrong := problems():
        sys.exit("\n".join(wrong))
