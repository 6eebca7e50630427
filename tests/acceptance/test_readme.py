"""README.md: what it tells a newcomer to type works as printed. Only ports and the printed password are put in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import ADMIN_PASSWORD, Caller, Gateway

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
SHELL = [text for language, text in BLOCKS if language == "bash"]
PYTHON = [text for language, text in BLOCKS if language == "python"]


def here(text: str, gateway: Gateway) -> str:
    text = text.replace("localhost:3003", f"127.0.0.1:{gateway.port}").replace(
        "localhost:3000", f"127.0.0.1:{gateway.iam_port}"
    )
    return text.replace("the password that was printed", ADMIN_PASSWORD)


def test_the_commands_that_it_names_are_there_and_can_be_run() -> None:
    named = set(re.findall(r"\./(script/\w+)", "".join(SHELL)))
    assert named == {"script/server", "script/test"}
    for name in named:
        assert os.access(ROOT / name, os.X_OK)


def test_the_first_five_minutes_end_with_an_answer_and_its_count(gateway: Gateway) -> None:
    typed = [block for block in SHELL if "./script/" not in block]
    assert len(typed) == 5
    script = "set -eu\n" + "\necho; echo ---\n".join(here(block, gateway) for block in typed)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer, count, key, usage = done.stdout.split("---")[-4:]
    assert "This is a simulated answer" in answer
    assert '"requestCount":1' in count
    assert "aiwm_sk_" in key
    assert '"requestCount":1' in usage


@pytest.fixture(scope="module")
def admin(gateway: Gateway) -> Caller:
    return gateway.login()


@pytest.mark.parametrize("snippet", PYTHON, ids=lambda text: text.split("from ")[1].split()[0])
def test_each_sdk_snippet_prints_an_answer(gateway: Gateway, admin: Caller, snippet: str) -> None:
    deployments = {each["name"]: each["_id"] for each in admin.http.get("/deployments?limit=100").json()["data"]}
    environment = os.environ | {
        "TOKEN": admin.token,
        "DEPLOYMENT": deployments["Demo OpenAI"],
        "ANTHROPIC_DEPLOYMENT": deployments["Demo Anthropic"],
        "GOOGLE_DEPLOYMENT": deployments["Demo Google"],
    }
    done = subprocess.run(
        [sys.executable, "-c", here(snippet, gateway)], capture_output=True, text=True, env=environment, check=False
    )
    assert "This is a simulated answer" in done.stdout, done.stderr


def test_every_page_that_it_links_to_is_there() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+?\.md|LICENSE)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
