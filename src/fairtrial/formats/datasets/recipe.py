"""The declarative layer of the data set recipes: what a recipe is made of, and the one way in which it runs.

Source: Agent Data Protocol (arXiv 2510.24702, section 4, appendix B). A recipe says how a raw row's turns become items;
everything that data sets share is here: roles, prefixes, edits of the first message, final answers, closing exchanges.

Two modes. Faithful (`notes.faithful`) reproduces the published standardised form, faults included. Clean, the default:
system prompts stay, tool output comes from the environment, no text is lost, nothing is made up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from fairtrial.core.ids import digest
from fairtrial.core.trajectory import Source
from fairtrial.formats import items
from fairtrial.formats.format import Format, Gather, Notes, Row, RowError, Skip

ROLES: Mapping[str, str] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "ai": "assistant",
    "system": "system",
    "tool": "tool",
}
"""Names of the speakers as data sets write them -> the one name used in recipes."""

CALLS = frozenset({"api_action", "code_action"})

_PRAISE = (
    "That is correct, nothing is left to do.",
    "The result was checked and it holds.",
    "Good, this is what was asked for.",
    "Everything that the task asked for is there.",
    "The outcome is right. Thank you.",
)
_THANKS = (
    "The task is finished.",
    "All steps are done and the goal is reached.",
    "This completes the work.",
    "The request has been carried out.",
    "Nothing more needs doing here.",
)


class Unfit(Exception):  # noqa: N818 - not an error of the program
    """Raised while a row is built: the data set's rules leave this row out; `args[0]` is the reason (counted by it)."""


