"""domain/sources.py: what may stand for the files of a model."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from aiwm.domain.sources import HubFiles, LocalFiles, Place
from aiwm.errors import Invalid


@pytest.mark.parametrize(
    ("place", "source"),
    [
        (Place("meta-llama/Llama-3.1-8B"), HubFiles("meta-llama/Llama-3.1-8B", "main", None)),
        (Place("gpt2"), HubFiles("gpt2", "main", None)),
        (Place("Qwen/Qwen3-0.6B-GGUF", "q/a.gguf"), HubFiles("Qwen/Qwen3-0.6B-GGUF", "main", "q/a.gguf")),
        (Place("org/name@v1.0"), HubFiles("org/name", "v1.0", None)),
        (Place("org/name@refs/pr/3"), HubFiles("org/name", "refs/pr/3", None)),
        (Place("file:///models/llama"), LocalFiles(PurePosixPath("/models/llama"))),
        (Place("file:///models/a folder", "a.gguf"), LocalFiles(PurePosixPath("/models/a folder/a.gguf"))),
        (Place("org/name", None, "/models/llama"), LocalFiles(PurePosixPath("/models/llama"))),
        (Place("org/name", "a.gguf", "/models/llama"), LocalFiles(PurePosixPath("/models/llama/a.gguf"))),
    ],
)
def test_what_a_model_says_of_its_files_is_understood(place: Place, source: HubFiles | LocalFiles) -> None:
    assert place.source() == source


@pytest.mark.parametrize(
    "repository",
    [
        "", " ", "a/b/c", "/etc/passwd", "../x", "org/..", "org/.", ".org/name", "org/name.git", "org/na--me",
        "org//name",
        "https://huggingface.co/org/name", "hf://org/name", "org/name@", "org/name@../main", "org/name@a b", "org/n@-x",
        "org/name@v1@v2", "org\\name", "ünïcode/name", "org/" + "x" * 97, "file:", "FILE:///models",
        "org/name?x=1", "org/name#x", "org/na me", "org/name\n", "org/%2e%2e",
    ],
)  # fmt: skip
def test_what_is_neither_a_repository_nor_a_path_is_refused(repository: str) -> None:
    with pytest.raises(Invalid, match=r"^repository: must be the name of a Hugging Face repository") as refused:
        Place(repository).source()
    assert isinstance(refused.value.message, list)


@pytest.mark.parametrize("path", ["file://", "file://models/llama", "file://~/x", "file:///a\0b"])
def test_a_path_is_absolute(path: str) -> None:
    with pytest.raises(Invalid, match=r"^repository: must be an absolute path"):
        Place(path).source()
    with pytest.raises(Invalid, match=r"^downloadPath: must be an absolute path"):
        Place("org/name", None, "models").source()


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.gguf", "a/../../b", "a//b", "a/", "./a", "a\\b", "..", "."])
def test_a_file_of_a_repository_is_inside_of_it(name: str) -> None:
    for repository in ("org/name", "file:///models"):
        with pytest.raises(Invalid, match=r"^fileName: must be a file's path inside the repository"):
            Place(repository, name).source()
