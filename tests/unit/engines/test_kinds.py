"""An engine kind is a function from a deployment to a list of words: it starts nothing, so the words are compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from aiwm.engines.driver import filled
from aiwm.engines.kinds import Argument, EngineKind, Value
from aiwm.engines.registry import KINDS
from aiwm.errors import Invalid

FOLDER = Path("/models/a model")


def _run(name: str, *, model_type: str = "llm", gpus: list[int] | None = None, **arguments: Value) -> list[str]:
    kind = KINDS[name]
    given = {key.replace("_", "-"): value for key, value in arguments.items()}
    kind.check(given)
    spec = kind.spec(
        path=FOLDER, name="llama", file_name=None, model_type=model_type, arguments=given, gpus=gpus
    ) if not kind.model_file else kind.spec(
        path=Path(__file__), name="llama", file_name=None, model_type=model_type, arguments=given, gpus=gpus
    )  # fmt: skip
    command, _ = spec.run({"{host}": "127.0.0.1", "{port}": "4000", "{key}": "K"})
    return command


def test_vllm() -> None:
    assert _run("vllm", max_model_len=4096, enforce_eager=True, dtype="bfloat16") == [
        "vllm", "serve", "/models/a model", "--host=127.0.0.1", "--port=4000", "--served-model-name=llama",
        "--dtype=bfloat16", "--enforce-eager", "--max-model-len=4096",
    ]  # fmt: skip


def test_an_embedding_model_is_run_as_one() -> None:
    assert _run("vllm", model_type="embedding")[-1] == "--runner=pooling"


def test_llamacpp_is_our_own_interpreter() -> None:
    command = _run("llamacpp", ctx_size=512)
    assert command[1] == "-P"
    assert command[2].endswith("/engines/llama_server.py")
    assert command[3:] == [f"--model={__file__}", "--name=llama", "--host=127.0.0.1", "--port=4000", "--ctx-size=512"]


def test_ollama_is_told_by_its_environment() -> None:
    kind = KINDS["ollama"]
    spec = kind.spec(
        path=FOLDER, name="n", file_name="llama3.2:1b", model_type="llm",
        arguments={"context-length": 8192, "flash-attention": True}, gpus=None,
    )  # fmt: skip
    _, environment = spec.run({"{host}": "127.0.0.1", "{port}": "4000", "{key}": "K"})
    assert environment["OLLAMA_HOST"] == "127.0.0.1:4000"
    assert environment["OLLAMA_CONTEXT_LENGTH"] == "8192"
    assert environment["OLLAMA_FLASH_ATTENTION"] == "true"
    assert kind.called("n", "llama3.2:1b", "/models") == "llama3.2:1b"


def test_transformers_is_given_and_asked_for_the_folder() -> None:
    assert _run("transformers", dtype="float32", continuous_batching=True) == [
        "transformers", "serve", "/models/a model", "--host=127.0.0.1", "--port=4000",
        "--continuous-batching", "--dtype=float32",
    ]  # fmt: skip
    assert KINDS["transformers"].called("llama", None, "/models/a model") == "/models/a model"


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_no_key_stands_in_a_command(kind: EngineKind) -> None:
    """A command can be read by every user of the machine."""
    assert not any("{key}" in word for word in kind.command)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_listens_on_the_loopback(kind: EngineKind) -> None:
    words = [*kind.command, *kind.environment.values()]
    assert any("{host}" in word for word in words)
    assert any("{port}" in word for word in words)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_says_what_of_it_is_for_callers(kind: EngineKind) -> None:
    assert kind.paths
    assert not any(path.startswith("/") for path in kind.paths)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_argument_is_told_in_one_way_and_has_bounds(kind: EngineKind) -> None:
    for argument in kind.arguments.values():
        assert bool(argument.flag) != bool(argument.variable)
        if argument.type in {int, float}:
            assert argument.least is not None
            assert argument.most is not None
        if argument.type is str:
            assert argument.choices, "free text could be a path, or another flag"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"host": "0.0.0.0"}, "arguments.host: can't be set for vllm; known are max-model-len"),
        ({"api-key": "k"}, "arguments.api-key: can't be set"),
        ({"max-model-len": "4096"}, "arguments.max-model-len: must be a whole number"),
        ({"max-model-len": True}, "arguments.max-model-len: must be a whole number"),
        ({"max-model-len": 4096.5}, "arguments.max-model-len: must be a whole number"),
        ({"max-model-len": 0}, "arguments.max-model-len: must be from 1 to 100000000"),
        ({"gpu-memory-utilization": float("nan")}, "arguments.gpu-memory-utilization: must be from 0.05 to 1"),
        ({"dtype": "--trust-remote-code"}, "arguments.dtype: must be one of auto, half"),
        ({"dtype": ["auto"]}, "arguments.dtype: must be one of auto"),
        ({"enforce-eager": "yes"}, "arguments.enforce-eager: must be true or false"),
    ],
)
def test_what_is_not_in_the_engines_file_can_not_be_set(given: Mapping[str, object], problem: str) -> None:
    with pytest.raises(Invalid) as raised:
        KINDS["vllm"].check(given)
    assert str(raised.value).startswith(problem)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(Invalid) as raised:
        KINDS["vllm"].check({"port": 1, "seed": -1})
    assert len(raised.value.message) == 2


def test_gpus_are_what_the_argument_asks_for() -> None:
    assert KINDS["vllm"].gpus_for({}) == 1
    assert KINDS["vllm"].gpus_for({"tensor-parallel-size": 4}) == 4
    assert KINDS["llamacpp"].gpus_for({}) == 0


def test_words_are_filled_in_once() -> None:
    assert filled("{name} {key}", {"{name}": "{key}", "{key}": "secret"}) == "{key} secret"


def test_an_argument_of_the_operator_can_be_a_variable() -> None:
    kind = EngineKind(
        name="mine", provider="mine", command=("run",),
        arguments={"depth": Argument(type=int, variable="DEPTH", least=1, most=9)},
    )  # fmt: skip
    spec = kind.spec(path=FOLDER, name="n", file_name=None, model_type="llm", arguments={"depth": 3}, gpus=[0, 2])
    assert dict(spec.environment) == {"DEPTH": "3", "CUDA_VISIBLE_DEVICES": "0,2"}
