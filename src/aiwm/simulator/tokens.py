"""How many tokens a simulated answer reports: simple enough for a test to compute the truth by itself.

* A text of n characters is ceil(n / 4) tokens, and at least 1 (`count`).
* Input is every text of the prompt taken together (`of`): strings, and what stands under `text`, `content`,
  `parts` and `output`, however deep. Roles, images, audio, tool definitions and schemas are not counted.
  Embeddings count each input on its own, and a list of token numbers as its length.
* Output is the answer's text cut every 4 characters (`pieces`): a stream has one chunk for each, and
  max_tokens and `tokens=N` count the same pieces. A tool call counts as the JSON text of its arguments.
* `cached`, `cache-write` and `reasoning` come on top: they are added to what the texts make, and
  max_tokens does not limit reasoning. Several choices (`n`) repeat the text but not the reasoning.

So, in every dialect, all input = fresh + cached + cache_write, and all output = visible + reasoning. Which of
these a provider's field holds differs; each dialect's file says it once.
"""

from __future__ import annotations

from dataclasses import dataclass

CHARACTERS = 4
"""Characters in a token."""

_TEXT_KEYS = ("text", "content", "parts", "output")


@dataclass(frozen=True, slots=True)
class Usage:
    fresh: int
    """Input that was neither read from a cache nor written to one."""
    visible: int
    """Output the caller can read."""
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0

    @property
    def total_in(self) -> int:
        return self.fresh + self.cached + self.cache_write

    @property
    def total_out(self) -> int:
        return self.visible + self.reasoning

    @property
    def total(self) -> int:
        return self.total_in + self.total_out


def usage(prompt: object, visible: int, *, cached: int = 0, cache_write: int = 0, reasoning: int = 0) -> Usage:
    """The truth about one answer, from the prompt's JSON value (several in a list: system and messages, say) and
    the tokens of the answer's text (`count`)."""
    return Usage(of(prompt), visible, cached, cache_write, reasoning)


def count(text: str) -> int:
    return _tokens(len(text))


def of(prompt: object) -> int:
    """Tokens of all texts in a JSON value."""
    return _tokens(_characters(prompt))


def of_input(item: object) -> int:
    """Tokens of one thing to embed: a text, a list of token numbers, or a structure with texts."""
    if isinstance(item, list) and item and all(isinstance(token, int) for token in item):
        return len(item)
    return of(item)


def pieces(text: str) -> list[str]:
    """The text, one token at a time."""
    return [text[at : at + CHARACTERS] for at in range(0, len(text), CHARACTERS)] or [""]


def _tokens(characters: int) -> int:
    return max(1, -(-characters // CHARACTERS))


def _characters(prompt: object) -> int:
    # A stack, not recursion: JSON may nest deeper than Python lets functions.
    found, waiting = 0, [prompt]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            found += len(value)
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value[key] for key in _TEXT_KEYS if key in value)
    return found
