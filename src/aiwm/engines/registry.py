"""All kinds of engines: those of AIWM, and those that the operator's file adds or replaces."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aiwm.engines import llamacpp, ollama, sglang, transformers, triton, vllm
from aiwm.engines.kinds import Argument, EngineKind
from aiwm.errors import StartError

OWN_FILE = (llamacpp, vllm, sglang, ollama, transformers, triton)

KINDS: Mapping[str, EngineKind] = {module.KIND.name: module.KIND for module in OWN_FILE}

_TYPES = {"bool": bool, "int": int, "float": float, "str": str}


class _Strict(BaseModel):
    # Built when an operator has a file of engines: that takes as long as reading the rest of this room.
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


class _Argument(_Strict):
    type: str = Field(pattern="^(bool|int|float|str)$")
    flag: str = ""
    variable: str = ""
    least: float | None = None
    most: float | None = None
    choices: list[str] = Field(default_factory=list)


class _Kind(_Strict):
    """A table of the operator's file; its fields are those of EngineKind."""

    provider: str
    command: list[str] = Field(min_length=1)
    module: str = ""
    environment: dict[str, str] = Field(default_factory=dict)
    for_types: dict[str, list[str]] = Field(default_factory=dict)
    model_file: str = ""
    model_name: str = "{name}"
    ready_path: str = Field(default="/health", pattern="^/")
    paths: list[str] = Field(default_factory=list)
    arguments: dict[str, _Argument] = Field(default_factory=dict)
    gpus: int = Field(default=0, ge=0)
    gpus_argument: str = ""
    start_seconds: float = Field(default=900.0, gt=0)
    stop_seconds: float = Field(default=15.0, ge=0)
    install: str = ""


def kinds(operators: Path | None) -> Mapping[str, EngineKind]:
    """Raises StartError for a file of the operator's that can't be read or understood."""
    if operators is None:
        return KINDS
    try:
        tables = tomllib.loads(operators.read_text())
        return {**KINDS, **{name: _kind(name, table) for name, table in tables.items()}}
    except OSError as error:
        raise StartError(f"AIWM_ENGINES_FILE: {operators} can't be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartError(f"AIWM_ENGINES_FILE: {operators} is not TOML ({error})") from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise StartError(f"AIWM_ENGINES_FILE: {operators}: {where}: {first['msg']}") from error


def _kind(name: str, table: Any) -> EngineKind:
    read = _Kind.model_validate(table)
    given = read.model_dump(exclude={"arguments"})
    arguments = {
        key: Argument(**argument.model_dump() | {"type": _TYPES[argument.type]})
        for key, argument in read.arguments.items()
    }
    return EngineKind(name=name, arguments=arguments, **given)
