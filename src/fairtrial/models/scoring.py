"""Scoring continuations, whatever the model: tokens of a pair, and a plan that computes every shared prefix once.

Tokenisation is lm-evaluation-harness' (0.4.13): spaces at the context's end move to the continuation, context and whole
are encoded, and the continuation is what the whole has behind as many tokens as the context. Prefixes are shared by
token, never by text: two contexts that begin with the same characters may begin with different tokens.

Legend of the plan: a row is one sequence of input tokens; a reading is one continuation's place in a row; a trunk is a
prefix of several rows that is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from fairtrial.core.errors import UserError
from fairtrial.models.model import ContextTooLongError, Pair, Score

LEAST = 256
"""Tokens that a trunk must save: a pass of its own costs about that much (its call, and copies of its state)."""

Encode = Callable[[Sequence[str]], list[list[int]]]
"""Token ids of many texts."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One pair in tokens."""

    context: tuple[int, ...]
    """At least one token: an empty context is the token that documents start with."""
    continuation: tuple[int, ...]
    """At least one token."""

    @property
    def inputs(self) -> tuple[int, ...]:
        """What the model reads: everything but the last token."""
        return self.context + self.continuation[:-1]


@dataclass(frozen=True, slots=True)
class Reading:
    """A continuation's place in a row."""

    pair: int
    """Index of the pair."""
    first: int
    """Position in the row whose output scores the continuation's first token."""
    targets: tuple[int, ...]


@dataclass(slots=True)
class Row:
    """A sequence of input tokens that is no prefix of another one, with every continuation that can be read off it."""

    ids: tuple[int, ...]
    readings: list[Reading] = field(default_factory=list[Reading])

    @property
    def first(self) -> int:
        """The first position that is read."""
        return min(reading.first for reading in self.readings)


@dataclass(slots=True)
class Node:
    """A trunk: tokens that all rows below it share, from `depth` on."""

    depth: int
    """Tokens before the trunk."""
    trunk: tuple[int, ...]
    """Empty at the root."""
    rows: list[Row] = field(default_factory=list[Row])
    """Rows that continue the trunk by themselves."""
    nodes: list[Node] = field(default_factory=list["Node"])
    """Longer trunks."""

    @property
    def end(self) -> int:
        """Tokens up to the trunk's end."""
        return self.depth + len(self.trunk)

    @property
    def tokens(self) -> int:
        """Tokens that are computed for it and everything below."""
        total, todo = 0, [self]
        while todo:
            node = todo.pop()
            total += len(node.trunk) + sum(len(row.ids) - node.end for row in node.rows)
            todo += node.nodes
        return total


def encode_pairs(
    pairs: Sequence[Pair],
    encode: Encode,
    start: int | None,
    *,
    encode_bare: Encode | None = None,
    context: int | None = None,
    vocab: int | None = None,
    name: str = "model",
) -> list[Encoded]:
    """Tokens of every pair.

    Args:
        pairs: What is scored.
        encode: Ids of whole texts, with what the tokenizer puts in front of a text where it does.
        start: The token that stands for an empty context (start of a document); None: there is none.
        encode_bare: Ids without anything in front; None: `encode`.
        context: Most tokens that the model reads.
        vocab: Ids that the model knows.
        name: The model, for messages.

    Raises:
        UserError: An empty continuation, an empty context without a start token, or ids that the model lacks.
        ContextTooLongError: A pair is longer than the model's context.
    """
    bare = encode_bare or encode
    split = [_split(pair, index) for index, pair in enumerate(pairs)]
    distinct = {text: place for place, text in enumerate(dict.fromkeys(c for c, _ in split if c))}
    contexts = encode(list(distinct)) if distinct else []
    wholes = iter(encode([c + rest for c, rest in split if c]) if distinct else [])
    lonely = [rest for c, rest in split if not c]
    alone = iter(bare(lonely) if lonely else [])
    out: list[Encoded] = []
    for index, (text, rest) in enumerate(split):
        before = contexts[distinct[text]] if text else []
        after = next(wholes)[len(before) :] if text else next(alone)
        if not before:  # an empty context, or one that the tokenizer turns into nothing
            before, after = _from_start(after, start, index)
        if not after:  # the tokenizer merged all of it into the context's last token
            after = bare([rest])[0]
        pair = Encoded(tuple(before), tuple(after))
        if context is not None and len(pair.inputs) > context:
            raise ContextTooLongError(len(pair.inputs) + 1, context, name)
        if vocab is not None and max(max(pair.context), max(pair.continuation)) >= vocab:
            raise UserError(
                f'pairs[{index}]: the tokenizer gives id {max(pair.context + pair.continuation)}, "{name}" has '
                f"{vocab} tokens: give the tokenizer that the model was trained with"
            )
        out.append(pair)
    return out