class Draft:
    """A row being built from one raw value: its items so far, and the shorthands for adding to them."""

    __slots__ = ("content", "extra", "faithful", "id", "notes")

    def __init__(self, id: str, notes: Notes) -> None:
        self.id = id
        self.notes = notes
        self.faithful = notes.faithful
        self.content: list[items.Item] = []
        self.extra: Row = {}
        """Further fields of the row: reward, tools, details (merged with the recipe's)."""

    def thought(self, text: str | None) -> str | None:
        """A thought as the mode writes it: as it came, or without the space around it and None where it is empty."""
        return text if self.faithful or text is None else text.strip() or None

    def saw(self, content: str, source: Source, published: Source | None = None, **rest: Any) -> None:
        """Text that the agent saw; `published` is the source under which the published form has it, where other."""
        self.content.append(items.text(content, published if self.faithful and published else source, **rest))

    def said(self, content: str, thought: str | None = None, **rest: Any) -> None:
        """Text addressed to the user."""
        self.content.append(items.message(content, self.thought(thought), **rest))

    def ran(self, language: str, content: str, thought: str | None = None, **rest: Any) -> None:
        """Code that was executed."""
        self.content.append(items.code(language, content, self.thought(thought), **rest))

    def called(
        self,
        function: str,
        kwargs: Mapping[str, Any],
        thought: str | None = None,
        quote: str | None = '"',
        **rest: Any,
    ) -> None:
        """A tool call; the published form prints its string arguments between `quote` (None: as values)."""
        item = items.api(function, kwargs, self.thought(thought), **rest)
        if self.faithful and quote is not None:
            printed = {name: f"{quote}{value}{quote}" for name, value in kwargs.items() if isinstance(value, str)}
            if printed:
                item["extra"] = {"adp-v1": {"printed": printed}}
        self.content.append(item)

    def markup(self, *texts: str) -> None:
        """Characters of the raw row that only mark its parts (labels, fences, tags)."""
        for text in texts:
            if text and not text.isspace():
                self.notes.drop("markup", text)

    def syntax(self, text: str) -> None:
        """A call as the raw row writes it: the row has it as function and arguments."""
        self.notes.rewrite("call syntax", text)

    def lost(self, text: str) -> None:
        """Text that the published form loses; only for faithful mode."""
        if text and not text.isspace():
            self.notes.drop("lost by the published form", text)

    def solution(self, answer: str, thought: str | None = None) -> None:
        """A proposed answer: `<solution> ... </solution>`."""
        self.notes.invent("answer convention", "<solution></solution>")
        self.said(f"<solution> {answer} </solution>", thought)

    def conclude(self) -> None:
        """Wrap the last message as the final answer: `<finish> ... </finish>`; anything else stays as it is."""
        last = self.content[-1] if self.content else {"class_": ""}
        if last["class_"] == "message_action" and not last["content"].startswith(("<finish>", "<function=")):
            self.notes.invent("final answer convention", "<finish></finish>")
            last["content"] = f"<finish> {last['content']} </finish>"

    def close(self, quiet: bool = False) -> None:
        """Append the closing exchange, in our words, chosen by the row's id; `quiet`: its sentence is the thought."""
        choice = int(digest(self.id.encode())[:8], 16)
        praise, thanks = _PRAISE[choice % len(_PRAISE)], _THANKS[choice // len(_PRAISE) % len(_THANKS)]
        self.notes.invent("closing exchange", praise)
        self.notes.invent("closing exchange", thanks)
        self.content.append(items.text(praise, "user", synthetic=True))
        content, thought = ("<finish> </finish>", thanks) if quiet else (f"<finish> {thanks} </finish>", "")
        self.content.append(items.message(content, thought, synthetic=True))


@dataclass(frozen=True, slots=True)
class Edit:
    """One fixed change of a message: the first place where `old` stands becomes `new`."""

    old: str | re.Pattern[str]
    new: str = ""
    mode: Literal["both", "faithful", "clean"] = "both"

    def apply(self, text: str, notes: Notes) -> str:
        """The changed text, with the change noted; the text itself where `old` does not occur."""
        if self.mode != "both" and (self.mode == "faithful") != notes.faithful:
            return text
        if isinstance(self.old, str):
            start = text.find(self.old)
            end = start + len(self.old)
        else:
            found = self.old.search(text)
            start, end = found.span() if found else (-1, -1)
        if start < 0:
            return text
        if gone := text[start:end]:
            (notes.rewrite if self.new else notes.drop)("instructions for the raw form", gone)
        if self.new:
            notes.invent("instructions for the raw form", self.new)
        return text[:start] + self.new + text[end:]


def append(text: str, mode: Literal["both", "faithful", "clean"] = "both") -> Edit:
    """The change that adds `text` at the end."""
    return Edit(re.compile(r"\Z"), text, mode)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The start of a user turn that tells where its text comes from; it is taken off."""

    text: str
    source: Source = "environment"
    published: Source | None = None
    """The source under which the published form has such turns, where it is another."""


@dataclass(frozen=True, slots=True)
class Chat:
    """Builds rows that are conversations: system, user and assistant turns in a list."""

    assistant: Callable[[str, Draft], None]
    """Adds the items of one assistant turn. Several actions are marked as one response."""
    field: str = "conversations"
    first: tuple[Edit, ...] = ()
    """Changes of the first user turn."""
    every: tuple[Edit, ...] = ()
    """Changes of every user turn."""
    prefixes: tuple[Prefix, ...] = ()
    published: Source = "user"
    """The source under which the published form has user turns without a prefix."""
    later: Source | None = None
    """Who speaks in later user turns without a prefix; None: the environment right after a call, else the user."""
    calls: Callable[[Any, Draft], None] | None = None
    """Adds the items of an assistant turn that has `tool_calls` (the whole raw turn is given)."""

    def turns(self, value: Any) -> list[Any]:
        """The raw turns; a list as JSON text is understood."""
        raw = value[self.field]
        if isinstance(raw, str):
            try:
                raw = orjson.loads(raw)
            except ValueError:
                raise RowError(f"{self.field} is text but no JSON") from None
        return raw

    def __call__(self, value: Any, draft: Draft) -> None:
        """Add the conversation's items to the draft."""
        opened = called = False
        for entry in self.turns(value):
            role, text = turn(entry)
            if role == "assistant":
                called = self._responded(entry, text, draft)
            elif role == "system":
                if draft.faithful:
                    draft.notes.drop("system prompt", text)
                elif text:
                    draft.saw(text, "system")
            elif role == "tool":
                call_id = entry.get("tool_call_id") or next(iter(entry.get("tool_call_ids") or ()), None)
                rest = {} if draft.faithful else {"name": entry.get("name"), "call_id": call_id}
                self._heard(text, draft, "environment", rest)
                called = False
            else:
                if not opened:
                    for edit in self.first:
                        text = edit.apply(text, draft.notes)
                # what follows a response with a call is the call's output
                heard: Source = "environment" if called else "user"
                source = (self.later or heard) if opened else heard
                self._heard(text, draft, source, {}, self.published)
                opened, called = True, False

    def _responded(self, entry: Any, text: str, draft: Draft) -> bool:
        """Add one response; whether it contains a call."""
        start = len(draft.content)
        if self.calls is not None and entry.get("tool_calls"):
            self.calls(entry, draft)
        else:
            self.assistant(text, draft)
        response = draft.content[start:]
        for item in response[1:]:
            item["joined"] = True
        if not draft.faithful and (entry.get("mask") is False or entry.get("loss") is False):
            # the source trains on the other turns only (its examples stand in the prompt)
            for item in response:
                item["loss"] = False
        return any(item["class_"] in CALLS for item in response)

    def _heard(
        self, text: str, draft: Draft, source: Source, rest: Mapping[str, Any], published: Source | None = None
    ) -> None:
        for edit in self.every:
            text = edit.apply(text, draft.notes)
        for prefix in self.prefixes:
            if text.startswith(prefix.text):
                draft.markup(prefix.text)
                text, source, published = text[len(prefix.text) :], prefix.source, prefix.published
                break
        draft.saw(text, source, published, **rest)


def turn(entry: Any) -> tuple[str, str]:
    """Role and text of one turn: `{role, content}`, `{from, value}` or `{role, text}`. Raises RowError."""
    role = entry.get("role") or entry["from"]
    known = ROLES.get(role)
    if known is None:
        raise RowError(f"a turn by {str(role)[:40]!r}; expected one of {', '.join(ROLES)}")
    content = entry.get("content")
    if content is None:
        content = entry.get("value")
    if content is None:
        content = entry.get("text")
    if content is None:
        content = entry.get("system_prompt")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    if content is None:
        content = ""
    if not isinstance(content, str):
        raise RowError(f"the text of a turn by {known} is no text but {type(content).__name__}")
    return known, content


@dataclass(frozen=True, slots=True)
class Recipe:
    """One data set: how its raw rows become trajectories. `format` makes the entry point of it."""

    name: str
    title: str
    likes: Callable[[Any], int]
    """How surely a raw value is of this data set, 0 to 100; may raise on odd shapes (that counts as 0)."""
    build: Callable[[Any, Draft], None]
    """Adds a raw value's items to the draft. Raises Unfit where the data set's rules leave it out."""
    id: Callable[[Any, Notes], str] = lambda value, notes: str(value["id"])
    solved: str = ""
    """The field that tells whether the run succeeded: rows where it does not are left out, the others rewarded 1."""
    skip: Callable[[Any], str | None] = lambda value: None
    """The reason to leave a raw value out before it is built, or None."""
    used: frozenset[str] = frozenset()
    """Fields of the raw value that `id` and `build` take; clean mode keeps all others as `details`."""
    published: tuple[str, ...] = ()
    """Fields of the raw value that the published form keeps as `details`."""
    ending: Literal["never", "after a call", "always"] = "after a call"
    """When the published form appends a closing exchange; where none is, a last message becomes the final answer."""
    quiet: bool = False
    """Whether the closing message is empty and its sentence the thought."""
    finish: Callable[[Draft], None] = lambda draft: None
    """Last checks and changes, before the closing exchange. Raises Unfit."""
    tools: tuple[Mapping[str, Any], ...] = ()
    offered: bool = True
    """Whether the tools are called by the agent (else from within its code): only then a row lists them."""
    gather: Gather | None = None

    def decode(self, value: Any, notes: Notes) -> Row | Skip:
        """A raw value as a row, or why it is left out."""
        id = self.id(value, notes)
        if self.solved and value[self.solved] not in (True, 1, "true", "True"):
            return Skip(f"not {self.solved}")
        reason = self.skip(value)
        if reason is not None:
            return Skip(reason)
        draft = Draft(id, notes)
        try:
            self.build(value, draft)
            self.finish(draft)
        except Unfit as unfit:
            return Skip(unfit.args[0])
        self._conclude(draft)
        row: Row = {"id": draft.id, "content": draft.content}
        if self.tools and self.offered and not notes.faithful:
            row["tools"] = list(self.tools)
        if self.solved and not notes.faithful:
            row["reward"] = 1.0
        details = self._details(value, notes)
        details.update(draft.extra.pop("details", {}))
        if details:
            row["details"] = details
        row.update(draft.extra)
        return row

    def _conclude(self, draft: Draft) -> None:
        last = draft.content[-1] if draft.content else {"class_": ""}
        wanted = self.ending == "always" or (self.ending == "after a call" and last["class_"] in CALLS)
        if wanted and (draft.faithful or draft.notes.endings):
            draft.close(self.quiet)
        else:
            draft.conclude()

    def _details(self, value: Any, notes: Notes) -> dict[str, Any]:
        if not notes.faithful:
            return {name: field for name, field in value.items() if name not in self.used and field is not None}
        for name, field in value.items():
            if name not in self.used and name not in self.published and field is not None:
                text = field if isinstance(field, str) else orjson.dumps(field).decode()
                notes.drop("field left out by the published form", text)
        return {name: _as_text(value[name]) for name in self.published if name in value}

    def sure(self, value: Any) -> int:
        """`likes`, which never raises."""
        try:
            return self.likes(value)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError):
            return 0

    def format(self) -> Format:
        """The recipe as a format."""
        return Format(
            name=self.name,
            title=self.title,
            likes=self.sure,
            decode=self.decode,
            gather=self.gather,
            kind="dataset",
            tools=self.tools,
        )

    def but(self, **changes: Any) -> Recipe:
        """The same recipe with some fields changed: the next split of a family."""
        return replace(self, **changes)


