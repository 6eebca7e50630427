"""The operator's file of engine kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiwm.engines.registry import KINDS, kinds
from aiwm.errors import StartError

MINE = """
[mlx]
provider = "openai"
command = ["mlx_lm.server", "--model={model}", "--host={host}", "--port={port}"]
ready_path = "/v1/models"

[mlx.arguments.max-tokens]
type = "int"
flag = "--max-tokens"
least = 1
most = 4096
"""


def test_without_a_file_there_are_ours() -> None:
    assert kinds(None) is KINDS
    assert set(KINDS) == {"llamacpp", "vllm", "sglang", "ollama", "transformers", "triton"}


def test_a_file_adds_kinds(tmp_path: Path) -> None:
    (tmp_path / "engines.toml").write_text(MINE)
    known = kinds(tmp_path / "engines.toml")
    assert known["mlx"].ready_path == "/v1/models"
    known["mlx"].check({"max-tokens": 4096})
    assert known["vllm"] is KINDS["vllm"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mlx", "is not TOML"),
        ('[mlx]\nprovider = "openai"', "command: Field required"),
        ('[mlx]\nprovider = "openai"\ncommand = "run me"', "command: Input should be a valid list"),
        ('[mlx]\nprovider = "openai"\ncommand = ["a"]\nshell = true', "shell: Extra inputs are not permitted"),
        ("mlx = 1", "valid dictionary"),
    ],
)
def test_a_file_that_is_wrong_is_told_at_start(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "engines.toml").write_text(text)
    with pytest.raises(StartError, match="AIWM_ENGINES_FILE") as raised:
        kinds(tmp_path / "engines.toml")
    assert said in str(raised.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="can't be read"):
        kinds(tmp_path / "none.toml")