def _split(pair: Pair, index: int) -> tuple[str, str]:
    """Context without spaces at its end, and the continuation with them."""
    if not pair.continuation:
        raise UserError(f"pairs[{index}].continuation is empty: there is nothing to score; give at least one character")
    text = pair.context.rstrip()
    return text, pair.context[len(text) :] + pair.continuation


def _from_start(after: list[int], start: int | None, index: int) -> tuple[list[int], list[int]]:
    """The start token, and what is scored behind it; a continuation that spells it is not given it twice."""
    if start is None:
        raise UserError(
            f"pairs[{index}].context is empty and the tokenizer has no token that starts a text: give a context"
        )
    return [start], after[1:] if len(after) > 1 and after[0] == start else after


def rows_of(encoded: Sequence[Encoded]) -> list[Row]:
    """One row for every input that is not the beginning of another, in lexicographic order."""
    order = sorted(range(len(encoded)), key=lambda index: encoded[index].inputs)
    rows: list[Row] = []
    for index in reversed(order):  # whatever a row begins with comes right before it in the order
        pair, inputs = encoded[index], encoded[index].inputs
        if not rows or rows[-1].ids[: len(inputs)] != inputs:
            rows.append(Row(inputs))
        rows[-1].readings.append(Reading(index, len(pair.context) - 1, pair.continuation))
    return rows[::-1]


def common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Tokens that both begin with."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(slots=True)
class _Run:
    """Neighbouring rows that are still to be placed below a node."""

    parent: Node
    rows: list[Row]
    shared: list[int]
    """Tokens that a row has in common with the one before it (of the first: 0)."""


def plan(rows: list[Row], least: int | None = LEAST) -> Node:
    """The tree of trunks over rows in lexicographic order.

    A trunk ends before the first position that is read, and saves at least `least` tokens; None: no trunks.
    """
    root = Node(0, ())
    shared = [0, *(common_prefix(a.ids, b.ids) for a, b in pairwise(rows))]
    todo = [_Run(root, rows, shared)] if rows else []
    while todo:
        run = todo.pop()
        if least is None or len(run.rows) == 1:
            run.parent.rows += run.rows
            continue
        parent, end = run.parent, min(*run.shared[1:], *(row.first for row in run.rows))
        if (len(run.rows) - 1) * (end - parent.end) >= least:
            node = Node(parent.end, run.rows[0].ids[parent.end : end])
            parent.nodes.append(node)
            parent = node
        todo += _below(run, parent, end)
    return root


def _below(run: _Run, parent: Node, end: int) -> list[_Run]:
    """The run cut into runs that share more than `end` tokens; rows that are read there hang on the parent."""
    out: list[_Run] = []
    least = 0
    for row, shared in zip(run.rows, run.shared, strict=True):
        least = min(least, shared)
        if row.first <= end:
            parent.rows.append(row)
            continue
        if not out or least <= end:
            out.append(_Run(parent, [row], [0]))
        else:
            out[-1].rows.append(row)
            out[-1].shared.append(least)
        least = len(row.ids)
    return out


def batches(rows: Sequence[Row], depth: int, budget: int) -> list[list[Row]]:
    """Rows by length, longest first, in batches of at most `budget` tokens with padding (one row at least).

    `depth`: tokens of each row that a trunk has computed.
    """
    out: list[list[Row]] = []
    width = 0
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        if not out or (len(out[-1]) + 1) * width > budget:
            out.append([])
            width = len(row.ids) - depth
        out[-1].append(row)
    return out


@dataclass(slots=True)
class Sheet:
    """Where the results of the pairs are written down."""

    logprobs: list[list[float]]
    greedy: list[bool]

    @staticmethod
    def of(count: int) -> Sheet:
        """An empty one."""
        return Sheet([[] for _ in range(count)], [True] * count)

    def write(self, readings: Sequence[Reading], logprobs: Sequence[float], greedy: Sequence[bool]) -> None:
        """Results of the readings' tokens, one reading after the other."""
        first = 0
        for reading in readings:
            end = first + len(reading.targets)
            self.logprobs[reading.pair] = list(logprobs[first:end])
            self.greedy[reading.pair] = all(greedy[first:end])
            first = end

    def scores(self, pairs: Sequence[Pair]) -> list[Score]:
        """In the order of the pairs."""
        return [
            Score(sum(values), tuple(values), len(pair.continuation), len(_utf8(pair.continuation)), greedy)
            for pair, values, greedy in zip(pairs, self.logprobs, self.greedy, strict=True)
        ]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
