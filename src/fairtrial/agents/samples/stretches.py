"""From a run to samples: calls that follow each other in one context are one sample, all others one each.

There is one rule for all policies: a call goes on with a sample where its prompt is that sample's prompt and turn, word
for word (and id for id, where there are ids), and something behind. So a run that appends is one sample, a fold gives
one for each step (AgentFold, 2510.24699, section 3.4), a context that was cut or summarised begins a new one, and a
rejected turn, which is in the next prompt and then no more, is a branch of its own. Each call is learned exactly once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from fairtrial.agents.samples.runs import Exchange, Purpose, Run
from fairtrial.agents.samples.sample import Sample, Segment, Turn, Weights
from fairtrial.agents.samples.segmenting import MismatchError, token_spans
from fairtrial.models.model import Message

BytesOf = Callable[[Sequence[int]], Sequence[bytes]]
"""The bytes that each id stands for, of a mark none: what a model's tokenizer knows."""


def samples_of(
    run: Run,
    weights: Weights,
    dropped: Counter[str],
    *,
    purposes: Sequence[Purpose] = ("turn", "summary"),
    repairs: bool = True,
    bytes_of: BytesOf | None = None,
    score: float | None = None,
) -> Iterator[Sample]:
    """The samples of a run, in order.

    Args:
        run: The run.
        weights: By kind.
        dropped: Counts, by reason, the calls of which nothing is learned.
        purposes: Which calls are learned.
        repairs: Whether a turn is learned that was said after one that could not be read.
        bytes_of: Of the model's ids, where the run does not say it.
        score: Of the run.
    """
    for purpose in purposes:
        taken = [_verdict(each, repairs, bytes_of, dropped) for each in run.exchanges if each.purpose == purpose]
        for stretch in _stretches(taken):
            while stretch and stretch[-1].refused is not None:
                stretch.pop()
            if any(exchange.refused is None for exchange in stretch):
                yield _sample(run, stretch, weights, bytes_of, score)


def _verdict(exchange: Exchange, repairs: bool, bytes_of: BytesOf | None, dropped: Counter[str]) -> Exchange:
    """The exchange, refused where it must not be learned."""
    reason = exchange.refused
    if reason is None and exchange.repair and not repairs:
        reason = "repair"
    if reason is None and not exchange.spans:
        reason = "empty"
    if reason is None:
        try:
            _tokens(exchange, bytes_of)
        except MismatchError:
            reason = "ids do not spell the text"
    if reason is None:
        return exchange
    dropped[reason] += 1
    return replace(exchange, refused=reason)


def _tokens(exchange: Exchange, bytes_of: BytesOf | None) -> list[tuple[int, int]] | None:
    """Tokens of each span, counted from the completion's first; None where it is not known."""
    if exchange.prompt_ids is None or exchange.completion_ids is None:
        return None
    pieces = exchange.pieces
    if pieces is None and bytes_of is not None:
        pieces = bytes_of(exchange.completion_ids)
    return None if pieces is None else token_spans(exchange.reply, exchange.spans, pieces)


def _stretches(exchanges: Sequence[Exchange]) -> Iterator[list[Exchange]]:
    stretch: list[Exchange] = []
    for exchange in exchanges:
        if stretch and not goes_on(stretch[-1], exchange):
            yield stretch
            stretch = []
        stretch.append(exchange)
    if stretch:
        yield stretch


def goes_on(before: Exchange, after: Exchange) -> bool:
    """Whether the later call's context is the earlier one's with its turn, and something behind."""
    known = len(before.messages)
    if len(after.messages) <= known or after.tools != before.tools:
        return False
    shown = zip((*before.messages, before.reply), after.messages, strict=False)
    if any(mine is not its and _words(mine) != _words(its) for mine, its in shown):
        return False
    if before.prompt_ids is None or before.completion_ids is None:
        return after.prompt_ids is None or after.completion_ids is None
    if after.prompt_ids is None or after.completion_ids is None:
        return False
    end = len(before.prompt_ids) + len(before.completion_ids)
    return after.prompt_ids[:end] == before.prompt_ids + before.completion_ids


def _words(message: Message) -> tuple[object, ...]:
    """What of a message is text: no ids of calls (servers repeat theirs, prompts number them anew), no tokens."""
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    return message.role, message.content, message.reasoning or None, calls


def _sample(
    run: Run, stretch: Sequence[Exchange], weights: Weights, bytes_of: BytesOf | None, score: float | None
) -> Sample:
    last = stretch[-1]
    ids = None
    if last.prompt_ids is not None and last.completion_ids is not None:
        ids = last.prompt_ids + last.completion_ids
    turns: list[Turn] = []
    segments: list[Segment] = []
    for exchange in stretch:
        at = len(exchange.messages)
        learned = exchange.refused is None
        begin = len(exchange.prompt_ids or ())
        whole = None if ids is None else (begin, begin + len(exchange.completion_ids or ()))
        spans = _tokens(exchange, bytes_of) if learned else None
        turns.append(Turn(at, exchange.call, whole))
        for index, span in enumerate(exchange.spans):
            tokens = None if spans is None else (begin + spans[index][0], begin + spans[index][1])
            weight = weights.of(span.kind) if learned else 0.0
            segments.append(Segment(at, span.part, span.kind, span.start, span.end, weight, tokens))
    messages = (*last.messages, last.reply)
    return Sample(
        id=f"{run.id}/{last.call}",
        run=run.id,
        purpose=last.purpose,
        messages=messages,
        tools=last.tools,
        turns=tuple(turns),
        segments=tuple(segments),
        ids=ids,
        score=score,
    )
