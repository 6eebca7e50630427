"""What a kind of engine is: facts, no behaviour. One small file a kind; `registry` holds them all.

A caller chooses a kind and sets some of its arguments. The command is the kind's, and only ever a list of words: no
shell reads it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from aiwm.engines.driver import EngineSpec, filled
from aiwm.errors import Invalid

Value: TypeAlias = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """What a caller may set. Exactly one of `flag` and `variable` says how the engine is told."""

    type: type[bool] | type[int] | type[float] | type[str]
    flag: str = ""
    """Goes into the command as `flag=value`; for a bool that is true, as the flag alone."""
    variable: str = ""
    least: float | None = None
    most: float | None = None
    choices: Sequence[str] = ()
    """What a str may be. Without them an engine's own words could be anything, a path too."""

    def problem(self, value: object) -> str | None:
        """What is wrong with a value."""
        if self.type is str:
            return None if value in self.choices else f"must be one of {', '.join(self.choices)}"
        if self.type is bool:
            return None if isinstance(value, bool) else "must be true or false"
        kinds = (int,) if self.type is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return f"must be a {'whole ' if self.type is int else ''}number"
        least, most = (-math.inf if self.least is None else self.least), (math.inf if self.most is None else self.most)
        return None if least <= value <= most else f"must be from {least:.15g} to {most:.15g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    name: str
    """What a model's `framework` says."""
    provider: str
    """Whose API it speaks: a name of `aiwm.providers.registry`."""
    command: Sequence[str]
    """`{model}` is the model's file or folder, `{name}` what the engine shall call it; `{host}`, `{port}`, `{key}`,
    `{python}` (the interpreter AIWM runs on) and `{engines}` (the folder of this file) are known too."""
    module: str = ""
    """The Python package that must be there for it, when the command begins with `{python}`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    for_types: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Words added to the command for models of a type (`embedding`)."""
    model_file: str = ""
    """The engine is given one file of the model's folder, of this pattern. Empty: the folder itself."""
    model_name: str = "{name}"
    """What requests must call the model; `{file}` is the model's `fileName`, `{folder}` where its files are."""
    ready_path: str = "/health"
    paths: Sequence[str] = ()
    """How the paths begin that callers may ask for; empty: all. An engine's own API may load other models, write files,
    or generate without saying how much."""
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    gpus: int = 0
    """How many it needs at least."""
    gpus_argument: str = ""
    """The argument that says how many, if it is set."""
    start_seconds: float = 900.0
    stop_seconds: float = 15.0
    install: str = ""
    """How to get it, for people."""

    def check(self, given: Mapping[str, object]) -> None:
        """Raises Invalid with one text for each argument that can't be set, or not so."""
        problems = []
        for name, value in given.items():
            argument = self.arguments.get(name)
            if argument is None:
                known = ", ".join(self.arguments) or "none"
                problems.append(f"arguments.{name[:100]}: can't be set for {self.name}; known are {known}")
            elif problem := argument.problem(value):
                problems.append(f"arguments.{name}: {problem}")
        if problems:
            raise Invalid(problems)

    def gpus_for(self, arguments: Mapping[str, Value]) -> int:
        return max(self.gpus, int(arguments.get(self.gpus_argument, 0)))

    def spec(
        self,
        *,
        path: Path,
        name: str,
        file_name: str | None,
        model_type: str,
        arguments: Mapping[str, Value],
        gpus: Sequence[int] | None,
    ) -> EngineSpec:
        """What to run. `gpus` are those it may use, by number; None when the machine has none to give.

        Raises Invalid when the model's files are not what this kind takes.
        """
        words = {
            "{model}": str(self._model(path, file_name)),
            "{name}": name,
            "{file}": file_name or name,
            "{python}": sys.executable,
            "{engines}": str(Path(__file__).parent),
        }
        command = [*self.command, *self.for_types.get(model_type, ())]
        environment = dict(self.environment)
        if gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        for key, value in sorted(arguments.items()):
            argument = self.arguments[key]
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if argument.variable:
                environment[argument.variable] = text
            elif value is True:
                command.append(argument.flag)
            elif value is not False:
                command.append(f"{argument.flag}={text}")
        return EngineSpec(
            command=tuple(command),
            environment=environment,
            words=words,
            ready_path=self.ready_path,
            start_seconds=self.start_seconds,
            stop_seconds=self.stop_seconds,
        )

    def called(self, name: str, file_name: str | None, path: str) -> str:
        """What requests must call the model."""
        return filled(self.model_name, {"{name}": name, "{file}": file_name or name, "{folder}": path})

    def _model(self, path: Path, file_name: str | None) -> Path:
        if not self.model_file or path.is_file():
            return path
        if file_name:
            if not (path / file_name).is_file():
                raise Invalid(f"The model's folder has no file {file_name}")
            return path / file_name
        # A model in several files is given by its first, which the order of their names puts in front.
        files = sorted(path.glob(self.model_file))
        if not files:
            raise Invalid(f"{self.name} needs a file {self.model_file}, and the model's folder has none")
        return files[0]
