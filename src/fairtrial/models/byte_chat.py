"""The scripted model's tokens: one for each byte of UTF-8, and marks from 256 that no text can spell.

A conversation is marks and bytes: `SYSTEM text END`, `USER text END`, `RESULT text END`, and of an assistant
`AGENT [THINK reasoning SAY] text [CALL name newline arguments]... END`. A prompt ends with `AGENT`, so what is sampled
then, in full, is what the next prompt holds at that place: the ids of a turn are a prefix of the next turn's prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from fairtrial.core.errors import UserError
from fairtrial.models.model import Message, ToolCall

TOOLS, SYSTEM, USER, AGENT, RESULT, THINK, SAY, CALL, END = range(256, 265)
VOCABULARY = END + 1

_MARK = {"system": SYSTEM, "user": USER, "assistant": AGENT, "tool": RESULT}


@dataclass(frozen=True, slots=True)
class Turn:
    """What an assistant said, read from ids."""

    text: str = ""
    reasoning: str | None = None
    calls: tuple[tuple[str, str], ...] = ()
    """Name and arguments (JSON text)."""


def conversation_ids(messages: Iterable[Message], tools: Sequence[dict[str, Any]] = ()) -> tuple[int, ...]:
    """The prompt of a conversation; an assistant's own ids are put in as they are. Raises UserError for unknown ids."""
    ids: list[int] = []
    if tools:
        ids += [TOOLS, *orjson.dumps(list(tools)), END]
    for message in messages:
        ids.append(_MARK[message.role])
        if message.role != "assistant":
            ids += message.content.encode("utf-8", "surrogatepass")
        elif message.token_ids is not None:
            ids += check(message.token_ids)
        else:
            calls = tuple((call.name, call.arguments) for call in message.tool_calls)
            ids += turn_ids(Turn(message.content, message.reasoning, calls))
        if ids[-1] != END:
            ids.append(END)
    ids.append(AGENT)
    return tuple(ids)


def turn_ids(turn: Turn) -> list[int]:
    """What the model samples to say `turn`, without the end mark."""
    ids: list[int] = []
    if turn.reasoning is not None:
        ids += [THINK, *encode(turn.reasoning), SAY]
    ids += encode(turn.text)
    for name, arguments in turn.calls:
        ids += [CALL, *encode(f"{name}\n{arguments}")]
    return ids


def read_turn(ids: Iterable[int]) -> Turn:
    """The inverse of `turn_ids`; reads what is there of a turn that was cut off."""
    part, text, reasoning = bytearray(), bytearray(), None
    calls: list[bytearray] = []
    part = text
    for i in ids:
        if i < 256:
            part.append(i)
        elif i == THINK:
            part = reasoning = bytearray()
        elif i == CALL:
            part = bytearray()
            calls.append(part)
        elif i == SAY:
            part = text
    split = [call.decode("utf-8", "replace").partition("\n") for call in calls]
    return Turn(
        text.decode("utf-8", "replace"),
        None if reasoning is None else reasoning.decode("utf-8", "replace"),
        tuple((name, arguments) for name, _, arguments in split),
    )


def read_prompt(ids: Sequence[int]) -> tuple[str, int]:
    """What was said last to the model (by a user or a tool), and how many turns it has had, from a prompt's ids."""
    turns = sum(i == AGENT for i in ids)
    start = max((index + 1 for index, i in enumerate(ids) if i in (USER, RESULT)), default=0)
    end = next((index for index in range(start, len(ids)) if ids[index] >= 256), len(ids))
    return decode(ids[start:end]), max(0, turns - 1)


def next_number(messages: Iterable[Message]) -> int:
    """What to give `calls_of` in a conversation's next turn.

    The turn's number, unless calls that are there have it: turns may have been left out since (rejected, forgotten).
    """
    number = 1
    for message in messages:
        number += message.role == "assistant"
        for call in message.tool_calls:
            if taken := _NUMBERED.fullmatch(call.id):
                number = max(number, int(taken[1]) + 1)
    return number


def calls_of(turn: Turn, number: int) -> tuple[ToolCall, ...]:
    """The turn's calls as a message has them; `number` is in their ids."""
    return tuple(
        ToolCall(id=f"call_{number}_{index}", name=name, arguments=arguments)
        for index, (name, arguments) in enumerate(turn.calls, 1)
    )


def encode(text: str) -> bytes:
    """One id for each byte of UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def decode(ids: Iterable[int]) -> str:
    """The text of ids; marks have none, and a character that was cut off is U+FFFD."""
    return bytes(i for i in ids if i < 256).decode("utf-8", "replace")


def token_bytes(ids: Iterable[int]) -> tuple[bytes, ...]:
    """The bytes of each id; of a mark none."""
    return tuple(_BYTES[i] if i < 256 else b"" for i in ids)


def check(ids: Sequence[int]) -> Sequence[int]:
    """The same ids. Raises UserError where one is not in the vocabulary."""
    if ids and not 0 <= min(ids) <= max(ids) < VOCABULARY:
        wrong = next(i for i in ids if not 0 <= i < VOCABULARY)
        raise UserError(f"token id {wrong} is not in the vocabulary (0 to {VOCABULARY - 1})")
    return ids


_NUMBERED = re.compile(r"call_([0-9]{1,9})_[0-9]+")
_BYTES = tuple(bytes([value]) for value in range(256))
