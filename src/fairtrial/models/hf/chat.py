"""Conversations as token ids through a tokenizer's own chat template, and replies read back.

Two things go around the template, by placeholders that are filled after it has rendered: what an assistant sampled
(`Message.token_ids`) is put in as it is, so that the ids of turn n are a prefix of the prompt of turn n + 1 wherever
the template appends; and control tokens that a user or a tool spells out become plain text, so that nobody can end a
turn from inside. Tool calls are read in three formats, chosen by what the template itself writes: Hermes and Qwen
(<tool_call>{...}</tool_call>), Mistral ([TOOL_CALLS][{...}]), Llama (the whole reply is one JSON object).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fairtrial.core.errors import UserError, one_line
from fairtrial.models.hf.words import Words
from fairtrial.models.model import Message, ToolCall, UnsupportedError
from fairtrial.models.native.chat import digest

Format = Literal["hermes", "mistral", "json"]

_HERMES = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation's ids."""

    ids: list[int]
    verbatim: bool = True
    """Whether every assistant message that carries this model's ids stands there with exactly those."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a completion says."""

    content: str
    calls: tuple[ToolCall, ...] = ()


class Chat:
    """Renders conversations for one tokenizer and reads replies. Not for several threads at once."""

    def __init__(self, words: Words, ends: frozenset[int], name: str) -> None:
        """`ends`: ids that end a reply; `name`: the model's, for messages."""
        self._words, self._ends, self._name = words, ends, name
        template = getattr(words.tokenizer, "chat_template", None)
        self.template = "\n".join(template.values()) if isinstance(template, dict) else template or ""
        self.tools = "tools" in self.template
        self.format: Format = (
            "hermes" if "<tool_call>" in self.template else "mistral" if "[TOOL_CALLS]" in self.template else "json"
        )
        self._forged = {
            False: _any_of(t for t in words.added if t in words.specials or (t in self.template and not t.isspace())),
            True: _any_of(words.specials),
        }

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> Prompt:
        """Ids of a conversation, up to where the assistant's next message begins.

        Raises UserError without a chat template or where it refuses the messages, UnsupportedError for tools that it
        does not know.
        """
        if not self.template:
            raise UserError(
                f'"{self._name}" has no chat template, so it takes no messages: give a prompt, or a model folder '
                "whose tokenizer has one"
            )
        if tools and not self.tools:
            raise UnsupportedError(
                f'"{self._name}": its chat template knows no tools; describe them in a message or use another model'
            )
        own = [index for index, message in enumerate(messages) if self._is_own(message)]
        prompt = self._filled(messages, tools, own)
        if prompt is None:
            again = self._filled(messages, tools, [])
            assert again is not None
            return Prompt(again.ids, verbatim=False)
        return prompt

    def said(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int] | None:
        """Ids of the last message, an assistant's, as the model would sample it behind `prompt` of the others.

        The end mark is included. None where the template shows it otherwise than behind the opening of a reply.
        """
        shown = self._filled(messages, tools, [], last=True)
        if shown is None:
            return None
        place = next((place for place, index in enumerate(shown.ids) if index in self._ends), None)
        if place is not None:
            return shown.ids[: place + 1]
        end = self._words.tokenizer.eos_token_id
        return shown.ids if end is None else [*shown.ids, end]

    def parse(self, ids: Sequence[int], text: str, behind: Sequence[int] = ()) -> Parsed:
        """The content and the calls in a completion's text; what does not parse stays text.

        `ids` and the prompt `behind` which they stand name the calls, so that none has the id of an earlier turn's.
        """
        found = _calls(text, self.format)
        if found is None:
            return Parsed(text)
        content, calls = found
        named = digest(ids, behind)
        return Parsed(content, tuple(ToolCall(id=f"call_{named}_{i}", name=n, arguments=a)
                                     for i, (n, a) in enumerate(calls)))  # fmt: skip

    def shown(self, text: str) -> int:
        """How many characters of a growing reply can be shown: what may turn out to be a call is held back."""
        if self.format == "json":
            start = text.lstrip()
            return 0 if start[:1] in ("", "{") or "<|python_tag|>".startswith(start[:14]) else len(text)
        mark = "<tool_call>" if self.format == "hermes" else "[TOOL_CALLS]"
        if (at := text.find(mark)) >= 0:
            return at
        held = next((size for size in range(len(mark) - 1, 0, -1) if text.endswith(mark[:size])), 0)
        return len(text) - held

    def _is_own(self, message: Message) -> bool:
        """Whether a message's ids say what the message says, so that they can be this model's own."""
        ids = message.token_ids
        if message.role != "assistant" or not ids or min(ids) < 0 or max(ids) >= self._words.vocab_size:
            return False
        body = ids[:-1] if ids[-1] in self._ends else ids
        if any(index in self._ends for index in body):
            return False
        text = self._words.decode(body)
        if not message.tool_calls:
            return text.startswith(message.content)
        parsed = self.parse(ids, text)
        same = [(c.name, c.arguments) for c in parsed.calls] == [(c.name, c.arguments) for c in message.tool_calls]
        return same and parsed.content == message.content

    def _filled(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], own: list[int], *, last: bool = False
    ) -> Prompt | None:
        """The prompt with the ids of the messages `own` put in; None where the template does not let them through.

        `last`: instead what the last message adds to the prompt of those before it.
        """
        every = json.dumps([[m.model_dump() for m in messages], list(tools)], default=str)
        nonce = hashlib.blake2b(every.encode(), digest_size=8).hexdigest()
        marks: list[list[int]] = []

        def mark(ids: list[int]) -> str:
            marks.append(ids)
            return f"\ue0f0{nonce}.{len(marks) - 1}\ue0f1"

        def safe(value: Any, assistant: bool = False) -> Any:
            if isinstance(value, str):
                return self._forged[assistant].sub(lambda found: mark(self._words.encode_bytes(found[0])), value)
            if isinstance(value, dict):
                return {key: safe(inner, assistant) for key, inner in value.items()}
            return [safe(inner, assistant) for inner in value] if isinstance(value, list | tuple) else value

        rows: list[dict[str, Any]] = []
        ours: set[int] = set()
        for index, message in enumerate(messages):
            if index in own and message.token_ids:
                ours.add(len(marks))
                rows.append({"role": "assistant", "content": mark(list(message.token_ids))})
            else:
                rows.append(safe(_row(message), message.role == "assistant"))
        given = safe(list(tools)) or None
        pattern = re.compile(f"\ue0f0{nonce}\\.([0-9]+)\ue0f1")
        if last:
            head, whole = self._render(rows[:-1], given), self._render(rows, given, opening=False)
            return self._joined(whole[len(head) :], pattern, marks, ours) if whole.startswith(head) else None
        text = self._render(rows, given)
        if ours:
            bare = self._render(rows, given, opening=False)
            opening = text[len(bare) :] if text.startswith(bare) else None
            heads = [text.partition(f"\ue0f0{nonce}.{number}\ue0f1")[0] for number in ours]
            if opening is None or not all(head.endswith(opening) for head in heads):
                return None  # replies are sampled behind something that earlier replies do not stand behind (<think>)
        return self._joined(text, pattern, marks, ours)

    def _joined(self, text: str, pattern: re.Pattern[str], marks: list[list[int]], ours: set[int]) -> Prompt | None:
        pieces = pattern.split(text)  # text, number, text, number, ..., text
        numbers = [int(number) for number in pieces[1::2]]
        if any(numbers.count(number) != 1 for number in ours):
            return None
        ids: list[int] = []
        said = ""
        for place, piece in enumerate(pieces):
            if place % 2:
                some = marks[int(piece)]
                ids += some
                said += self._words.decode(some)
                continue
            before = int(pieces[place - 1]) if place else -1
            last = marks[before][-1] if before in ours else None
            if last in self._ends:  # the sampled end mark is the template's own
                piece = piece.removeprefix(self._words.decode([last or 0]))
            ids += self._words.encode(piece) if piece else []
            said += piece
        if ours and self._words.decode(ids) != said:
            return None
        return Prompt(ids)

    def _render(self, rows: list[dict[str, Any]], tools: list[dict[str, Any]] | None, *, opening: bool = True) -> str:
        import jinja2

        try:
            return str(
                self._words.tokenizer.apply_chat_template(
                    rows, tools=tools, tokenize=False, add_generation_prompt=opening
                )
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            raise UserError(f'the chat template of "{self._name}" refuses the messages: {one_line(error)}') from None


def _any_of(tokens: Any) -> re.Pattern[str]:
    """Matches any of the texts, longest first; nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def _row(message: Message) -> dict[str, Any]:
    """A message as templates expect it."""
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        row["reasoning_content"] = message.reasoning
    if message.name is not None:
        row["name"] = message.name
    if message.tool_call_id is not None:
        row["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        row["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _value(call.arguments)}}
            for call in message.tool_calls
        ]
    return row


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _calls(text: str, form: Format) -> tuple[str, list[tuple[str, str]]] | None:
    """Content, and name and arguments of each call; None where there is no call or one of them cannot be read."""
    if form == "hermes":
        content, mark, rest = text.partition("<tool_call>")
        bodies = _HERMES.findall(mark + rest)
        if not mark or _HERMES.sub("", mark + rest).strip():
            return None
    elif form == "mistral":
        content, mark, rest = text.partition("[TOOL_CALLS]")
        bodies = _elements(rest.strip()) if mark else []
    else:
        content, bodies = "", [text.strip().removeprefix("<|python_tag|>").strip()]
    calls = [_call(body) for body in bodies]
    read = [call for call in calls if call is not None]
    return (content, read) if read and len(read) == len(calls) else None


def _elements(text: str) -> list[str]:
    """The source text of each element of a JSON list; empty where it is none."""
    out: list[str] = []
    at = 1
    if not text.startswith("["):
        return out
    while at < len(text):
        at += len(text[at:]) - len(text[at:].lstrip(", \t\r\n"))
        if text[at : at + 1] == "]":
            return out if at == len(text) - 1 else []
        try:
            _, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        out.append(text[at:end])
        at = end
    return []


def _call(body: str) -> tuple[str, str] | None:
    """Name and arguments (as written) of one JSON call."""
    try:
        whole = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(whole, dict) or not isinstance(whole.get("name"), str):
        return None
    key = next((key for key in ("arguments", "parameters") if key in whole), None)
    if key is None:
        return (whole["name"], "{}") if len(whole) == 1 else None
    for found in re.finditer(rf'"{key}"\s*:\s*', body):
        try:
            value, end = _DECODER.raw_decode(body, found.end())
        except ValueError:
            continue
        if value == whole[key]:
            return whole["name"], body[found.end() : end]
    return None
