"""Which span of a model's turn is what: thinking, fold, explanation, action, answer; as characters, and as tokens.

The spans partition the turn. White space belongs to what stands before it. A token belongs to the span in which its
first byte lies; a mark without bytes (a role, the end) to what follows it, and at the end to what stands before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from fairtrial.agents.context import tags
from fairtrial.agents.samples.sample import Kind, Part, calls_text, part_text
from fairtrial.models.model import Message

_TAGS: dict[str, Kind] = {
    tags.THINK: "think",
    "folding": "fold",
    "compress": "fold",
    "memory": "fold",
    "motivation": "explain",
    "answer": "answer",
}


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (excluded) of a message's part."""

    part: Part
    kind: Kind
    start: int
    end: int


def spans_of(message: Message, *, action: str = "", acts: Kind = "act", rest: Kind = "explain") -> list[Span]:
    """The spans of a turn, in the order in which models say them: reasoning, content, calls.

    Args:
        message: The turn.
        action: The action as the planner read it; "": it is in the calls, or not known.
        acts: What the action is.
        rest: What text is that stands in no tag and is no action. It is the action where no other text is.
    """
    spans: list[Span] = []
    if message.reasoning:
        spans.append(Span("reasoning", "think", 0, len(message.reasoning)))
    found = list(_tagged(message.content))
    if (place := _free(message.content, action, found)) is not None:
        found.append((place, place + len(action), acts))
    elif not message.tool_calls and all(kind != "answer" for _, _, kind in found) and rest == "explain":
        rest = acts
    spans += _filled(message.content, sorted(found), rest)
    if message.tool_calls:
        spans.append(Span("calls", "act", 0, len(calls_text(message))))
    return spans


def _free(text: str, action: str, found: Sequence[tuple[int, int, Kind]]) -> int | None:
    """Where the action stands outside of what was found; a model may think its action before it says it."""
    place = text.find(action) if action else -1
    while place >= 0 and any(start < place + len(action) and place < end for start, end, _ in found):
        place = text.find(action, place + 1)
    return place if place >= 0 else None


def _tagged(text: str) -> Iterator[tuple[int, int, Kind]]:
    return ((part.start, part.end, _TAGS[part.tag]) for part in tags.elements(text) if part.tag in _TAGS)


def _filled(text: str, found: Sequence[tuple[int, int, Kind]], rest: Kind) -> list[Span]:
    """Spans over all of the text: those that were found, and between them the rest."""
    spans: list[Span] = []
    position = 0
    for start, end, kind in [*found, (len(text), len(text), rest)]:
        if text[position:start].strip():
            spans.append(Span("content", rest, position, start))
        elif spans:
            spans[-1] = Span("content", spans[-1].kind, spans[-1].start, start)
        begin = start if spans else 0
        if end > begin:
            spans.append(Span("content", kind, begin, end))
        position = end
    return spans


class MismatchError(ValueError):
    """The ids do not spell the turn."""


def token_spans(message: Message, spans: Sequence[Span], pieces: Sequence[bytes]) -> list[tuple[int, int]] | None:
    """For each span its tokens (end excluded), a partition of all of them; None where the bytes are no whole text.

    `pieces` are the bytes of the sampled ids. Raises MismatchError where they do not spell the message: thinking, text
    and calls in this order, with nothing else but a template's marks around thinking and calls, and a stop text.
    """
    whole = b"".join(pieces)
    starts = _starts(message, whole)
    try:
        whole.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not spans:
        return []
    offsets = [0, *accumulate(len(piece) for piece in pieces)]
    begins: list[int] = []
    for span in spans:
        before = part_text(message, span.part)[: span.start]
        at = starts[span.part] + len(before.encode("utf-8", "surrogatepass"))
        begins.append(_first_token(offsets, at, begins[-1] if begins else 0))
    begins[0] = 0
    return list(pairwise([*begins, len(pieces)]))


def _first_token(offsets: Sequence[int], at: int, low: int) -> int:
    """The first token from `low` on that starts at byte `at` or behind it."""
    high = len(offsets) - 1
    while low < high:
        middle = (low + high) // 2
        if offsets[middle] < at:
            low = middle + 1
        else:
            high = middle
    return low


def _starts(message: Message, whole: bytes) -> dict[Part, int]:
    """The byte at which each part begins. Raises MismatchError."""
    text = whole.decode("utf-8", "replace")
    plain = not message.reasoning and not message.tool_calls
    starts: dict[Part, int] = {}
    position = 0
    for part in ("reasoning", "content"):
        wanted = part_text(message, part)
        last = part == "content" and bool(message.reasoning) and not message.tool_calls
        at = text.rfind(wanted, position) if last else text.find(wanted, position)
        if at < 0 or (plain and text[:at].strip()):
            raise MismatchError(f"the ids spell {_shown(text)}, the message says {_shown(wanted)}")
        starts[part] = len(text[:at].encode())
        position = at + len(wanted)
    starts["calls"] = len(text[:position].encode())
    for call in message.tool_calls:
        at = text.find(call.name, position)
        if at < 0:
            raise MismatchError(f'the ids do not spell the call of "{call.name}"')
        position = at + len(call.name)
    return starts


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
