"""Conversations as token ids: special ids between encoded texts, and what an assistant sampled put in verbatim.

    <|system|>TEXT, tools<|end|> <|user|>TEXT<|end|> <|agent|>TEXT<|call|>{"name": ..., "arguments": ...}<|end|>
    <|result|>TEXT<|end|> ... <|agent|>

Special ids never come from text, so nothing that a user or a tool writes can end a turn or start a call. A prompt is
appended to and never rewritten: the ids of a turn, prompt and completion, are a prefix of the next turn's prompt.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fairtrial.core.errors import UserError
from fairtrial.models.model import Message, ToolCall
from fairtrial.nn.tokenizer import Tokenizer

_OPENING = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|agent|>", "tool": "<|result|>"}
_NEEDED = ("<|system|>", "<|user|>", "<|agent|>", "<|call|>", "<|result|>", "<|end|>")
_NAME = re.compile(r'"name"\s*:\s*("(?:[^"\\]|\\.)*")')
_ARGUMENTS = re.compile(r'"arguments"\s*:\s*(.*)', re.DOTALL)
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a completion says."""

    content: str
    calls: tuple[ToolCall, ...]


class Chat:
    """Renders conversations for one tokenizer and reads replies."""

    def __init__(self, tokenizer: Tokenizer, *, where: str = "tokenizer") -> None:
        """Raises UserError where the tokenizer lacks one of the marks."""
        missing = [marker for marker in _NEEDED if marker not in tokenizer.specials]
        if missing:
            raise UserError(
                f"{where}: the tokenizer has no special token {', '.join(missing)}; conversations need "
                f"{' '.join(_NEEDED)} (a tokenizer from fairtrial has them)"
            )
        self.tokenizer = tokenizer
        self.end, self.call = tokenizer.special("<|end|>"), tokenizer.special("<|call|>")
        self._opening = {role: tokenizer.special(marker) for role, marker in _OPENING.items()}

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Ids of a conversation, up to where the assistant's next message begins."""
        ids: list[int] = []
        rest = list(messages)
        if tools:
            head = rest.pop(0).content if rest[0].role == "system" else ""
            ids += [self._opening["system"], *self._text(described(head, tools)), self.end]
        for message in rest:
            ids += [self._opening[message.role], *self.reply(message)]
        ids.append(self._opening["assistant"])
        return ids

    def reply(self, message: Message) -> list[int]:
        """Ids of an assistant's message, with the end mark: what is sampled behind `prompt`."""
        ids = self._inside(message)
        return ids if ids and ids[-1] == self.end else [*ids, self.end]

    def parse(self, ids: Sequence[int], behind: Sequence[int] = ()) -> Parsed:
        """The text and the calls of a completion; the end mark may be there or not.

        `behind`: the prompt, so that a call that is made again in a later turn has another id.
        """
        own = ids[:-1] if ids and ids[-1] == self.end else ids
        places = [place for place, index in enumerate(own) if index == self.call]
        content = self.tokenizer.decode(own[: places[0]] if places else own)
        borders = [*places, len(own)]
        texts = [self.tokenizer.decode(own[a + 1 : b]) for a, b in pairwise(borders)]
        named = digest(ids, behind) if texts else ""
        return Parsed(content, tuple(_call(text, f"call_{named}_{n}") for n, text in enumerate(texts)))

    def _inside(self, message: Message) -> list[int]:
        """What stands between a message's opening mark and its end mark (sampled ids may hold the end mark)."""
        if message.role == "assistant":
            if message.token_ids is not None and self._made(message, message.token_ids):
                return list(message.token_ids)
            ids = self._text(message.content)
            for call in message.tool_calls:
                ids += [self.call, *self._text(spelled(call))]
            return ids
        return self._text(message.content)

    def _made(self, message: Message, ids: Sequence[int]) -> bool:
        """Whether these ids say what the message says, so that they can be this model's own.

        A stop text cuts the content short of what was sampled. An edited text or another model's ids do not fit.
        """
        if not ids or min(ids) < 0 or max(ids) >= self.tokenizer.vocab_size or self.end in ids[:-1]:
            return False
        parsed = self.parse(ids)
        said = [(call.name, call.arguments) for call in message.tool_calls]
        read = [(call.name, call.arguments) for call in parsed.calls]
        return read == said and parsed.content.startswith(message.content)

    def _text(self, text: str) -> list[int]:
        return self.tokenizer.encode_bytes(text)


def described(system: str, tools: Sequence[dict[str, Any]]) -> str:
    """The system text with the tools behind it, one JSON schema a line."""
    lines = [json.dumps(tool.get("function", tool), ensure_ascii=False, separators=(", ", ": ")) for tool in tools]
    return "\n".join([*([system, ""] if system else []), "Tools:", *lines])


def spelled(call: ToolCall) -> str:
    """A call as the model writes it; the arguments are its own text, valid JSON or not."""
    return f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.arguments}}}'


def digest(ids: Sequence[int], behind: Sequence[int]) -> str:
    """Names a completion behind a prompt."""
    spelled_out = b"/".join(b",".join(b"%d" % index for index in some) for some in (behind, ids))
    return hashlib.blake2b(spelled_out, digest_size=6).hexdigest()


def _call(text: str, called: str) -> ToolCall:
    """A call read from the text behind its mark. What does not parse is kept as written."""
    name, arguments = _fields(text) or _salvaged(text)
    return ToolCall(id=called, name=name, arguments=arguments)


def _fields(text: str) -> tuple[str, str] | None:
    """Name and the arguments' own text of a well-formed call, else None."""
    try:
        whole, end = _DECODER.raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return None
    if text.lstrip()[end:].strip() or not isinstance(whole, dict) or not isinstance(whole.get("name"), str):
        return None
    spans = _spans(text)
    return whole["name"], spans.get("arguments", "{}")


def _spans(text: str) -> dict[str, str]:
    """The source text of every value of a valid JSON object."""
    out: dict[str, str] = {}
    at = text.index("{") + 1
    while True:
        at = _blank(text, at)
        if text[at] == "}":
            return out
        key, at = _DECODER.raw_decode(text, at)
        at = _blank(text, at) + 1
        start = _blank(text, at)
        _, at = _DECODER.raw_decode(text, start)
        out[key] = text[start:at]
        at = _blank(text, at)
        if text[at] == ",":
            at += 1


def _blank(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _salvaged(text: str) -> tuple[str, str]:
    found, rest = _NAME.search(text), _ARGUMENTS.search(text)
    try:
        name = str(json.loads(found[1])) if found else ""
    except ValueError:
        name = found[1][1:-1] if found else ""
    arguments = rest[1] if rest else text
    if rest and arguments.rstrip().endswith("}"):
        arguments = arguments.rstrip()[:-1]
    return name, arguments
