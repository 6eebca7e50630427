"""files/fetcher.py: which files of a repository a model needs. What it does on disk and network: integration."""

from __future__ import annotations

import pytest

from aiwm.files.fetcher import Trouble, needed

LLAMA = [
    ".gitattributes", "README.md", "config.json", "generation_config.json", "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer.model",
]  # fmt: skip
OTHERS = [
    "pytorch_model.bin", "original/consolidated.00.pth", "flax_model.msgpack", "tf_model.h5", "onnx/model.onnx",
    "openvino/openvino_model.xml", "model-Q4_K_M.gguf", "consolidated.pt", "rust_model.ot",
]  # fmt: skip


def test_of_safetensors_everything_but_the_same_weights_in_other_formats() -> None:
    assert needed([*LLAMA, *OTHERS], None) == LLAMA


def test_a_repository_of_something_else_is_taken_whole() -> None:
    assert needed(["config.json", "pytorch_model.bin"], None) == ["config.json", "pytorch_model.bin"]


def test_a_named_file_is_all_that_is_taken() -> None:
    assert needed([*LLAMA, *OTHERS], "model-Q4_K_M.gguf") == ["model-Q4_K_M.gguf"]
    assert needed(LLAMA, "config.json") == ["config.json"]


def test_the_only_gguf_is_taken_and_of_several_the_usual_one() -> None:
    assert needed(["README.md", "a-Q8_0.gguf"], None) == ["a-Q8_0.gguf"]
    assert needed(["a-Q8_0.gguf", "a-q4_k_m.gguf", "a-Q2_K.gguf"], None) == ["a-q4_k_m.gguf"]
    assert needed(["mmproj-a.gguf", "a-Q8_0.gguf"], None) == ["a-Q8_0.gguf"]


def test_which_gguf_is_for_the_caller_to_say_when_none_is_usual() -> None:
    with pytest.raises(Trouble, match=r"say which one with fileName: a-Q8_0\.gguf, a-Q2_K\.gguf$"):
        needed(["a-Q8_0.gguf", "a-Q2_K.gguf"], None)


def test_a_gguf_in_parts_is_taken_with_all_of_them_the_first_in_front() -> None:
    parts = [f"q8/a-Q8_0-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    assert needed([parts[2], "README.md", parts[0], parts[1]], None) == parts
    assert needed([*parts, "b.gguf"], parts[0]) == parts
    with pytest.raises(Trouble, match=r"lacks q8/a-Q8_0-00002-of-00003\.gguf, a part of"):
        needed([parts[0], parts[2]], None)


def test_a_file_that_is_not_there_is_said_with_some_that_are() -> None:
    names = [f"{number:02d}.gguf" for number in range(20)]
    with pytest.raises(
        Trouble, match=r"there is no file x\.gguf in the repository; it has 00\.gguf, .*11\.gguf and 8 more$"
    ):
        needed(names, "x.gguf")
