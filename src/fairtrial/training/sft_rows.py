"""Samples as rows of token ids with a weight for each: only what the model itself said is learned, by kind of span.

Ids that were sampled are used as they are where they are this model's own (they spell the turns and hold the context);
else the conversation is written in the model's own chat template, each turn as the model would have said it. A sample
of several turns is one row where every turn's prompt, as served, is the beginning of the row; else each turn that is
learned is a row of its own. No torch here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fairtrial.agents.samples.sample import Kind, Sample, Segment
from fairtrial.agents.samples.segmenting import MismatchError, Span, token_spans
from fairtrial.models.model import Message
from fairtrial.training.sft_speakers import Speaker


@dataclass(frozen=True, slots=True)
class Marked:
    """Ids `start` to `end` (excluded) of a row that the model said."""

    start: int
    end: int
    kind: Kind | None
    """None: of several kinds that all weigh the same."""
    weight: float


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence to train on."""

    sample: str
    run: str
    ids: np.ndarray
    """int64 [tokens]."""
    spans: tuple[Marked, ...]
    """In order; everything else is context."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def weights(self) -> np.ndarray:
        """float32 [tokens]: of each id as a target; 0 of all context, and of the first id, which nothing predicts."""
        out = np.zeros(len(self.ids), dtype=np.float32)
        for span in self.spans:
            out[span.start : span.end] = span.weight
        out[:1] = 0
        return out


def rows_of(sample: Sample, speaker: Speaker, refused: Counter[str]) -> list[Row]:
    """The rows of a sample; `refused` counts, by reason, turns that cannot be learned with this model's template."""
    learned = {segment.message for segment in sample.segments if segment.weight}
    if not learned:
        refused["no turn of it is learned"] += 1
        return []
    if (spans := _own_spans(sample, speaker)) is not None:
        assert sample.ids is not None
        return [_row(sample, sample.ids, [span for turn in spans for span in turn])]
    messages = list(sample.messages)
    places = [turn.message for turn in sample.turns]
    replies: dict[int, list[int]] = {}
    for place in places:
        ids = speaker.said([*messages[:place], speaker.shown(messages[place])], sample.tools)
        if ids is None:
            refused["the chat template shows a reply otherwise than behind its opening"] += 1
            return []
        replies[place] = ids
        messages[place] = speaker.shown(messages[place]).model_copy(update={"token_ids": tuple(ids)})
    marked = {place: _marked(sample, place, replies[place], speaker, refused) for place in learned}
    prompts = dict(zip(places, speaker.prompts(messages, sample.tools, places), strict=True))
    whole = prompts[places[-1]] + replies[places[-1]]
    if all(_begins(whole, prompts[place], replies[place]) for place in sorted(learned)):
        spans = [span for place in sorted(learned) for span in _moved(marked[place], len(prompts[place]))]
        return [_row(sample, whole, spans)] if any(span.weight for span in spans) else []
    found: list[Row] = []
    for place in sorted(learned):
        if any(span.weight for span in marked[place]):
            spans = _moved(marked[place], len(prompts[place]))
            found.append(_row(sample, prompts[place] + replies[place], spans))
    return found


def _begins(whole: Sequence[int], prompt: Sequence[int], reply: Sequence[int]) -> bool:
    middle = len(prompt)
    return whole[:middle] == prompt and whole[middle : middle + len(reply)] == reply


def _moved(spans: Iterable[Marked], by: int) -> list[Marked]:
    return [Marked(span.start + by, span.end + by, span.kind, span.weight) for span in spans]


def _row(sample: Sample, ids: Sequence[int], spans: Sequence[Marked]) -> Row:
    """What stands behind the last id that is learned teaches nothing and is left out."""
    last = max((span.end for span in spans if span.weight), default=0)
    kept = tuple(span for span in spans if span.start < last)
    return Row(sample.id, sample.run, np.array(ids[:last], dtype=np.int64), kept)


def _marked(sample: Sample, place: int, ids: Sequence[int], speaker: Speaker, refused: Counter[str]) -> list[Marked]:
    """The spans of a turn in its own ids; none, counted in `refused`, where it is not known which ids are which."""
    mine = [segment for segment in sample.segments if segment.message == place]
    try:
        found = _spans(mine, sample.messages[place], ids, speaker)
    except MismatchError:
        found = None
    if found is None and (found := _whole(mine, len(ids))) is None:
        refused["the chat template changes its text, and its kinds weigh differently"] += 1
    return found or []


def _whole(segments: Sequence[Segment], size: int) -> list[Marked] | None:
    """A turn of `size` ids as one span; None where its kinds weigh differently."""
    weights = {segment.weight for segment in segments}
    return [Marked(0, size, None, weights.pop())] if len(weights) == 1 else None


def _spans(segments: Sequence[Segment], message: Message, ids: Sequence[int], speaker: Speaker) -> list[Marked] | None:
    """The spans of a turn; None where its bytes are no whole text. Raises MismatchError where they are another's."""
    spans = [Span(segment.part, segment.kind, segment.start, segment.end) for segment in segments]
    tokens = token_spans(message, spans, speaker.pieces(ids))
    if tokens is None:
        return None
    pairs = zip(tokens, segments, strict=True)
    return [Marked(a, b, segment.kind, segment.weight) for (a, b), segment in pairs if b > a]


def _own_spans(sample: Sample, speaker: Speaker) -> list[list[Marked]] | None:
    """The spans of a sample's own ids, by turn; None where there are none or they are not this model's."""
    ids = sample.ids
    if ids is None or min(ids) < 0 or max(ids) >= speaker.vocab_size or any(t.tokens is None for t in sample.turns):
        return None
    text = b"".join(speaker.pieces(ids)).decode("utf-8", "replace")
    position = 0
    for message in sample.messages:
        position = text.find(message.content, position)
        if position < 0:
            return None
        position += len(message.content)
    found: list[list[Marked]] = []
    try:
        for turn in sample.turns:
            mine = [segment for segment in sample.segments if segment.message == turn.message]
            if turn.tokens is None or not any(segment.weight for segment in mine):
                continue
            spans = _spans(mine, sample.messages[turn.message], ids[slice(*turn.tokens)], speaker)
            if spans is None and (spans := _whole(mine, turn.tokens[1] - turn.tokens[0])) is None:
                return None
            found.append(_moved(spans, turn.tokens[0]))
    except MismatchError:
        return None
    return found
