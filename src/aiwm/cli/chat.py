"""The prompt to try a model with, at the end of `aiwm run`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.markup import escape

from aiwm.cli.operator import Operator, Refused

_DONE = "[DONE]"


def chat(operator: Operator, url: str, console: Console) -> None:
    """Until Ctrl-D, `/bye`, or Ctrl-C at the prompt. Ctrl-C during an answer ends only the answer."""
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() its arrow keys
    console.print("Try it. Ctrl-C ends an answer, Ctrl-D or /bye the conversation.\n")
    messages: list[dict[str, str]] = []
    while True:
        try:
            said = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if said == "/bye":
            return
        if not said:
            continue
        messages.append({"role": "user", "content": said})
        answer = _answered(operator, url, messages, console)
        if answer:
            messages.append({"role": "assistant", "content": answer})
        else:
            # A question that was not answered would stand in front of the next one.
            messages.pop()


def _answered(operator: Operator, url: str, messages: list[dict[str, str]], console: Console) -> str:
    pieces: list[str] = []
    try:
        asked = {"messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        with operator.streaming(url, asked) as lines:
            for piece in _pieces(lines):
                pieces.append(piece)
                console.out(_shown(piece), end="", highlight=False)
    except KeyboardInterrupt:
        console.out(" ...", end="")
    except Refused as error:
        console.print(f"[red]{escape(str(error))}[/]")
    console.print("\n")
    return "".join(pieces)


def _shown(text: str) -> str:
    """What a model says must not steer the terminal."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)


def _pieces(lines: Iterator[str]) -> Iterator[str]:
    """What is new in each event of OpenAI's stream."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != _DONE:
            for choice in _event(data).get("choices") or ():
                if text := (choice.get("delta") or {}).get("content"):
                    yield str(text)


def _event(data: str) -> dict[str, Any]:
    event: Any = json.loads(data)
    if isinstance(event, dict) and "error" in event:
        error = event["error"]
        raise Refused(str(error.get("message", error) if isinstance(error, dict) else error))
    return event if isinstance(event, dict) else {}
