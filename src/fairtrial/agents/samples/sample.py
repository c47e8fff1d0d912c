"""What a sample is: messages, which spans of them are learned and with which weight, and the token ids as sampled.

A sample holds one or more model turns that follow each other in one context (a stretch); everything else in it is
context and has no weight. Spans have kinds, so that folds can be weighted apart from actions (FoldAct, 2512.22733).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from fairtrial.core.config import Config
from fairtrial.core.errors import UserError
from fairtrial.models.model import Message

Kind = Literal["think", "fold", "explain", "act", "answer", "summary"]
"""summary: of a call that was made for a summary; the answer of a reader is an answer."""
Part = Literal["reasoning", "content", "calls"]
"""Of a message. The text of `calls` is `calls_text`."""


class Weights(Config):
    """Loss weights by kind; 0: in the context, not learned. Of all context the weight is 0."""

    think: float = Field(default=1.0, ge=0)
    fold: float = Field(default=1.0, ge=0)
    explain: float = Field(default=1.0, ge=0)
    act: float = Field(default=1.0, ge=0)
    answer: float = Field(default=1.0, ge=0)
    summary: float = Field(default=1.0, ge=0)

    def of(self, kind: Kind) -> float:
        """The weight of a kind."""
        return getattr(self, kind)


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of a model's turn. The segments of a turn partition its text, and its ids where their bytes are known."""

    message: int
    """Index into the sample's messages."""
    part: Part
    kind: Kind
    start: int
    end: int
    """Characters of the part, end excluded."""
    weight: float
    tokens: tuple[int, int] | None = None
    """Of the sample's ids, end excluded; None where there are no ids, or it is not known which text each stands for."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A model's turn in a sample."""

    message: int
    call: int
    """Number of the model call in its run, from 0."""
    tokens: tuple[int, int] | None = None
    """The sampled ids among the sample's ids, end excluded."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of training data."""

    id: str
    run: str
    purpose: Literal["turn", "summary", "reader"]
    messages: tuple[Message, ...]
    """Context and turns, the last one a turn."""
    tools: tuple[dict[str, Any], ...]
    """As the provider got them (native calls); else the tools are told in the system message."""
    turns: tuple[Turn, ...]
    segments: tuple[Segment, ...]
    ids: tuple[int, ...] | None = None
    """Prompt and completion of the last turn, exactly as the model had them; never tokenised again."""
    score: float | None = None

    def text(self, segment: Segment) -> str:
        """The text of a segment."""
        return part_text(self.messages[segment.message], segment.part)[segment.start : segment.end]

    def token_weights(self) -> list[float]:
        """The loss weight of each id. Raises UserError where there are no ids, or their bytes would have to be known.

        Ids are enough without their bytes where all segments of a turn weigh the same.
        """
        if self.ids is None:
            raise UserError(f"sample {self.id} has no token ids: the model of its run gave none")
        weights = [0.0] * len(self.ids)
        for turn in self.turns:
            mine = [segment for segment in self.segments if segment.message == turn.message]
            spans = [(segment.tokens, segment.weight) for segment in mine]
            if any(span is None for span, _ in spans):
                if len({weight for _, weight in spans}) > 1:
                    raise UserError(
                        f"sample {self.id}: its kinds weigh differently, and which ids belong to which is not known; "
                        "name the tokenizer of its model, or give all kinds the same weight"
                    )
                spans = [(turn.tokens, spans[0][1])] if spans else []
            for span, weight in spans:
                assert span is not None
                weights[span[0] : span[1]] = [weight] * (span[1] - span[0])
        return weights

    def to_json(self) -> dict[str, Any]:
        """The row of a file."""
        row: dict[str, Any] = {
            "id": self.id,
            "run": self.run,
            "purpose": self.purpose,
            "messages": [_message_json(message) for message in self.messages],
            "tools": list(self.tools),
            "turns": [_without_none(message=t.message, call=t.call, tokens=t.tokens) for t in self.turns],
            "segments": [
                _without_none(
                    message=s.message, part=s.part, kind=s.kind, start=s.start, end=s.end, weight=s.weight,
                    tokens=s.tokens,
                )
                for s in self.segments
            ],
        }  # fmt: skip
        if self.ids is not None:
            row |= {"ids": list(self.ids), "ids_sha256": ids_hash(self.ids)}
        return row if self.score is None else {**row, "score": self.score}


def sample_of(row: dict[str, Any]) -> Sample:
    """The sample that `to_json` wrote. Raises UserError where the ids are not those that were hashed."""
    ids = row.get("ids")
    if ids is not None and ids_hash(ids) != row["ids_sha256"]:
        raise UserError(f"sample {row['id']}: its ids are not the ones of the rollout (ids_sha256 differs)")
    return Sample(
        id=row["id"],
        run=row["run"],
        purpose=row["purpose"],
        messages=tuple(Message.model_validate(message) for message in row["messages"]),
        tools=tuple(row["tools"]),
        turns=tuple(Turn(t["message"], t["call"], _span(t.get("tokens"))) for t in row["turns"]),
        segments=tuple(Segment(**{**segment, "tokens": _span(segment.get("tokens"))}) for segment in row["segments"]),
        ids=None if ids is None else tuple(ids),
        score=row.get("score"),
    )


def ids_hash(ids: Sequence[int]) -> str:
    """sha256 (hex) of token ids as 64-bit little-endian integers: the same at rollout and in the row."""
    raw = array("q", ids)
    if raw.itemsize == 8 and array("h", [1]).tobytes() != b"\x01\x00":
        raw.byteswap()
    return hashlib.sha256(raw.tobytes()).hexdigest()


def part_text(message: Message, part: Part) -> str:
    """The text of a part of a message."""
    if part == "content":
        return message.content
    return (message.reasoning or "") if part == "reasoning" else calls_text(message)


def calls_text(message: Message) -> str:
    """A message's tool calls as one text: name and arguments, a line each (arguments may have lines of their own)."""
    return "\n".join(f"{call.name}\n{call.arguments}" for call in message.tool_calls)


def _message_json(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": message.content} | message.model_dump(
        mode="json", exclude_defaults=True, exclude={"token_ids", "role", "content"}
    )


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _span(value: Any) -> tuple[int, int] | None:
    return None if value is None else (value[0], value[1])