def _as_text(field: Any) -> str:
    # the published form's details are text
    return json.dumps(field, indent=2) if isinstance(field, dict | list) else str(field)


def numbered(field: str, suffixed: re.Pattern[str] | None = None) -> Callable[[Any, Notes], str]:
    """An `id`: the value of `field` with `_k`, k counting its repeats from 0; as it is where `suffixed` is found."""

    def id(value: Any, notes: Notes) -> str:
        base = str(value[field])
        return base if suffixed and suffixed.search(base) else f"{base}_{notes.repeat(base) - 1}"

    return id


def opens_with(*marks: str, field: str = "conversations") -> Callable[[Any], int]:
    """A `likes`: the first user turn in `field` starts with one of `marks`, and no training file added a prompt."""

    def likes(value: Any) -> int:
        if "system" in value:
            return 0
        for entry in value[field]:
            role, text = turn(entry)
            if role == "user":
                return 92 if text.startswith(marks) else 0
        return 0

    return likes


def bound(tool: Mapping[str, Any], values: Sequence[Any]) -> dict[str, Any]:
    """Positional arguments by parameter name. Raises Unfit where they do not fit the tool's parameters."""
    function = tool["function"]
    names = list(function["parameters"]["properties"])
    if len(values) > len(names) or len(values) < len(function["parameters"].get("required", ())):
        raise Unfit("a call whose arguments do not fit the tool")
    return dict(zip(names, values, strict=False))
