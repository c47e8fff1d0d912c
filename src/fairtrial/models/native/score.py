"""Scores of continuations by a model of `fairtrial.nn`: trunks once, their states branched, logits where they are read.

Works for every letter: whatever a layer remembers (rows or a matrix) is in the trunk's `State`.
Legend: B batch, T time, D model width, N positions read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fairtrial.models.model import Pair, Score
from fairtrial.models.reading import batch_tokens, pass_tokens, places, write_scores
from fairtrial.models.scoring import Node, Row, Sheet, batches, encode_pairs, plan, rows_of
from fairtrial.nn.call import make_call
from fairtrial.nn.model import Model
from fairtrial.nn.state import State
from fairtrial.nn.tokenizer import Tokenizer

START = ("<|doc|>", "<|endoftext|>")
"""What an empty context is: the first of these that the tokenizer has."""


@torch.inference_mode()
def score_native(
    model: Model, tokenizer: Tokenizer, pairs: Sequence[Pair], *, budget: int = 8192, context: int | None = None
) -> list[Score]:
    """Score every pair: log p(continuation | context), in order.

    Args:
        model: In evaluation mode.
        tokenizer: Its tokenizer. An empty context is the token that documents start with; in front of any other
            context nothing is added.
        pairs: What is scored.
        budget: Most tokens in a pass, padding included.
        context: Most tokens that the model may read; None: no limit.

    Raises:
        UserError: An empty continuation, or a tokenizer that is not the model's.
        ContextTooLongError: A pair is longer than `context`.
    """
    start = next((tokenizer.specials[marker] for marker in START if marker in tokenizer.specials), None)
    encoded = encode_pairs(
        pairs, tokenizer.encode_many, start, context=context, vocab=model.config.vocab, name="native model"
    )
    budget = pass_tokens(budget, model.model.embed_tokens.weight.device)
    sheet = Sheet.of(len(pairs))
    todo: list[tuple[Node, State | None]] = [(plan(rows_of(encoded)), None)]
    while todo:
        node, state = todo.pop()
        for first in range(0, len(node.trunk), budget):
            if state is None:
                state = model.init_state()
            tokens = torch.tensor([node.trunk[first : first + budget]])
            state = hidden_states(model, tokens, state)[1]
        for rows in batches(node.rows, node.end, budget):
            _read(model, rows, node.end, state, sheet)
        todo += [(below, state) for below in node.nodes]
    return sheet.scores(pairs)


def hidden_states(model: Model, tokens_BT: Tensor, state: State | None) -> tuple[Tensor, State | None]:
    """What the output head reads [B, T, D], without applying it, and the state after the tokens."""
    tokens_BT = tokens_BT.to(model.model.embed_tokens.weight.device)
    call = make_call(tokens_BT.shape, None, None if state is None else state.positions)
    x_BTD, after = model.stream(model.model.embed_tokens.weight[tokens_BT], call, state)
    return model.model.norm(x_BTD), after


def _read(model: Model, rows: list[Row], depth: int, state: State | None, sheet: Sheet) -> None:
    """One pass over the rows behind `depth` tokens; every layer is causal, so padding at the right changes nothing."""
    tokens_BT = batch_tokens(rows, depth)
    hidden_BTD, _ = hidden_states(model, tokens_BT, None if state is None else state.branch(len(rows)))
    hidden_ND = hidden_BTD.flatten(0, 1)[places(rows, depth).to(hidden_BTD.device)]
    head = model.model.embed_tokens if model.lm_head is None else model.lm_head
    write_scores(hidden_ND, lambda x: functional.linear(x, head.weight), model.config.vocab, rows, sheet)
